"""Gaps of a report: systems, seeds and languages that other systems have, and runs that have not learned."""

from collections.abc import Iterator
from itertools import groupby

from analysis.collect import Problem, shortened
from analysis.context import TASKS, Context, block_name
from analysis.main_tables import SYSTEMS
from analysis.scores import gaps


def missing(context: Context) -> Iterator[Problem]:
    """Gaps of every task and backbone, each reported once."""
    for task in context.tasks:
        for name, same in groupby(sorted(context.backbones(task), key=block_name), key=block_name):
            if len(there := list(same)) > 1:
                what = f"{', '.join(there)} have the same heading, {name}; rename a folder to separate their rows"
                yield Problem(TASKS[task], what)
        for backbone in context.backbones(task):
            where = f"{TASKS[task]}, {block_name(backbone)}"
            here = [g for g in context.groups if (g.task, g.backbone, g.role) == (task, backbone, "student")]
            systems = {group.system for group in here}
            if task != "own" and (names := [name for name in SYSTEMS if name not in systems]):
                yield Problem(where, f"no finished runs of {', '.join(names)}")
            for group in here:
                # Sweeps may repeat their systems over other seeds, so seeds are compared within an experiment.
                seeds = {seed for other in here if other.experiment == group.experiment for seed in other.seeds}
                if names := [str(seed) for seed in sorted(seeds - set(group.seeds))]:
                    yield Problem(
                        where, f"{group.system} has no run with seed {', '.join(names)}, but other systems have"
                    )
                if names := [run.name for run in group.runs if run.result.at_chance]:
                    what = "no better than the most frequent class on dev"
                    yield Problem(where, f"{group.system}, {shortened(names)}: {what}. The tables contain such runs")
                for split in context.splits(task):
                    for what in gaps(group, split):
                        yield Problem(where, what)
