"""What runs were made from: where those of one task differ in it, and what has changed since."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from analysis.collect import Problem, Run
from mbkd import provenance
from mbkd.config import Config
from mbkd.files import digest, fingerprint

NAMED = 3  # runs of a kind in a line


def differing(runs: Iterable[Run]) -> Iterator[Problem]:
    """A line for everything that runs of a task (and of a backbone, for its weights) do not share."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, value in run.result.made_from.items():
            if name.startswith("member "):
                continue
            found[run.task, run.backbone if name == "backbone" else "", name][value].append(run.name)
    lines: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (task, _, name), kinds in found.items():
        if len(kinds) > 1:
            lines[task, " and others than ".join(_names(each) for each in kinds.values())].append(name)
    for (task, names), what in lines.items():
        yield Problem(task, f"made from different {', '.join(what)}: {names}; all are in the tables")


def changed(runs: Sequence[Run], root: Path) -> Iterator[Problem]:
    """A line for all runs of which something is another one now; what is not there any more is not looked for."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a report reads what is here
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
        lost = [name.removeprefix("member ") for name in run.result.made_from if name.startswith("member ")]
        if other := [
            name for name in lost if _logits(root / name) not in (None, run.result.made_from[f"member {name}"])
        ]:
            yield Problem(run.name, f"{', '.join(other)} trained again since: `mbkd ensemble` scores it again")
    for what, names in lines.items():
        yield Problem(_names(names), f"{what}: another one now than when it was made; --fresh trains again")


def _logits(run: Path) -> str | None:
    """The hash of a member's logits as an ensemble notes it; None where they are not there."""
    files = sorted((run / "logits").glob("*.npy"))
    return fingerprint([[file.name, digest(file)] for file in files]) if files else None


def _names(runs: list[str]) -> str:
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return ", ".join(runs[:NAMED]) + more
