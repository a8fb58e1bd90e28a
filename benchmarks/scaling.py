"""Weak scaling: a step of one rank against a step of two ranks, one thread per rank, with the launcher.

usage: python -m benchmarks.scaling [--rounds 3] [--out FILE.json]

The student is an MBLM of 12 layers x 384 with three branches of four layers; each rank has 64 rows of 32 tokens. The
two sides alternate, to average out noise of the machine. Efficiency = seconds of one rank / seconds of two ranks.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import common

ROWS, LENGTH, STEPS, WARM = 64, 32, 8, 2


def job(out: Path) -> None:
    """Run one rank. The first rank writes the seconds of its steps after the warm-up."""
    import time

    import torch
    from transformers import XLMRobertaConfig

    from mbkd import distributed
    from mbkd.config import Training
    from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification
    from mbkd.train.engine import training_engine
    from mbkd.train.optim import parameter_groups

    distributed.quiet()
    ranks = distributed.start()
    torch.manual_seed(0)
    languages = ["en", "fr", "zh"]
    backbone = XLMRobertaConfig(
        vocab_size=16000,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        max_position_embeddings=130,
    )
    model = MBLMForSequenceClassification(MBLMConfig(backbone.to_dict(), languages, 4, num_labels=3))
    groups, settings = parameter_groups(model, languages, 0.01), Training(batch_size=ROWS * ranks.world)
    engine, optimizer = training_engine(model, groups, settings, ranks)
    seconds = []
    for step in range(STEPS):
        language = languages[step % 3]
        optimizer.begin(language, settings.lr)
        ids = torch.randint(5, 16000, (ROWS, LENGTH), device=ranks.device)
        labels = torch.randint(3, (ROWS,), device=ranks.device)
        distributed.wait_for_all()
        began = time.perf_counter()
        engine.backward(engine(ids, language=language, labels=labels).loss)
        engine.step()
        distributed.synchronize()
        seconds.append(time.perf_counter() - began)
    if ranks.first:
        out.write_text(json.dumps({"seconds": seconds[WARM:], "device": distributed.device_name(ranks)}))
    distributed.stop()


def measure(world: int) -> dict:
    """Measure the step seconds of a world size after the warm-up, with the launcher."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        command = ["deepspeed", "--num_gpus", str(world), "--no_local_rank", "--log_level", "critical"]
        bin_folder = str(Path(sys.executable).parent)
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        root = Path(__file__).parents[1]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(root)}
        subprocess.run([*command, __file__, "--job", str(out)], check=True, env=env, stderr=subprocess.DEVNULL)
        found: dict = json.loads(out.read_text())
        return found


def main() -> None:
    """Measure both sides alternately; print a table and write JSON."""
    parser = common.parser("benchmarks.scaling", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", type=Path, help="internal: run one rank")
    asked = parser.parse_args()
    if asked.job:
        job(asked.job)
        return
    rounds = [{world: measure(world) for world in (1, 2)} for _ in range(asked.rounds)]
    medians = {w: [statistics.median(r[w]["seconds"]) for r in rounds] for w in (1, 2)}
    each = [one / two for one, two in zip(medians[1], medians[2], strict=True)]
    rows = [(w, ROWS * w, common.spread(values)) for w, values in medians.items()]
    title = f"weak scaling, 12 x 384, K = 4, N = 3; efficiency {common.spread(each)}"
    common.print_table(title, ("ranks", "rows per step", "seconds per step"), rows)
    found = {"efficiency": each, "seconds": medians, "device": rounds[0][1]["device"]}
    common.record("benchmarks.scaling", asked.out, found)


if __name__ == "__main__":
    main()
