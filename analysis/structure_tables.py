"""Tables 5 and 6: ablations of MBLM, and its cost relative to one model and an ensemble of two."""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from analysis import reference
from analysis.claims import Claim, compare, decide, ratio
from analysis.collect import Problem
from analysis.context import TASKS, Context, block_name, depth_note
from analysis.groups import Group
from analysis.items import Resampled
from analysis.main_tables import intervals
from analysis.scores import AVERAGES, gaps, scores
from analysis.tables import Cell, Row, Table, empty

SINGLE, MBLM, ENSEMBLE = "MultiKD", "MultiKD + MBLM", "Ens2"
TOP = f"{MBLM} + branches at the top"
FOLDED = f"{MBLM}, folded"
ABLATIONS = (
    f"{MBLM} - inner-mixers",
    f"{MBLM} - all mixers (single)",
    f"{MBLM} - all mixers (all)",
    f"{MBLM} - detaching",
    TOP,
    f"{MBLM} + multi-classifier",
)
# Parameters of MBLM over the plain model (K = 4, three branches): 32 and 20 % more. The paper has time for mBERT only.
PARAMETERS = {"mbert": "1.3", "xlmr": "1.2"}
TIME = {"mbert": "1.1"}


def structure_tables(context: Context) -> tuple[list[Table], list[Claim]]:
    """Tables 5 and 6 and their claims, for every task that has their systems; on dev if measured."""
    tables: list[Table] = []
    claims: list[Claim] = []
    for task in context.tasks:
        splits = context.splits(task)
        if not splits:
            continue
        split = splits[-1]  # dev as in the paper; test if it is the only split
        for make in (_ablations, _efficiency):
            found, said = make(context, task, split)
            tables += found
            claims += said
    return tables, claims


def _ablations(context: Context, task: str, split: str) -> tuple[list[Table], list[Claim]]:
    """Table 5."""
    blocks = {}
    for backbone in context.backbones(task):
        names = (SINGLE, *(name for each in (MBLM, *ABLATIONS) for name in (each, f"{each}, folded")))
        here = {name: group for name in names if (group := context.find(task, backbone, name, "ablations"))}
        if any(name in here for name in ABLATIONS):
            blocks[backbone] = here
    if not blocks:
        return [], []
    key = "table-5" if task == "xnli" else f"{task}-ablations"
    title = f"ablations, {TASKS[task]} {split}, accuracy x100"
    found = _averages(context, task, split, key, title, blocks, _ablation_label)
    resampled = context.resampled(task, split, "accuracy", [g for each in blocks.values() for g in each.values()])
    claims = []
    for backbone, here in blocks.items():
        block, full = block_name(backbone), here.get(MBLM)
        for name in ABLATIONS:
            text = f"{name.removeprefix(MBLM).strip()} below MBLM on AVG(A)"
            claims.append(compare(key, block, resampled, full, here.get(name), "A", text))
        plain = reference.backbone_name(reference.backbone_key(backbone))
        text = f"branches at the top below {plain} on AVG(A)"
        claims.append(compare(key, block, resampled, here.get(SINGLE), here.get(TOP), "A", text))
    return found, decide(claims)


def _ablation_label(name: str, backbone: str) -> str:
    if name == SINGLE:
        return reference.backbone_name(reference.backbone_key(backbone))
    return name.replace(MBLM, "+ MBLM") if name in (MBLM, FOLDED) else name.removeprefix(MBLM).strip()


def _averages(
    context: Context,
    task: str,
    split: str,
    key: str,
    title: str,
    blocks: dict[str, dict[str, Group]],
    label: Callable[[str, str], str],
) -> list[Table]:
    """A table of the averages of some systems, its intervals, and the comparison with the paper."""
    rows, notes = [], []
    for backbone, here in blocks.items():
        for name, group in here.items():
            found = scores(group, split)
            printed = reference.printed(key, group.runs[0], AVERAGES) if context.paper and split == "dev" else {}
            cells = [reference.beside(found[x].cell(), printed.get(x)) if x in found else empty() for x in AVERAGES]
            runs = Cell(len(group.runs), str(len(group.runs)))
            rows.append(Row(label(name, backbone), [*cells, runs], block_name(backbone)))
            notes += [*depth_note(group), *gaps(group, split)]
    number = key.replace("table-", "Table ") + ": " if key.startswith("table") else ""
    table = Table(key, f"{number}{title}", [*AVERAGES, "runs"], rows, list(dict.fromkeys(notes)))
    groups = [group for here in blocks.values() for group in here.values()]
    resampled = context.resampled(task, split, "accuracy", groups)
    beside = reference.comparison(table, AVERAGES) if context.paper else None
    return [table, intervals(table, groups, resampled, pairs=False), *([beside] if beside else [])]


@dataclass(frozen=True)
class Cost:
    """Parameters and step time of a system relative to Single, their source, and n.

    online: whether teachers ran during the timing, as in the paper. The ratio without teachers differs.
    """

    parameters: float
    time: float | None
    online: bool
    source: str
    n: str


def _efficiency(context: Context, task: str, split: str) -> tuple[list[Table], list[Claim]]:
    """Table 6."""
    blocks = {}
    for backbone in context.backbones(task):
        ranks = sorted({g.system for g in context.groups if re.fullmatch(re.escape(MBLM) + r", rank \d+", g.system)})
        names = (SINGLE, MBLM, *ranks, *(f"{name}, folded" for name in (MBLM, *ranks, *ABLATIONS)))
        here = {name: group for name in names if (group := context.find(task, backbone, name))}
        if SINGLE in here and (pairs := _ensemble(context, here[SINGLE])):
            here = {SINGLE: here[SINGLE], ENSEMBLE: pairs, **here}
        if SINGLE in here and len(here) > 1:
            blocks[backbone] = here
    if not blocks:
        return [], []
    key = "table-6" if task == "xnli" else f"{task}-efficiency"
    title = f"efficiency, {TASKS[task]} {split}, accuracy x100"
    table, *others = _averages(context, task, split, key, title, blocks, lambda name, _: _short(name))
    resampled = context.resampled(task, split, "accuracy", [g for each in blocks.values() for g in each.values()])
    claims, rows, sources = [], iter(table.rows), []
    with_cost = []
    for backbone, here in blocks.items():
        costs = {name: _cost(context, backbone, name, here) for name in here}
        sources += [f"{block_name(backbone)}: {cost.source}" for cost in costs.values()]
        for name, cost in costs.items():
            row = next(rows)
            printed = {}
            if context.paper and row.cells[0].reference is not None:
                printed = reference.tables()[key]["mbert"].get(name, {})
            columns = (("Params", cost.parameters), ("Time", cost.time))
            extra = [reference.beside(_times(value), printed.get(column)) for column, value in columns]
            with_cost.append(Row(row.label, [*row.cells[:-1], *extra, row.cells[-1]], row.block))
        claims += _claims(key, backbone, here, costs, resampled)
    notes = [*table.notes, *dict.fromkeys(sources)]
    table = Table(key, table.title, [*AVERAGES, "Params", "Time", "runs"], with_cost, notes)
    if context.paper and (beside := reference.comparison(table, [*AVERAGES, "Params", "Time"])):
        others = [*others[:1], beside]
    return [table, *others], decide(claims)


def _ensemble(context: Context, single: Group) -> Group | None:
    """The group of the pairs of Single's runs."""
    members = {run.name for run in single.runs}
    for group in context.groups:
        if group.system == ENSEMBLE and set(group.runs[0].result.members) <= members:
            return group
    return None


def _cost(context: Context, backbone: str, name: str, here: dict[str, Group]) -> Cost:
    """Cost from the record of `tuning.efficiency` for this backbone, else from the runs' own records."""
    if name.endswith(", folded"):
        source = "folded: Time is the inference time, equal to that of Single; training costs as much as MBLM"
        mine, single = (statistics.median(run.result.parameters for run in here[x].runs) for x in (name, SINGLE))
        return Cost(mine / single, 1.0, False, source, f"{len(here[name].runs)} runs")
    label, task = _short(name), here[SINGLE].task
    depth = next((group.branch_depth for group in (here[name], *here.values()) if group.branch_depth), 0)
    records = [
        record
        for record in context.collection.efficiency
        if (record["task"], record["backbone"]) == (task, backbone) and label in record["systems"]
        if record.get("branch_depth", depth) == depth
    ]
    records.sort(key=lambda record: "branch_depth" not in record)
    if len(records) > 1 and "branch_depth" not in records[0] and name not in (SINGLE, ENSEMBLE):
        what = f"{len(records)} records of tuning.efficiency contain {label} without a branch depth; the first is shown"
        context.collection.problems.append(Problem(f"{TASKS[task]}, {block_name(backbone)}", what))
    if records:
        record = records[0]
        single, mine = record["systems"]["Single"], record["systems"][label]
        seconds = [each["step_seconds"]["online"]["median"] for each in (mine, single)]
        time = seconds[0] / seconds[1]
        if name not in (SINGLE, ENSEMBLE):  # median of per-round ratios: load on the machine cancels
            time = record["ratios"]["measured"]["online"]
        source = f"Params and Time measured in turn, teachers online, {record['rounds']} rounds ({record['machine']})"
        parameters = mine["parameters"] / single["parameters"]
        return Cost(parameters, time, True, source, f"{record['rounds']} rounds")
    results = {key: [run.result for run in here[key].runs] for key in (SINGLE, name)}
    modes = {result.step_seconds["teacher"] for each in results.values() for result in each}
    sizes = {key: statistics.median(result.parameters for result in each) for key, each in results.items()}
    steps = {key: statistics.median(x.step_seconds["median"] for x in each) for key, each in results.items()}
    source = "Params and Time from the runs' own records, teachers " + " and ".join(sorted(modes))
    conditions = [run.conditions for key in (SINGLE, name) for run in here[key].runs]
    comparable = len({(each.get("device"), each.get("precision")) for each in conditions}) == 1
    if not comparable:
        source += ", on different devices or in different precisions, so Time is omitted"
    time = steps[name] / steps[SINGLE] if len(modes) == 1 and comparable else None
    return Cost(sizes[name] / sizes[SINGLE], time, modes == {"online"}, source, f"{len(here[name].runs)} runs")


def _short(system: str) -> str:
    """System name in Table 6 and in the record of `tuning.efficiency`."""
    return "Single" if system == SINGLE else system.removeprefix(f"{SINGLE} + ")


def _times(value: float | None) -> Cell:
    return empty() if value is None else Cell(value, f"{value:.2f}×")


def _claims(
    key: str, backbone: str, here: dict[str, Group], costs: dict[str, Cost], resampled: Resampled
) -> list[Claim]:
    """The paper's claims about Table 6."""
    block, which = block_name(backbone), reference.backbone_key(backbone)
    pairs, mblm = here.get(ENSEMBLE), here.get(MBLM)
    found = [compare(key, block, resampled, pairs, mblm, "S", "Ens2 > MBLM on AVG(S)")]
    if "Z" in resampled.names:
        found.append(compare(key, block, resampled, mblm, pairs, "Z", "Ens2 < MBLM on AVG(Z)"))
    cost = costs.get(MBLM)
    for printed, name, value in (
        (PARAMETERS.get(which), "Params", cost.parameters if cost else None),
        (TIME.get(which), "Time", cost.time if cost and cost.online else None),
    ):
        if printed:
            found.append(ratio(key, block, f"{name}: MBLM / Single = {printed}", value, cost.n if cost else ""))
    return found
