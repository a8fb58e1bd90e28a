"""Inputs shared by all tables: groups, options, and resampled averages, each computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis import reference
from analysis.collect import Collection
from analysis.groups import ASIDE, Group
from analysis.items import Answers, Resampled
from analysis.tables import Cell, Row, Table

TASKS = {"xnli": "XNLI", "marc": "MARC", "own": "own task"}


@dataclass
class Context:
    """The inputs of the tables.

    groups: of the collection. split: the only split to show; None for all. paper: also print the paper's numbers.
    draws: of the bootstrap. answers: cache of the runs' answers, by task and split.
    """

    collection: Collection
    groups: list[Group]
    split: str | None = None
    paper: bool = False
    draws: int = 10_000
    answers: dict[tuple[str, str], Answers] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Kinds of task that have students, in the paper's order."""
        there = {group.task for group in self.groups if group.role != "teacher"}
        return [task for task in TASKS if task in there]

    def splits(self, task: str) -> list[str]:
        """Measured splits of a task, restricted to the requested split; test first."""
        there = {
            split for group in self.groups if group.task == task for run in group.runs for split in run.result.accuracy
        }
        return [split for split in ("test", "dev") if split in there and self.split in (None, split)]

    def backbones(self, task: str) -> list[str]:
        """Backbones of a task's students: mBERT, XLM-R, then others by name."""
        there = {group.backbone for group in self.groups if group.task == task and group.role != "teacher"}
        order = {"mbert": 0, "xlmr": 1}
        return sorted(there, key=lambda name: (order.get(reference.backbone_key(name), 2), name))

    def find(self, task: str, backbone: str, system: str, sweep: str = "main") -> Group | None:
        """Group of a system, preferring K = 4 over other depths, and grid and depth-sweep runs last.

        sweep: name of the sweep whose groups take precedence, so that compared systems share their training.
        """
        there = [g for g in self.groups if (g.task, g.backbone, g.system) == (task, backbone, system)]

        def rank(group: Group) -> tuple[bool, int, bool, int, int, int]:
            aside = ASIDE.index(group.experiment) + 1 if group.experiment in ASIDE else 0
            off = group.branch_depth not in (0, reference.BRANCH_DEPTH)
            return group.experiment != sweep, aside, off, group.record, -len(group.runs), group.branch_depth

        return min(there, key=rank, default=None)

    def resampled(self, task: str, split: str, metric: str, groups: Sequence[Group]) -> Resampled:
        """Averages of groups with intervals. Each run's answers are read once and cached."""
        answers = self.answers.setdefault((task, split), Answers())
        return Resampled(groups, split, metric, self.draws, self.collection.problems, answers)


def block_name(backbone: str) -> str:
    """The heading of a backbone's rows."""
    return f"{reference.backbone_name(reference.backbone_key(backbone))}-based model"


def depth_note(group: Group) -> list[str]:
    """Note with K if K differs from the paper's."""
    if group.branch_depth in (0, reference.BRANCH_DEPTH):
        return []
    return [f"{block_name(group.backbone)}, {group.system}: K = {group.branch_depth}"]


def systems_table(groups: Sequence[Group]) -> Table:
    """Runs behind each system's scores, and how they were chosen."""
    rows = []
    for group in groups:
        chosen = ", ".join(f"{name}={value}" for name, value in group.values.items()) or "–"
        seeds = " ".join(map(str, group.seeds))
        texts = [TASKS[group.task], str(group.branch_depth), seeds, str(len(group.runs)), chosen, group.how]
        rows.append(Row(group.system, [Cell(None, text) for text in texts], block_name(group.backbone)))
    columns = ["task", "K", "seeds", "runs", "chosen", "how"]
    return Table("systems", "Systems and the runs behind their mean scores", columns, rows)
