"""Progress bars of other libraries, which are disabled without a terminal: a file would get a line per update."""

import os
import sys

SWITCHES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")


def no_bars_in_files() -> None:
    """Disable the bars of huggingface_hub, datasets and tqdm if standard error is not a terminal.

    Call this function before importing the libraries, because they read the environment on import. Variables that the
    user has set are kept.
    """
    if not sys.stderr.isatty():
        for name in SWITCHES:
            os.environ.setdefault(name, "1")
