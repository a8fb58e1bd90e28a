"""FLOPs of a run's steps, and the share of the device's peak that they reach."""

import math
from typing import Any, NamedTuple

import numpy as np

from mbkd import distributed, precision
from mbkd.config import Config
from mbkd.distill.signals import TeacherSource
from mbkd.inputs import Inputs
from mbkd.model import flops


class Work(NamedTuple):
    """FLOPs, and the seconds that they take at the device's peak; nan if unknown."""

    flops: float = 0.0
    least: float = 0.0


class Counter:
    """Count the work of one rank's steps, from the shapes of the student and of online teachers."""

    def __init__(self, config: Config, model: Any, source: TeacherSource, inputs: Inputs, ranks: distributed.Ranks):
        self.student, self.inputs = config.student, inputs
        # FLOPs of a growing student are not counted, because most of its weights get no gradient.
        self.size = None if config.student.grow is not None else flops.size(model)
        self.teachers = {x: [flops.plain_size(t.engine.module) for t in each] for x, each in source.teachers.items()}
        name, kind = distributed.device_name(ranks), precision.choose(config.train.precision, ranks.device)
        self.peak = precision.peak(name, kind)
        self.teachers_peak = {x: precision.peak(name, _short(each)) for x, each in source.precision.items()}

    def of(self, language: str, rows: np.ndarray, width: int) -> Work:
        """Return the work for rows (B,) of a language in a batch padded to `width` tokens."""
        sizes = self.teachers.get(language, [])
        if self.size is None or None in sizes:
            return Work(math.nan, math.nan)
        student, teachers = flops.of_step(self.size, self.student, len(rows), width), 0.0
        given = self.inputs.teachers.get(language, ()) if sizes else ()
        for size, each in zip(filter(None, sizes), given, strict=True):
            teachers += size.forward(len(rows), int(each.train.lengths[rows].max()))
        least = student / self.peak
        return Work(student + teachers, least + (teachers / self.teachers_peak[language] if teachers else 0.0))


def speed(work: list[Work], seconds: list[float]) -> dict[str, float]:
    """Return GFLOP per second of steps, and the share of the device's peak (MFU). Unknown values are left out.

    The peak is that of each model's precision (PaLM: Chowdhery et al. 2022, appendix B).
    """
    spent = sum(seconds)
    found = {
        "gflop_per_second": sum(each.flops for each in work) / 1e9 / spent if spent else math.nan,
        "share_of_peak": sum(each.least for each in work) / spent if spent else math.nan,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _short(kinds: str) -> str:
    """Return the widest precision of a language's teachers, which has the lowest peak."""
    return "fp32" if "float32" in kinds else "fp16"
