"""Whether the hub can be reached, asked once: its client would try five times for every file, half a minute each."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 5.0  # seconds


def if_unreachable(models: Iterable[str]) -> None:
    """Turn the hub's client to its cache where one of the models is a hub id and the hub does not answer.

    To be called before huggingface_hub is imported, which reads its environment then.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or all(Path(model).is_dir() for model in models):
        return
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError:
        pass  # an answer
    except OSError as error:
        if not isinstance(getattr(error, "reason", error), ssl.SSLError):  # the client has certificates of its own
            os.environ["HF_HUB_OFFLINE"] = "1"
