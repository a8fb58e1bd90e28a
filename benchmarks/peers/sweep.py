"""Compare the time of a grid by `tuning.sweep` with that of a shell loop over Trainer runs.

usage: python -m benchmarks.peers.sweep [--lr 5e-5 1e-4] [--seeds 2] [--rows 320] [--out FILE]

A run trains a plain student on hard labels for one epoch. All variants start without caches. The loops start a process
for each point of the grid, like `for lr in ...; do python train.py --lr $lr; done`, and a run uses all cores. Their
script is benchmarks.peers.trainer, without and with group_by_length. The sweep is one command with its defaults: a core
and a thread for each trial, one trial per core at a time, and shared tokens.
"""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.peers import setting
from mbkd.config import changed

MODULE = "benchmarks.peers.sweep"
SWEEP, LOOP, GROUPED = "tuning.sweep", "loop over Trainer", "loop over Trainer, group_by_length"


def main() -> None:
    asked = setting.parser(MODULE, __doc__)
    asked.set_defaults(rows=320)
    asked.add_argument("--lr", nargs="+", default=["5e-5", "1e-4"])
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--rounds", type=int, default=1)
    wanted = asked.parse_args()
    if setting.missing("accelerate", MODULE, wanted.out):  # Trainer requires accelerate
        return
    points = [(lr, seed) for lr in wanted.lr for seed in range(1, wanted.seeds + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "output.txt"
        config = changed(setting.make_world(folder, wanted), {"distill": {"signal": "labels"}})
        file = folder / "grid.yaml"
        file.write_text(config.dump(), encoding="utf-8")

        def sweep(number: int) -> float:
            words = ["tuning.sweep", "grid", str(file), f"train.lr=[{','.join(wanted.lr)}]", "--protocol", "full"]
            return setting.command(
                [*words, "--seeds", str(wanted.seeds), "--runs", str(folder / f"sweep-{number}")], log
            )

        def loop(number: int, grouped: bool) -> float:
            train = [sys.executable, "-m", "benchmarks.peers.trainer", *(["--grouped"] if grouped else [])]
            train += ["--config", str(file), "--runs", str(folder / f"loop-{grouped}-{number}")]
            lines = [shlex.join([*train, f"train.lr={lr}", f"seed={seed}"]) for lr, seed in points]
            with log.open("ab") as output:
                script = "set -e\n" + "\n".join(lines)
                return common.seconds(
                    lambda: subprocess.run(["bash", "-c", script], check=True, stdout=output, stderr=output)
                )

        variants: dict[str, Callable[[int], float]] = {
            SWEEP: sweep,
            LOOP: lambda number: loop(number, grouped=False),
            GROUPED: lambda number: loop(number, grouped=True),
        }
        found = common.take_turns(variants, wanted.rounds, warm=0)
        made = {x: len(list(folder.glob(f"{x}-*/*/result.json"))) for x in ("sweep", "loop-True", "loop-False")}
    assert set(made.values()) == {len(points) * wanted.rounds}, made
    title = (
        f"{len(points)} runs: {len(wanted.lr)} learning rates, {wanted.seeds} seeds, {wanted.rows} rows per language"
    )
    setting.print_times(title, "seconds", found, [SWEEP])
    kept: dict[str, Any] = {"seconds": found, "ratio": setting.ratios(found, SWEEP), "runs": len(points)}
    common.record(MODULE, wanted.out, {"peers": setting.versions("transformers", "accelerate"), **kept})


if __name__ == "__main__":
    main()
