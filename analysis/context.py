"""What every table is made from: the groups, what was asked for, and the resampled averages, each computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis import reference
from analysis.collect import Collection
from analysis.groups import Group
from analysis.items import Answers, Resampled
from analysis.tables import Cell, Row, Table

TASKS = {"xnli": "XNLI", "marc": "MARC", "own": "own task"}


@dataclass
class Context:
    """groups of a collection; split: the only one that is shown, None for all; paper: whether to print it beside."""

    collection: Collection
    groups: list[Group]
    split: str | None = None
    paper: bool = False
    draws: int = 10_000
    answers: dict[tuple[str, str], Answers] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The kinds of task that there are students for, in the paper's order."""
        there = {group.task for group in self.groups if group.role != "teacher"}
        return [task for task in TASKS if task in there]

    def splits(self, task: str) -> list[str]:
        """The splits of a task that were measured, of those asked for: test first."""
        there = {
            split for group in self.groups if group.task == task for run in group.runs for split in run.result.accuracy
        }
        return [split for split in ("test", "dev") if split in there and self.split in (None, split)]

    def backbones(self, task: str) -> list[str]:
        """Of a task's students: mBERT, XLM-R, then others by name."""
        there = {group.backbone for group in self.groups if group.task == task and group.role != "teacher"}
        order = {"mbert": 0, "xlmr": 1}
        return sorted(there, key=lambda name: (order.get(reference.backbone_key(name), 2), name))

    def find(self, task: str, backbone: str, system: str, sweep: str = "") -> Group | None:
        """The group that speaks for a system: K = 4 of several depths, runs of a grid or of a depth sweep last.

        sweep: of this one before all others, so that systems which it trained alike are compared.
        """
        there = [g for g in self.groups if (g.task, g.backbone, g.system) == (task, backbone, system)]

        def rank(group: Group) -> tuple[bool, int, bool, int, int]:
            aside = ("grid", "depth").index(group.experiment) + 1 if group.experiment in ("grid", "depth") else 0
            off = group.branch_depth not in (0, reference.BRANCH_DEPTH)
            return bool(sweep) and group.experiment != sweep, aside, off, -len(group.runs), group.branch_depth

        return min(there, key=rank, default=None)

    def resampled(self, task: str, split: str, metric: str, groups: Sequence[Group]) -> Resampled:
        """The averages of groups with their intervals. Each run's answers are read once, whoever asks."""
        answers = self.answers.setdefault((task, split), Answers())
        return Resampled(groups, split, metric, self.draws, self.collection.problems, answers)


def block_name(backbone: str) -> str:
    """The heading of a backbone's rows."""
    return f"{reference.backbone_name(reference.backbone_key(backbone))}-based model"


def depth_note(group: Group) -> list[str]:
    """Says K where it is not the paper's."""
    if group.branch_depth in (0, reference.BRANCH_DEPTH):
        return []
    return [f"{block_name(group.backbone)}, {group.system}: K = {group.branch_depth}"]


def systems_table(groups: Sequence[Group]) -> Table:
    """Which runs speak for each system, and how they were chosen."""
    rows = []
    for group in groups:
        chosen = ", ".join(f"{name}={value}" for name, value in group.values.items()) or "–"
        seeds = " ".join(map(str, group.seeds))
        texts = [TASKS[group.task], str(group.branch_depth), seeds, str(len(group.runs)), chosen, group.how]
        rows.append(Row(group.system, [Cell(None, text) for text in texts], block_name(group.backbone)))
    columns = ["task", "K", "seeds", "runs", "chosen", "how"]
    return Table("systems", "Systems, and the runs that their scores are means over", columns, rows)
