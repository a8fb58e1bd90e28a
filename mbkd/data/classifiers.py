"""What a model's folder says of itself without being loaded: the hash of its weights, its labels, its layers."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mbkd.data import hub
from mbkd.data.readers import one_line
from mbkd.errors import UserError, patiently
from mbkd.files import digest


def fingerprint(path: str, store: Path) -> str:
    """The hash of a classifier's weights and configuration; for a hub id, the revision that would be loaded.

    store: where hashes of large files are kept until the file changes. Raises UserError where there is no model.
    """
    folder = Path(path)
    if not folder.is_dir():
        configuration(path)  # refuses what is no model
        return f"{path}@{hub.model_revision(path)}"
    weights, config = [*folder.glob("*.safetensors"), *folder.glob("*.bin")], [*folder.glob("config.json")]
    if not weights or not config:
        missing = "weights (*.safetensors or *.bin)" if config else "config.json"
        raise UserError(f"{path}: no model here, there is no {missing}; name a folder with both, or a hub id")
    files = sorted(weights + config)
    lines = "".join(f"{file.name} {digest(file, store)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def cached_revision(path: str) -> str | None:
    """What `fingerprint` gives for a hub id that was asked for before, or is in the cache here; None otherwise."""
    if Path(path).is_dir():
        return None
    if (known := hub.once(f"model {path}")) is not None:
        return f"{path}@{known}"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(path, "config.json")
    except HFValidationError:  # a folder that is not there
        return None
    return f"{path}@{Path(file).parent.name}" if isinstance(file, str) else None


def layers(path: str) -> int | None:
    """The number of layers that a model's configuration gives, None if it gives none. Raises UserError for no model."""
    values = configuration(path)
    found: int | None = values.get("num_hidden_layers", values.get("n_layers"))  # DistilBERT says n_layers
    return found


def configuration(path: str) -> dict[str, Any]:
    """The values in config.json of the model at a folder or hub id. Raises UserError if there is none."""
    try:
        if (folder := Path(path)).is_dir():  # read as it is: transformers takes three seconds to import
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        else:
            from transformers import AutoConfig

            where = hub.pinned(path)
            values = patiently(lambda: AutoConfig.from_pretrained(path, **where)).to_dict()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no model here ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: no model here (config.json holds no object)")
    return values


def label_order(id2label: dict[int, str], labels: tuple[str, ...], where: str) -> list[int]:
    """Positions of `labels` in a classifier's output: matched by name, never by position. Raises UserError.

    Case counts only where names differ in nothing else. where: the classifier's folder or hub id, for the message.
    """
    names = {index: str(name) for index, name in id2label.items()}
    for spelt in (str, str.lower):
        position = {spelt(name): index for index, name in names.items()}
        wanted = [spelt(label) for label in labels]
        if len(position) == len(names) and sorted(position) == sorted(wanted):
            return [position[label] for label in wanted]
    one_sided = sorted({name.lower() for name in names.values()} ^ {label.lower() for label in labels})
    what = (
        f"only one side has {', '.join(map(repr, one_sided))}"
        if one_sided
        else "some differ in case only, or not at all"
    )
    raise UserError(
        f"{where}: the model's labels are {', '.join(names.values())}, the task's are {', '.join(labels)} ({what}); "
        "set id2label in the model's config.json to the task's names"
    )
