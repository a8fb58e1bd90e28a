"""A check whether the hub is reachable. Its client would retry each file for minutes."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 5.0  # seconds


def if_unreachable(models: Iterable[str]) -> None:
    """Set the hub's client to offline mode if a model is a hub id and the hub does not answer.

    Call this before importing huggingface_hub, which reads the environment at import.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or all(Path(model).is_dir() for model in models):
        return
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError:
        pass  # the hub answered
    except OSError as error:
        if not isinstance(
            getattr(error, "reason", error), ssl.SSLError
        ):  # the hub's client may trust other certificates
            os.environ["HF_HUB_OFFLINE"] = "1"
