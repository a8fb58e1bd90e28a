"""Ens2: every pair (or larger group) of finished runs of one system, from their saved logits; nothing is trained.

usage: python -m tuning.ensemble RUN RUN [RUN..] [--size 2] [--runs RUNS]
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mbkd.ensemble import runs
from mbkd.errors import UserError
from mbkd.evaluate import measure
from mbkd.runs import write_json
from mbkd.terminal.console import make_console


def ensembles(directories: Sequence[Path], root: Path, size: int = 2) -> dict[Path, dict[str, Any]]:
    """Measure every group of `size` of the runs, and write a directory below `root` for each.

    Returns the groups' results by their directories, which are described in docs/run-directory.md. Raises UserError for
    runs that do not fit together.
    """
    if not 2 <= size <= len(directories):
        raise UserError(f"--size {size}: with {len(directories)} runs it can be 2 to {len(directories)}")
    found = {}
    for members in itertools.combinations(runs.read(directories), size):
        result, logits = runs.combine(members)
        seeds = "-".join(f"s{seed}" for seed in result["seeds"])
        folder = root / f"{result['task']}-ens{size}-{members[0].config.slug}-{seeds}-{result['hash']}"
        for split, each in logits.items():
            measure.save(folder, split, each, members[0].labels[split])
        write_json(folder / "result.json", result)
        found[folder] = result
    return found


def spread_table(results: Sequence[dict[str, Any]], split: str, metric: str = "accuracy") -> Table:
    """Mean ± standard deviation x100 of the groups' scores, languages as columns, the averages behind."""
    first = results[0]
    title = f"{split}: {first['system']}, {metric} x100, mean ± standard deviation over {len(results)} groups"
    means = "averages" if metric == "accuracy" else "mae_averages"
    columns = {x: [result[metric][split][x] for result in results] for x in first[metric][split]}
    columns |= {f"AVG({x})": [result[means][split][x] for result in results] for x in first[means][split]}
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*["-" if None in values else _spread(values) for values in columns.values()])
    return table


def _spread(values: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tuning.ensemble", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", type=Path, help="directories of finished runs of one system")
    parser.add_argument("--size", type=int, default=2, help="members of a group (default: 2)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the groups' directories go")
    asked = parser.parse_args()
    found = ensembles(asked.run, asked.runs, asked.size)
    results = list(found.values())
    console = make_console()
    for split in results[0]["accuracy"]:
        for metric in ("accuracy", "mae"):
            if split in results[0][metric]:
                console.print(spread_table(results, split, metric))
    total = f"{results[0]['parameters']:,} parameters, {results[0]['train_seconds']:.0f} s of optimizer steps"
    print(f"of each group, as sums over its members: {total}")
    for folder in found:
        print(folder)


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:  # a file that cannot be read or written names itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
