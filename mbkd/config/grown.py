"""One more language for a trained model, as a configuration: what `mbkd grow` writes, and what has to hold.

The model's side of it is mbkd/model/grow.py. A grown run is a run like any other: its `student.backbone` is the trained
model's folder, and `student.grow` names the language.
"""

import json
from pathlib import Path
from typing import Any

from mbkd.config import Config, Task
from mbkd.errors import UserError

STRUCTURE = ("branch_depth", "branch_position", "mixers", "heads", "inference", "detach", "idle_dropout")


def structure(folder: str) -> dict[str, Any]:
    """What config.json says of a trained model with branches. Raises UserError for any other folder."""
    try:
        found: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not the folder of a trained model ({error})") from None
    if found.get("model_type") != "mblm" or not found["branch_depth"]:
        raise UserError(f"{folder}: this model has no branches (student.branch_depth), so none can be added")
    if found.get("branch_rank"):
        raise UserError(f"{folder}: its branches are of low rank (student.branch_rank), so none can be added")
    return found


def overrides(folder: Path, values: dict[str, Any], language: str) -> list[str]:
    """What turns a configuration's values into the run that adds a branch for a language to a model's folder.

    The language becomes a supervised one. It learns from the teachers that the configuration names for it, if any, else
    from labels. Raises UserError for a model without branches, or a language that the task does not have.
    """
    model = structure(str(folder))
    task = values.get("task") or {}
    supervised, zero_shot = (list(task.get(x, Task.model_fields[x].default)) for x in ("supervised", "zero_shot"))
    if language not in supervised + zero_shot:
        there = ", ".join(map(str, supervised + zero_shot)) or "none"
        raise UserError(f"--language {language}: the task has no such language (task.zero_shot); there are {there}")
    if language not in supervised:
        supervised.append(language)
    found: dict[str, Any] = {
        "task.supervised": supervised,
        "task.zero_shot": [x for x in zero_shot if x != language],
        "student.backbone": str(folder),
        "student.grow": language,
        "student.head": "linear",
        "student.branch_rank": 0,
        **{f"student.{field}": model[field] for field in STRUCTURE},
        "distill.languages": [],
    }
    temperatures = (values.get("distill") or {}).get("temperatures") or {}
    found["distill.temperatures"] = {x: value for x, value in temperatures.items() if x == language}
    if language not in (values.get("teachers") or {}):
        found |= {"distill.signal": "labels", "distill.hidden": []}
    return [f"{field}={json.dumps(value, ensure_ascii=False)}" for field, value in found.items()]


def check(config: Config, labels: tuple[str, ...]) -> None:
    """Raise UserError where a grown run does not fit the model that it starts from."""
    folder, language = config.student.backbone, config.student.grow
    model = structure(folder)
    branches = model["branch_languages"]
    if language in branches:
        raise UserError(f"{folder}: there is a branch for {language!r} already ({', '.join(branches)})")
    names = tuple(model["id2label"][str(i)] for i in range(len(model["id2label"])))
    if names != labels:
        raise UserError(f"{folder}: its labels are {', '.join(names)}, the task has, in order, {', '.join(labels)}")
    if config.train.max_length != model["mixer_length"]:
        raise UserError(
            f"train.max_length = {config.train.max_length}: {folder} was trained with {model['mixer_length']}; set that"
        )
    for field in STRUCTURE:
        if getattr(config.student, field) != model[field]:
            raise UserError(f"student.{field} = {getattr(config.student, field)!r}: {folder} has {model[field]!r}")
