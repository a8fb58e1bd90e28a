"""Training speed of a machine: measured with the real step, or a share of a GPU's published peak."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbkd.config import Config, changed
from mbkd.errors import UserError
from mbkd.estimate import cost
from mbkd.precision import PEAKS

# NVIDIA's fine-tuning of BERT-large at 384 tokens reaches 26 % of an A100's peak and 31 % of a V100's.
UTILISATION = 0.25
LAUNCH = 18e-6  # seconds of an operation on an H200's host in steps of few rows: 18 to 24 (PERFORMANCE.md)
Timed = tuple[float, float]  # seconds, and FLOPs
SECONDS = 40.0  # limit of a calibration, without building the models


@dataclass(frozen=True)
class Machine:
    """Speed that converts FLOPs to hours.

    student, teacher  FLOPs per second of optimizer steps, and of teachers' forward passes
    precision         of a student with train.precision = auto; half: whether teachers compute in fp16
    source            description of the source of the speed
    launch            least seconds of an operation, which the host launches; 0 if whole steps were timed
    """

    student: float
    teacher: float
    precision: str
    half: bool
    source: str
    launch: float = 0.0


def on_gpu(name: str) -> Machine:
    """A GPU of PEAKS at the assumed utilisation. Raises UserError for an unknown name."""
    known = {each.lower(): each for each in PEAKS}
    if name.lower() not in known:
        raise UserError(f"--gpu {name}: use one of {', '.join(PEAKS)}; without --gpu, this machine is measured")
    name = known[name.lower()]
    precision = "bf16" if "bf16" in PEAKS[name] else "fp16"
    peak = PEAKS[name][precision]
    source = f"one {name}: an assumed {UTILISATION:.0%} of its published {peak} TFLOP/s (dense {precision}); "
    source += f"a step takes at least {LAUNCH * 1e6:.0f} microseconds per operation, which limits small batches"
    return Machine(peak * 1e12 * UTILISATION, peak * 1e12 * UTILISATION, precision, True, source, LAUNCH)


def calibrate(config: Config, lengths: Mapping[str, np.ndarray]) -> Machine:
    """Measure a configuration's training step and its teachers' forward pass on this machine, in a minute.

    lengths: language -> (rows,) tokens of each training row. If whole batches take too long, smaller batches are timed
    and extrapolated. Raises UserError if the memory is too small.
    """
    from mbkd import distributed, precision
    from mbkd.estimate import dry_run

    distributed.quiet()
    ranks = distributed.start()
    kind, half = precision.choose(config.train.precision, ranks.device), distributed.half_supported()
    widest = max(int(each.max()) for each in lengths.values())
    needed = sum(cost.memory(config, kind, half, 1, widest).values()) / 1e9
    if needed > (free := free_bytes(ranks.device) / 1e9):
        raise UserError(
            f"a step needs about {needed:.1f} GB, but only {free:.1f} GB are free; plan without a step with --gpu NAME"
        )
    whole = config.train.batch_size
    # The estimate ignores the speedup of compilation, because compilation takes minutes.
    config = changed(config, {"train": {"accumulation": 1, "draw": "uniform", "compile": False}})
    trainer = dry_run.trainer(config, lengths, ranks)

    def step(rows: int) -> Timed:
        """One optimizer step without its teacher, always in the same language."""
        trainer.plan = dry_run.plan(config, lengths, rows)
        flops = cost.student_flops(config, rows, dry_run.width(trainer.plan, 0, lengths))
        began = time.perf_counter()
        trainer.step(0)
        distributed.synchronize()
        return time.perf_counter() - began, flops

    student, rows = _speed(step, whole, SECONDS * 0.6)
    teacher = student
    source = (
        f"this machine ({distributed.device_name(ranks)}): {student / 1e9:,.0f} GFLOP/s in steps of {config.system}"
    )
    if config.distill.signal != "labels":
        ask = dry_run.sources(config, lengths, ranks)["online"].signal

        def answer(rows: int) -> Timed:
            """Compute the teacher's logits of a batch."""
            plan = dry_run.plan(config, lengths, rows)
            flops = cost.teacher_flops(config, rows, dry_run.width(plan, 0, lengths))
            began = time.perf_counter()
            ask(plan.language(0), plan.rows(0))
            distributed.synchronize()
            return time.perf_counter() - began, flops

        teacher, _ = _speed(answer, whole, SECONDS * 0.4)
        source += f", {teacher / 1e9:,.0f} in the teachers"
    distributed.stop()
    source += f"; {kind}, timed with {rows} of {whole} rows"
    return Machine(student, teacher, kind, half, source)


def free_bytes(device: Any) -> int:
    """Free memory of a torch device in bytes."""
    import psutil
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _speed(timed: Callable[[int], Timed], whole: int, limit: float) -> tuple[float, int]:
    """FLOPs per second at `whole` rows, and the number of timed rows, in about `limit` seconds."""
    few = max(1, whole // 8)
    timed(few)  # warm-up
    seconds, _ = timed(few)
    if seconds * whole / few * 4 < limit:
        timed(whole)
        found = [timed(whole)]
        while len(found) < 20 and sum(seconds for seconds, _ in found) < limit / 2:
            found.append(timed(whole))
        return statistics.median(flops / seconds for seconds, flops in found), whole
    # Two sizes separate the time per row from the fixed time per step, which is the optimizer's.
    more = min(2 * few, whole)
    small, large = [timed(few) for _ in range(3)], [timed(more) for _ in range(3)]
    a, b = (statistics.median(seconds for seconds, _ in each) for each in (small, large))
    row = max(b - a, b / 10) / max(more - few, 1)
    return small[0][1] / few * whole / (a + (whole - few) * row), more
