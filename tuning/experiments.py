"""The paper's experiments and the systems that each compares. Protocols add search and seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mbkd import config as configuration
from mbkd.config import Config, paper
from mbkd.errors import UserError
from tuning import grids

# full: every configuration with every seed, as in the paper. confirm: every configuration with one seed, then the best
# one with the other seeds. fixed: the configuration's own values with all seeds. search: as confirm, with values that
# Optuna proposes.
Protocol = Literal["full", "confirm", "fixed", "search"]


@dataclass(frozen=True)
class System:
    """A row of a table: a configuration that takes values and a seed.

    language, index: the language of a teacher and its index among that language's teachers; None, 0 for a student.
    """

    full: Config
    language: str | None = None
    index: int = 0

    def given(self, values: dict[str, Any], seed: int) -> Config:
        """Return the configuration with values by dotted field. Raises UserError for invalid values."""
        return grids.with_values(self.full, values | {"seed": seed})

    def run(self, values: dict[str, Any], seed: int) -> Config:
        """Return the run with values and a seed. A teacher's seed is 1 (decision 20). Raises UserError."""
        config = self.given(values, seed)
        return config if self.language is None else config.teacher_run(self.language, self.index)


@dataclass(frozen=True)
class Experiment:
    """An experiment: its systems, derived from MultiKD + MBLM, and its default protocol.

    bases:    names of the paper's settings
    searched: the fields of the paper's grid
    values:   the paper's overrides for an experiment without a search
    """

    systems: Callable[[Config, list[int]], list[System]]
    bases: tuple[str, ...]
    protocol: Protocol
    searched: tuple[str, str] = ("train.lr", "train.epochs")
    values: tuple[str, ...] = ()


def main(full: Config, _: list[int]) -> list[System]:
    """Tables 3, 4, 7, 8."""
    return [System(paper.system(full, name)) for name in paper.SYSTEMS]


def ablations(full: Config, _: list[int]) -> list[System]:
    """Table 5. The row `(single)` is measured later, on the runs without mixers."""
    rows = [paper.system(full, "multikd"), full, *(paper.ablation(full, name) for name in paper.ABLATIONS)]
    return [System(config) for config in rows]


def efficiency(full: Config, _: list[int]) -> list[System]:
    """Table 6. Ens2 is computed from the saved logits of Single."""
    return [System(paper.system(full, "multikd")), System(full)]


def depth(full: Config, depths: list[int]) -> list[System]:
    """Fig 5: hard labels, one system per branch depth."""
    labels = configuration.changed(full, {"distill": paper.HARD_LABELS})
    return [System(configuration.changed(labels, {"student": {"branch_depth": k}})) for k in depths]


def teachers(full: Config, _: list[int]) -> list[System]:
    """Table 2: every teacher that the configuration fine-tunes, on its own language."""
    wanted = [
        System(full, language, index)
        for language in full.languages
        for index, teacher in enumerate(full.teachers.get(language, ()))
        if not teacher.fine_tuned
    ]
    if not wanted:
        raise UserError("teachers: the configuration names no teacher to fine-tune (teachers.<language>.model)")
    return wanted


def grid(full: Config, _: list[int]) -> list[System]:
    """The user's own configuration, unchanged."""
    return [System(full)]


EXPERIMENTS = {
    "main": Experiment(main, ("xnli-mbert", "xnli-xlmr", "marc-mbert", "marc-xlmr"), "full"),
    "ablations": Experiment(ablations, ("xnli-mbert",), "full"),
    "efficiency": Experiment(efficiency, ("xnli-mbert",), "full"),
    "depth": Experiment(depth, ("xnli-mbert",), "fixed", values=("train.lr=1e-5", "train.epochs=3")),
    "teachers": Experiment(teachers, ("xnli-mbert", "marc-mbert"), "full", ("teaching.lr", "teaching.epochs")),
    "grid": Experiment(grid, (), "full"),
}
GRID: tuple[list[float], list[int]] = ([1e-5, 2e-5, 3e-5], [2, 3, 5, 7, 10])  # the paper's


def base(
    name: str, overrides: list[str], experiment: Experiment, teachers: Path | None = None
) -> tuple[Config, dict[str, list[Any]]]:
    """Read a setting of the paper (xnli-mbert, ...) or a YAML file; return the configuration and its lists.

    Teacher logits are cached unless the file or an override sets another signal, because many runs share the teachers.
    teachers: a YAML file whose `teachers` are used instead. Raises UserError.
    """
    settings = {f"{task}-{backbone}": (task, backbone) for task in paper.TASKS for backbone in paper.BACKBONES}
    if name in settings and not Path(name).exists():
        task, backbone = settings[name]
        values = paper.base(paper.TASKS[task](), paper.BACKBONES[backbone]).model_dump(mode="json")
        del values["distill"]["signal"]
        overrides = [*experiment.values, *overrides]
    elif Path(name).is_file() or name.endswith((".yaml", ".yml")):
        values = configuration.read_values(name)
    else:
        raise UserError(f"{name}: neither a file nor one of the paper's settings ({', '.join(settings)})")
    if teachers is not None:
        if not teachers.is_file():
            there = ", ".join(map(str, sorted(teachers.parent.glob("teachers-*.yaml")))) or "none there"
            raise UserError(f"--teachers {teachers}: no such file; files of the teachers experiment: {there}")
        values["teachers"] = configuration.read_values(teachers).get("teachers")
        if not values["teachers"]:
            raise UserError(f"--teachers {teachers}: the file has no section `teachers`")
    values = configuration.override(values, overrides)
    distill = values.get("distill") or {}
    if isinstance(distill, dict) and not distill.get("hidden"):  # hidden states are not cached
        values["distill"] = {"signal": "cache"} | distill
    values, lists = grids.split(values)
    return configuration.parse(values, name), lists
