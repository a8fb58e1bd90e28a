"""Tables 1 and 2: the rows of the data, and the teachers' accuracy in their languages."""

import statistics
from pathlib import Path

from analysis import reference
from analysis.collect import Run
from analysis.context import TASKS, Context
from analysis.groups import Group
from analysis.scores import Score, score
from analysis.tables import Cell, Row, Table, empty

# The paper's teachers by the folder of their checkpoints.
TEACHERS = {
    "roberta-large": "RoBERTa",
    "camembert-large": "CamemBERT",
    "chinese-roberta-wwm-ext-large": "RoBERTa-wwm-ext",
}


def data_tables(context: Context) -> list[Table]:
    """Table 1, and Table 2 if there are teacher runs, with the paper's numbers on request."""
    tables = [statistics_table(context)]
    if any(group.role == "teacher" for group in context.groups):
        table = teachers_table(context)
        beside = reference.comparison(table, table.columns) if context.paper else None
        tables += [table, *([beside] if beside else [])]
    return tables


def statistics_table(context: Context) -> Table:
    """Table 1: languages, labels, and rows per language in each split."""
    rows = []
    for task in context.tasks:
        first = next(g.runs[0] for g in context.groups if g.task == task and g.role == "student")
        printed = reference.tables()["table-1"].get(TASKS[task], {}) if context.paper else {}
        counts = [(len(first.languages), "languages"), (len(first.result.labels), "labels")]
        cells = [reference.beside(Cell(n, f"{n:,}"), printed.get(name)) for n, name in counts]
        for split in ("train", "dev", "test"):
            cells.append(reference.beside(_rows(first, split), printed.get(split)))
        rows.append(Row(TASKS[task], cells))
    columns = ["#Language", "#Labels", "#Train", "#Dev", "#Test"]
    return Table("table-1", "Table 1: rows of each language", columns, rows)


def _rows(run: Run, split: str) -> Cell:
    """Rows per language; `least to most` if they differ."""
    counts = list(run.result.rows.get(split, {}).values())
    if not counts:
        return empty()
    low, high = min(counts), max(counts)
    return Cell(low, f"{low:,}") if low == high else Cell(statistics.mean(counts), f"{low:,} to {high:,}")


def teachers_table(context: Context) -> Table:
    """Table 2: each teacher's accuracy in its language, on test if measured, and their mean."""
    groups = [group for group in context.groups if group.role == "teacher"]
    tasks = [task for task in TASKS if any(group.task == task for group in groups)]
    languages = list(dict.fromkeys(x for run in context.collection.runs for x in run.result.supervised))
    found: dict[tuple[int, str], dict[str, Score]] = {}
    best: dict[tuple[str, str], tuple[float, float]] = {}  # by task and language: dev mean and shown mean
    notes = []
    for task in tasks:
        split = _split(context, [g for g in groups if g.task == task])
        notes.append(f"{TASKS[task]}: {split} split.")
        for group in groups:
            language = group.runs[0].result.supervised[0]
            values = [x for run in group.runs if (x := run.scores(split).get(language)) is not None]
            if group.task == task and values:
                name = Path(group.backbone).name
                key = languages.index(language), f"({language}) {TEACHERS.get(name, name)}"
                if task in found.setdefault(key, {}):  # of a less preferred sweep
                    continue
                shown = found[key][task] = score(values)
                # Dev chooses between teachers of a language, because the shown split can be test.
                dev = [x for run in group.runs if (x := run.scores("dev").get(language)) is not None]
                here = statistics.fmean(dev) if dev else -1.0, shown.mean
                best[task, language] = max(best.get((task, language), here), here, key=lambda each: each[0])
    rows = []
    for (_, label), each in sorted(found.items()):
        printed = reference.tables()["table-2"].get(label, {}) if context.paper else {}
        cells = [reference.beside(each[x].cell(), printed.get(TASKS[x])) if x in each else empty() for x in tasks]
        rows.append(Row(label, cells))
    rows.append(Row("Average", [_average(context, found, best, task) for task in tasks]))
    title = "Table 2: teachers in their own languages, accuracy x100"
    return Table("table-2", title, [TASKS[task] for task in tasks], rows, notes)


def _split(context: Context, groups: list[Group]) -> str:
    """The requested split; else test if all teachers of a task were measured on test, else dev."""
    everywhere = all("test" in run.result.accuracy for group in groups for run in group.runs)
    return context.split or ("test" if everywhere else "dev")


def _average(
    context: Context,
    found: dict[tuple[int, str], dict[str, Score]],
    chosen: dict[tuple[str, str], tuple[float, float]],
    task: str,
) -> Cell:
    """Mean over languages of the teacher with the best dev score; empty if a supervised language has no teacher."""
    best = [mean for (which, _), (_, mean) in chosen.items() if which == task]
    wanted = {x for g in context.groups if g.task == task and g.role == "student" for x in g.runs[0].result.supervised}
    if len(best) < len(wanted):
        return empty("a language has no teacher")
    mean = statistics.fmean(best)
    theirs = reference.tables()["table-2"]
    papers = all(label in theirs for (_, label), each in found.items() if task in each)
    printed = theirs["Average"].get(TASKS[task]) if context.paper and papers else None
    return reference.beside(Cell(mean, f"{mean:.2f}", n=len(best)), printed)
