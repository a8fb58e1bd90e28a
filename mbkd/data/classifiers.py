"""Facts of a saved classifier without loading it: the hash of its weights, its labels and layers."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mbkd.data import hub
from mbkd.data.readers import one_line
from mbkd.errors import UserError, patiently
from mbkd.files import digest


def fingerprint(path: str, store: Path) -> str:
    """Return the hash of a classifier's weights and configuration, or the revision of a hub id.

    store: keeps hashes of large files until the files change. Raises UserError if the path has no model.
    """
    folder = Path(path)
    if not folder.is_dir():
        configuration(path)  # raises UserError if the path is not a model
        return f"{path}@{hub.model_revision(path)}"
    weights, config = [*folder.glob("*.safetensors"), *folder.glob("*.bin")], [*folder.glob("config.json")]
    if not weights or not config:
        missing = "weights (*.safetensors or *.bin)" if config else "config.json"
        raise UserError(f"{path}: no model here: no {missing}; name a folder with both, or a hub id")
    files = sorted(weights + config)
    lines = "".join(f"{file.name} {digest(file, store)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def cached_revision(path: str) -> str | None:
    """Return the `fingerprint` of a hub id from earlier answers or the hub's cache, or None."""
    if Path(path).is_dir():
        return None
    if (known := hub.once(f"model {path}")) is not None:
        return f"{path}@{known}"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(path, "config.json")
    except HFValidationError:  # a path of a missing folder
        return None
    return f"{path}@{Path(file).parent.name}" if isinstance(file, str) else None


def layers(path: str) -> int | None:
    """Return the number of layers in a model's configuration, or None. Raises UserError if the path has no model."""
    values = configuration(path)
    found: int | None = values.get("num_hidden_layers", values.get("n_layers"))  # n_layers in DistilBERT
    return found


def configuration(path: str) -> dict[str, Any]:
    """Return the values in config.json of a folder or hub id. Raises UserError if the file is missing."""
    try:
        if (folder := Path(path)).is_dir():  # without transformers, whose import takes three seconds
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        else:
            from transformers import AutoConfig

            where = hub.pinned(path)
            values = patiently(lambda: AutoConfig.from_pretrained(path, **where)).to_dict()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no model here ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: no model here (config.json is not a JSON object)")
    return values


def label_order(id2label: dict[int, str], labels: tuple[str, ...], where: str) -> list[int]:
    """Return the positions of `labels` in a classifier's output. Labels match by name, never by position.

    Case is ignored unless names differ in case only. where: the classifier's folder or hub id, for the message.
    Raises UserError if the names differ.
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
        else "some labels differ only in case, or are equal"
    )
    raise UserError(
        f"{where}: the model's labels are {', '.join(names.values())}, the task's are {', '.join(labels)} ({what}); "
        "set id2label in the model's config.json to the task's names"
    )
