"""The hash in a run's name, over a configuration's non-default values.

A new field with a default therefore renames no run.
"""

import hashlib
import json
from typing import Any

# Increase when a default or the meaning of a value changes, because equal configurations are then different runs.
SCHEMA = 2

# All fields of the first schema. Its hash covers default values and unused teachers, too.
FIRST: dict[str, set[str]] = {
    "task": {"kind", "path", "files", "columns", "labels", "ordinal", "supervised", "zero_shot", "limit"},
    "columns": {"text", "text_pair", "label", "language", "id"},
    "student": {
        "backbone", "branch_depth", "branch_position", "mixers", "heads", "inference", "detach", "idle_dropout", "head",
        "grow",
    },
    "train": {
        "lr", "epochs", "batch_size", "accumulation", "max_length", "warmup", "weight_decay", "clip", "eps", "draw",
        "draw_alpha", "group_by_length", "idle_branches", "zero_stage", "precision",
    },
    "distill": {
        "signal", "placement", "temperature", "temperatures", "tau_squared", "hard_label_weight", "hidden",
        "hidden_weight", "allow_chance_teachers", "languages",
    },
}  # fmt: skip


def digest(values: dict[str, Any]) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 hash of nested values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def hashed_values(values: dict[str, Any], languages: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of a configuration to hash: non-default values, without unused teachers.

    values:    the configuration without its defaults
    languages: the languages that the run learns from teachers
    """
    rest = {name: value for name, value in values.items() if name not in ("teachers", "teaching")}
    if teachers := {x: values["teachers"][x] for x in languages}:
        rest["teachers"] = teachers
        several = [each for x in teachers.values() for each in (x if isinstance(x, (list, tuple)) else [x])]
        if "teaching" in values and not all(each.get("fine_tuned") for each in several):
            rest["teaching"] = values["teaching"]
    return {"schema": SCHEMA, **rest}


def first(values: dict[str, Any], differing: dict[str, Any]) -> dict[str, Any] | None:
    """Return the values hashed by the first schema, or None if a field is set that the schema lacks.

    values:    the whole configuration
    differing: the configuration without its defaults
    """
    labels = values["distill"]["signal"] == "labels"
    found = {name: values[name] for name in ("role", "seed")}
    sections = {"task": "task", "student": "student", "train": "train", "distill": "distill"}
    sections |= {} if labels else {"teaching": "train"}
    for name, kind in sections.items():
        if set(differing.get(name, ())) - FIRST[kind]:
            return None
        found[name] = {field: value for field, value in values[name].items() if field in FIRST[kind]}
    found["distill"].setdefault("placement", "device")
    if set(differing["task"].get("columns", ())) - FIRST["columns"]:
        return None
    columns = values["task"]["columns"]
    found["task"]["columns"] = {field: value for field, value in columns.items() if field in FIRST["columns"]}
    return found if labels else found | {"teachers": values["teachers"]}
