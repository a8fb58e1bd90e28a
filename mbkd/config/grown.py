"""The configuration with which `mbkd grow` adds a language to a trained model, and its checks.

mbkd/model/grow.py grows the model. In the configuration, `student.backbone` is the trained model's folder, and
`student.grow` names the new language. Otherwise a grown run is an ordinary run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbkd.config import Config, Task
from mbkd.errors import UserError

STRUCTURE = ("branch_depth", "branch_rank", "branch_position", "mixers", "heads", "inference", "detach", "idle_dropout")


def structure(folder: str) -> dict[str, Any]:
    """Return the config.json of a trained model with branches. Raises UserError for any other folder."""
    try:
        found: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not the folder of a trained model ({error})") from None
    if found.get("model_type") != "mblm" or not found["branch_depth"]:
        raise UserError(
            f"{folder}: the model has no branches (student.branch_depth); only a model with branches can grow"
        )
    found.setdefault("branch_rank", 0)  # models of an earlier version have none
    return found


def overrides(folder: Path, values: dict[str, Any], language: str) -> list[str]:
    """Return the overrides that make a configuration add a language's branch to the model in a folder.

    values: the nested values of the configuration. The language becomes a supervised language. It learns from its
    teachers in the configuration, or from labels if the configuration names no teacher for it.
    Raises UserError for a model without branches, a language that the task does not have, or values of wrong types.
    """
    model = structure(str(folder))
    supervised, zero_shot = _languages(values)
    if language not in supervised + zero_shot:
        there = ", ".join(map(str, supervised + zero_shot)) or "none"
        raise UserError(
            f"--language {language}: not a language of the task (task.zero_shot); its languages are {there}"
        )
    found: dict[str, Any] = {
        **_moved(supervised, zero_shot, [language]),
        "student.backbone": str(folder),
        "student.grow": language,
        "student.head": "linear",
        **{f"student.{field}": model[field] for field in STRUCTURE},
        "distill.languages": [],
    }
    temperatures = _mapping(_mapping(values, "distill"), "temperatures")
    found["distill.temperatures"] = {x: value for x, value in temperatures.items() if x == language}
    if language not in _mapping(values, "teachers"):
        found |= {"distill.signal": "labels", "distill.hidden": []}
    return _written(found)


def overrides_to_teach(values: dict[str, Any]) -> list[str]:
    """Return the overrides for `mbkd teach`: zero-shot languages with a teacher become supervised.

    values: the nested values of the configuration, not validated. `mbkd grow` accepts such a configuration too.
    Raises UserError for values of wrong types.
    """
    (supervised, zero_shot), teachers = _languages(values), _mapping(values, "teachers")
    moved = [x for x in zero_shot if x in teachers]
    found = _moved(supervised, zero_shot, moved) if moved else {}
    if moved and (languages := _mapping(values, "distill").get("languages")):
        found["distill.languages"] = [*languages, *moved]
    return _written(found)


def _mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of values that are not validated. Raises UserError for another type."""
    found = values.get(name)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{name} = {found!r}: must be a mapping")
    return found or {}


def _languages(values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the supervised and the zero-shot languages of values that are not validated. Raises UserError."""
    task = _mapping(values, "task")
    found = {x: task.get(x, Task.model_fields[x].default) for x in ("supervised", "zero_shot")}
    for name, languages in found.items():
        if not isinstance(languages, (list, tuple)) or not all(isinstance(x, str) for x in languages):
            raise UserError(f"task.{name} = {languages!r}: must be a list of languages, such as [en, fr]")
    return list(found["supervised"]), list(found["zero_shot"])


def _moved(supervised: Sequence[str], zero_shot: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
    """Return the task's fields with these languages supervised."""
    return {
        "task.supervised": [*supervised, *(x for x in languages if x not in supervised)],
        "task.zero_shot": [x for x in zero_shot if x not in languages],
    }


def _written(fields: dict[str, Any]) -> list[str]:
    return [f"{field}={json.dumps(value, ensure_ascii=False)}" for field, value in fields.items()]


def check(config: Config, labels: tuple[str, ...]) -> None:
    """Raise UserError if a grown run does not match its trained model."""
    folder, language = config.student.backbone, config.student.grow
    model = structure(folder)
    branches = model["branch_languages"]
    if language in branches:
        raise UserError(
            f"{folder}: the model already has a branch for {language!r} ({', '.join(branches)}); name another language"
        )
    names = tuple(model["id2label"][str(i)] for i in range(len(model["id2label"])))
    if names != labels:
        raise UserError(
            f"{folder}: the task's labels must be {', '.join(names)}, in this order, not {', '.join(labels)}"
        )
    if config.train.max_length != model["mixer_length"]:
        raise UserError(
            f"train.max_length = {config.train.max_length}: {folder} was trained with {model['mixer_length']}; "
            "set this value"
        )
    for field in STRUCTURE:
        if getattr(config.student, field) != model[field]:
            raise UserError(
                f"student.{field} = {getattr(config.student, field)!r}: {folder} was trained with {model[field]!r}; "
                "set this value"
            )
