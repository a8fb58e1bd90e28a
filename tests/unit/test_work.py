"""Claims about a run's speed: its counted FLOPs, and the share of a device's known peak."""

import math
from pathlib import Path

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mbkd import config as configuration
from mbkd import distributed, precision
from mbkd.distill.signals import open_source
from mbkd.inputs import prepare
from mbkd.train.student import build_student
from mbkd.train.work import Counter, Work, speed
from tests.unit.test_teachers import classifier


def test_the_work_of_a_step_equals_torchs_count_for_student_and_teacher(world: Path, toy_yaml: Path, tmp_path: Path):
    distributed.quiet()
    ranks = distributed.start()
    teacher = f"{{model: {classifier(world, tmp_path / 'teacher')}, fine_tuned: true}}"
    config = configuration.read(toy_yaml, [f"teachers.en={teacher}", "distill.languages=[en]"])
    inputs = prepare(config, tmp_path)
    source = open_source(config, inputs, tmp_path, ranks)
    model = build_student(config, inputs.labels).train()
    rows = inputs.train["en"].lengths.argsort()[:4]
    batch = distributed.tensors(inputs.train["en"].batch(rows), ranks.device)
    # torch does not count the fused attention of a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**batch, language="en").logits.sum().backward()
        source.signal("en", rows)
    counted = Counter(config, model, source, inputs, ranks)
    # The teacher has its own tokens.
    assert inputs.teachers["en"][0].train.lengths[rows].max() != batch["input_ids"].shape[1]
    work = counted.of("en", rows, batch["input_ids"].shape[1])
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=1e-4)
    assert math.isnan(work.least)  # no published peak for CPUs
    student = work.flops - counted.teachers["en"][0].forward(4, inputs.teachers["en"][0].train.lengths[rows].max())
    counted.peak, counted.teachers_peak = 2.0, {"en": 4.0}
    assert counted.of("en", rows, batch["input_ids"].shape[1]).least == pytest.approx(
        student / 2 + (work.flops - student) / 4
    )
    distributed.stop()


def test_the_share_of_the_peak_is_weighted_by_time_and_omitted_without_a_known_peak():
    known = [Work(2e9, 0.5), Work(4e9, 1.0)]
    assert speed(known, [1.0, 2.0]) == {"gflop_per_second": 2.0, "share_of_peak": 0.5}
    assert speed([Work(2e9, math.nan), Work(4e9, 1.0)], [1.0, 2.0]) == {"gflop_per_second": 2.0}
    assert speed([Work(math.nan, math.nan)], [1.0]) == speed([], []) == {}


@pytest.mark.parametrize(
    ("device", "kind", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "fp16", 756),
        ("NVIDIA L4", "bf16", 121),
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "bf16", math.nan),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", math.nan),
        ("NVIDIA A10G", "bf16", math.nan),
        ("NVIDIA L40", "bf16", math.nan),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", math.nan),
        ("cpu, 2 threads a rank", "fp32", math.nan),
    ],
)
def test_a_peak_is_found_by_torchs_name_of_the_device(device: str, kind: str, teraflops: float):
    assert precision.peak(device, kind) == pytest.approx(1e12 * teraflops, nan_ok=True)
