"""Tables 3, 4, 7 and 8, and the same table for a user's task: every system in every language."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from analysis import reference
from analysis.bootstrap import Estimate
from analysis.claims import NOT_WORSE, Claim, compare, decide
from analysis.context import TASKS, Context, block_name, depth_note
from analysis.groups import Group
from analysis.items import AVERAGES as NAMES
from analysis.items import Resampled
from analysis.scores import AVERAGES, gaps, scores
from analysis.tables import Cell, Row, Table, embolden, empty
from mbkd.result import Metric

SYSTEMS = ("MonoKD", "MultiTrain", "MultiKD", "MultiKD + MBLM")
PAPER = {
    ("xnli", "test", "accuracy"): "table-3",
    ("marc", "test", "accuracy"): "table-4",
    ("xnli", "dev", "accuracy"): "table-7",
    ("marc", "test", "mae"): "table-8",
}
METRICS: dict[Metric, str] = {"accuracy": "accuracy x100", "mae": "mean absolute error x100, lower is better"}


def main_tables(context: Context) -> tuple[list[Table], list[Claim]]:
    """Main tables with their intervals and the paper's numbers, and the claims about the tables."""
    tables: list[Table] = []
    claims: list[Claim] = []
    for task in context.tasks:
        for split in context.splits(task):
            for metric in METRICS:
                groups = [group for group in _groups(context, task) if scores(group, split, metric)]
                if groups:
                    resampled = context.resampled(task, split, metric, groups)
                    table = main_table(context, task, split, metric, groups)
                    tables += [table, intervals(table, groups, resampled)]
                    if context.paper and (beside := reference.comparison(table, AVERAGES)):
                        tables.append(beside)
                    if metric == "accuracy":
                        claims += _claims(context, table.key, task, resampled)
    return tables, claims


def main_table(context: Context, task: str, split: str, metric: Metric, groups: Sequence[Group]) -> Table:
    """A table in the paper's layout: a row per system, a block per backbone, languages, averages, number of runs."""
    key = PAPER.get((task, split, metric), f"{task}-{split}{'-mae' if metric == 'mae' else ''}")
    first = groups[0].runs[0]
    supervised, zero_shot = first.result.supervised, first.result.zero_shot
    columns = [*first.languages, *(name for name in AVERAGES if zero_shot or name != "AVG(Z)")]
    rows, notes = [], []
    for group in groups:
        found = scores(group, split, metric)
        printed = reference.printed(key, group.runs[0], columns) if context.paper else {}
        cells = [
            reference.beside(found[column].cell(), printed.get(column)) if column in found else empty()
            for column in columns
        ]
        rows.append(Row(group.system, cells, block_name(group.backbone)))
        notes += [*depth_note(group), *gaps(group, split, metric)]
    rows = embolden(rows, lowest=metric == "mae")
    runs = [Cell(len(group.runs), str(len(group.runs))) for group in groups]
    rows = [Row(row.label, [*row.cells, n], row.block) for row, n in zip(rows, runs, strict=True)]
    notes = list(dict.fromkeys([*notes, *_missing(context, task, groups)]))
    number = key.replace("table-", "Table ") + ": " if key.startswith("table") else ""
    spans = [("Supervised", len(supervised)), *([("Zero-shot", len(zero_shot))] if zero_shot else [])]
    return Table(key, f"{number}{TASKS[task]} {split}, {METRICS[metric]}", [*columns, "runs"], rows, notes, spans)


def intervals(table: Table, groups: Sequence[Group], resampled: Resampled, pairs: bool = True) -> Table:
    """95 % interval of each average, and of each difference between two systems of a block."""
    names = resampled.names or NAMES
    rows = []
    for backbone in dict.fromkeys(group.backbone for group in groups):
        mine = [group for group in groups if group.backbone == backbone]
        for group in mine:
            cells = [_interval(resampled.average(group, name), "") for name in names]
            rows.append(Row(group.system, cells, block_name(backbone)))
        for right, left in combinations(mine, 2) if pairs else ():
            cells = [_interval(resampled.difference(left, right, name), "+") for name in names]
            rows.append(Row(f"{left.system} − {right.system}", cells, block_name(backbone)))
    columns = [f"AVG({name})" for name in names]
    return Table(f"{table.key}-intervals", f"{table.title}: 95 % intervals", columns, rows, resampled.notes)


def _interval(found: Estimate | None, sign: str) -> Cell:
    if found is None:
        return empty()
    return Cell(found.value, f"{found.value:{sign}.2f}", interval=(found.low, found.high))


def _groups(context: Context, task: str) -> Iterator[Group]:
    """Rows of a table: the paper's systems in order, then the user's other systems. Ablations have Table 5."""
    others = sorted({group.system for group in context.groups if group.task == task and group.role == "student"})
    others = [name for name in others if name not in SYSTEMS and not name.startswith("MultiKD + MBLM ")]
    for backbone in context.backbones(task):
        for system in (*SYSTEMS, *others):
            if group := context.find(task, backbone, system):
                yield group


def _missing(context: Context, task: str, groups: Sequence[Group]) -> list[str]:
    """The paper's and the user's systems that have no score for a backbone, in words."""
    found = []
    for backbone in context.backbones(task):
        there = {group.system for group in groups if group.backbone == backbone}
        wanted = {group.system for group in _groups(context, task) if group.backbone == backbone}
        names = [system for system in (*SYSTEMS, *sorted(wanted - {*SYSTEMS})) if system not in there]
        names = [system for system in names if task != "own" or system in wanted]
        if names:
            found.append(f"{block_name(backbone)}: not measured: {', '.join(names)}")
    return found


def _claims(context: Context, key: str, task: str, resampled: Resampled) -> list[Claim]:
    """The paper's claims about the main tables, for each backbone."""
    found = []
    for backbone in context.backbones(task):
        train, kd, mblm = (context.find(task, backbone, system) for system in SYSTEMS[1:])
        block = block_name(backbone)
        found.append(compare(key, block, resampled, kd, train, "S", "MultiKD > MultiTrain on AVG(S)"))
        if "Z" in resampled.names:
            found.append(compare(key, block, resampled, mblm, kd, "Z", "MBLM > MultiKD on AVG(Z)"))
        not_worse = "MBLM not worse than MultiKD on AVG(S)"
        found.append(compare(key, block, resampled, mblm, kd, "S", not_worse, -NOT_WORSE))
    return decide(found)
