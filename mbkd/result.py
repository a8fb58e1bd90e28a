"""What a run, an ensemble or an evaluation measured: the content of result.json."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mbkd.errors import UserError
from mbkd.files import write_json

FILE = "result.json"
Metric = Literal["accuracy", "mae"]
Scores = dict[str, dict[str, float]]  # split -> language -> score
Averages = dict[str, dict[str, float | None]]  # split -> S, Z, A -> mean; None where a language was not measured
ALWAYS = ("branches",)  # written also where there is none: a script that reads many runs asks for it
TUPLES = ("supervised", "zero_shot", "labels", "trained", "branches", "members", "seeds")


@dataclass(frozen=True)
class Result:
    """Scores, and what they are of. docs/run-directory.md describes each field.

    accuracy is 0 to 1, mae in classes and empty unless labels are ordinal. An ensemble has `seeds` and `members`, all
    others a `seed`. made_from: what made the result, by a name that a person reads ("train rows of fr", "teacher zh",
    "backbone") -> its hash.
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
    before: dict[str, Any] | None = None  # a grown model's scores before it grew

    @classmethod
    def read(cls, run: Path) -> "Result":
        """The result in a run's directory. Raises UserError if there is none, or the file is not one of mbkd's."""
        try:
            values = json.loads((run / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{run}: no finished run here ({error})") from None
        return cls.parse(values, str(run / FILE))

    @classmethod
    def parse(cls, values: Any, where: str) -> "Result":
        """The result that a JSON object holds, also one of an earlier version. Raises UserError."""
        needed = [x.name for x in fields(cls) if x.default is MISSING and x.default_factory is MISSING]
        missing = [name for name in needed if not isinstance(values, dict) or name not in values]
        if missing:
            raise UserError(f"{where}: not a result of mbkd (no {', '.join(missing)})")
        known = {x.name: values[x.name] for x in fields(cls) if x.name in values}
        known |= {name: tuple(known[name]) for name in TUPLES if name in known}
        known.setdefault("made_from", _earlier(values.get("fingerprints") or {}))
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON has them, without those that say nothing about this kind of result."""
        found = {}
        for each in fields(self):
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            if (value := getattr(self, each.name)) != default or each.name in ALWAYS:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    def write(self, run: Path) -> None:
        """Write result.json, whole or not at all; its presence means finished."""
        write_json(run / FILE, self.as_json())

    def scores(self, split: str, metric: Metric = "accuracy") -> dict[str, float]:
        """Language -> score of a split; empty where the split was not measured."""
        return (self.accuracy if metric == "accuracy" else self.mae).get(split, {})

    def means(self, split: str, metric: Metric = "accuracy") -> dict[str, float | None]:
        """S, Z, A -> mean score of a split; empty where the split was not measured."""
        return (self.averages if metric == "accuracy" else self.mae_averages).get(split, {})

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The run's seed; of an ensemble the seeds of its members."""
        return self.seeds or (() if self.seed is None else (self.seed,))


def _earlier(fingerprints: dict[str, dict[str, str]]) -> dict[str, str]:
    """`made_from` of a run that was finished before there was one: it noted tokens instead of rows."""
    names = {"train": "train tokens of", "teachers": "teacher"}
    found = {f"{name} {x}": value for kind, name in names.items() for x, value in fingerprints.get(kind, {}).items()}
    grown = fingerprints.get("grown from", {})
    return found | ({"backbone": grown["model"]} if "model" in grown else {})
