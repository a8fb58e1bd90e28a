"""Origins of runs: differences between runs of one task, and changes since training."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from analysis.collect import Problem, Run, shortened
from mbkd import provenance
from mbkd.config import Config


def differing(runs: Iterable[Run]) -> Iterator[Problem]:
    """One problem per origin that runs of a task do not share; weights are compared within a backbone.

    Device, precision and code revision of students are origins, too.
    """
    found: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, value in run.result.made_from.items():
            if name.startswith("member "):
                continue
            found[run.task, run.backbone if name == "backbone" else "", name][value].append(run.name)
        for name, value in run.conditions.items() if run.role == "student" else ():
            found[run.task, "", name][value].append(run.name)
    lines: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (task, _, name), kinds in found.items():
        if len(kinds) > 1:
            lines[task, " versus ".join(shortened(each) for each in kinds.values())].append(name)
    for (task, names), what in lines.items():
        yield Problem(task, f"the runs have different {', '.join(what)}: {names}. The tables contain all of them")


def changed(runs: Sequence[Run], root: Path) -> Iterator[Problem]:
    """One problem per changed origin, with all runs concerned. Missing origins are not checked."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a report reads local data only
    known: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        asked = [run.config.get(x) for x in ("task", "student", "teachers", "teaching", "distill")]
        key = json.dumps([run.result.made_from, asked], sort_keys=True, default=str)
        if key not in known:
            try:
                known[key] = provenance.changed(run.result, Config.model_validate(run.config), root)
            except ValidationError:  # an ensemble, or a configuration of another version
                known[key] = []
        if known[key]:
            lines[", ".join(known[key])].append(run.name)
    for run in runs:
        noted = {name: value for name, value in run.result.made_from.items() if name.startswith("member ")}
        now: dict[str, str] = {}
        for name in noted:
            now |= provenance.member(root / name.removeprefix("member "))
        if other := [name.removeprefix("member ") for name in now if now[name] != noted[name]]:
            do = (
                "fold it again with `mbkd fold`"
                if run.result.folded_from
                else "score the ensemble again with `mbkd ensemble`"
            )
            yield Problem(run.name, f"{', '.join(other)} changed since; {do}")
    for what, names in lines.items():
        yield Problem(shortened(names), f"{what} changed since training; train again with --fresh")
