"""Progress bars of other libraries, which write a line over and over: not into files."""

import os
import sys

SWITCHES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")


def no_bars_in_files() -> None:
    """Turn the bars of huggingface_hub, datasets and tqdm off where standard error is no terminal.

    The libraries read the environment when they are imported, so this comes before them. What a user set stays.
    """
    if not sys.stderr.isatty():
        for name in SWITCHES:
            os.environ.setdefault(name, "1")
