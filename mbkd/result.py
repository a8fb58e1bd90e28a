"""The content of result.json: the scores of a run, an ensemble or an evaluation."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mbkd.errors import UserError
from mbkd.files import write_json

FILE = "result.json"
Metric = Literal["accuracy", "mae"]
Scores = dict[str, dict[str, float]]  # split -> language -> score
Averages = dict[str, dict[str, float | None]]  # split -> S, Z, A -> mean; None if a language was not measured
ALWAYS = ("branches",)  # written even if empty, because scripts that read many runs expect the field
TUPLES = ("supervised", "zero_shot", "labels", "trained", "branches", "members", "seeds")


@dataclass(frozen=True)
class Result:
    """Scores of a model or an ensemble, and their origin. docs/run-directory.md describes each field.

    accuracy is 0 to 1. mae is in classes, and empty unless the labels are ordinal. An ensemble has `seeds` and
    `members`; other results have a `seed`. made_from maps the readable name of each input ("train rows of fr",
    "teacher zh", "backbone") to its hash.
    """

    system: str
    role: str
    task: str
    backbone: str
    supervised: tuple[str, ...]
    zero_shot: tuple[str, ...]
    accuracy: Scores
    averages: Averages
    mae: Scores
    mae_averages: Averages
    seed: int | None = None
    hash: str = ""
    labels: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    branch_depth: int | None = None  # of an ensemble's members
    members: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    teacher_accuracy: dict[str, list[float | None]] = field(default_factory=dict)
    parameters: int = 0
    steps: int = 0
    steps_per_language: dict[str, int] = field(default_factory=dict)
    train_seconds: float = 0.0
    step_seconds: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> language -> rows
    made_from: dict[str, str] = field(default_factory=dict)
    trained_as: str = ""
    folded_from: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)
    at_chance: bool = False  # the dev accuracy in the trained languages is no better than the most frequent class
    before: dict[str, Any] | None = None  # a grown model's scores before growing

    @classmethod
    def read(cls, run: Path) -> "Result":
        """Read the result of a run directory. Raises UserError if it is missing or not written by mbkd."""
        try:
            values = json.loads((run / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{run}: no finished run here ({error})") from None
        return cls.parse(values, str(run / FILE))

    @classmethod
    def parse(cls, values: Any, where: str) -> "Result":
        """Convert a JSON object of this or an earlier version to a result. Raises UserError."""
        needed = [x.name for x in fields(cls) if x.default is MISSING and x.default_factory is MISSING]
        missing = [name for name in needed if not isinstance(values, dict) or name not in values]
        if missing:
            raise UserError(f"{where}: not a result of mbkd (no {', '.join(missing)})")
        known = {x.name: values[x.name] for x in fields(cls) if x.name in values}
        known |= {name: tuple(known[name]) for name in TUPLES if name in known}
        known.setdefault("made_from", _earlier(values.get("fingerprints") or {}))
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, without fields at their default."""
        found = {}
        for each in fields(self):
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            if (value := getattr(self, each.name)) != default or each.name in ALWAYS:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    def write(self, run: Path) -> None:
        """Write result.json atomically. The file marks the run as finished."""
        write_json(run / FILE, self.as_json())

    def scores(self, split: str, metric: Metric = "accuracy") -> dict[str, float]:
        """Return language -> score of a split; empty if the split was not measured."""
        return (self.accuracy if metric == "accuracy" else self.mae).get(split, {})

    def means(self, split: str, metric: Metric = "accuracy") -> dict[str, float | None]:
        """Return S, Z, A -> mean score of a split; empty if the split was not measured."""
        return (self.averages if metric == "accuracy" else self.mae_averages).get(split, {})

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The run's seed, or the seeds of an ensemble's members."""
        return self.seeds or (() if self.seed is None else (self.seed,))


def temperatures(found: dict[str, Any]) -> str:
    """Return the temperatures of a result's `calibration` in words."""
    own = list(found.get("temperatures", {}).values())
    by_language = f", by language {min(own):.3g} to {max(own):.3g}" if own else ""
    return f"temperature {found['temperature']:.3g}{by_language}"


def _earlier(fingerprints: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return `made_from` for an older result, which has hashes of tokens instead of rows."""
    names = {"train": "train tokens of", "teachers": "teacher"}
    found = {f"{name} {x}": value for kind, name in names.items() for x, value in fingerprints.get(kind, {}).items()}
    grown = fingerprints.get("grown from", {})
    return found | ({"backbone": grown["model"]} if "model" in grown else {})
