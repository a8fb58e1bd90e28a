"""Claims about the DeepSpeed engine and its setup of a process."""

import ctypes
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from mbkd import distributed
from mbkd.config import Training, parse
from mbkd.errors import UserError
from mbkd.estimate import cost, dry_run
from mbkd.estimate.operations import Operations
from mbkd.train import checkpoint
from mbkd.train.engine import gradient_norm, training_engine
from mbkd.train.optim import BranchAdamW, parameter_groups
from tests.conftest import ROOT
from tests.unit.test_mblm import ragged, trained

BYTES = 200_000_000
FREED = f"""
import psutil, torch
from mbkd import distributed
distributed.KEEP
x = torch.ones({BYTES} // 4)
before = psutil.Process().memory_info().rss
del x
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt")
@pytest.mark.parametrize(("call", "kept"), [("_keep_memory()", True), ("quiet()", False)])
def test_freed_memory_stays_with_the_process(call: str, kept: bool):
    code = FREED.replace("KEEP", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (int(done.stdout) < BYTES // 2) == kept


@pytest.fixture(scope="module")
def ranks() -> Iterator[distributed.Ranks]:
    distributed.quiet()
    yield distributed.start()
    distributed.stop()


def engine(precision: str, stage: int, ranks: distributed.Ranks, **settings: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = trained()
    groups = parameter_groups(model, model.config.branch_languages, weight_decay=0.5)
    train = Training(batch_size=2, precision=precision, zero_stage=stage, lr=1e-2, **settings)
    return training_engine(model, groups, train, ranks)


def step(made: Any, optimizer: Any, scale: float = 1.0) -> None:
    optimizer.begin("fr", 1e-2)
    torch.manual_seed(0)
    made.backward(scale * made(**ragged("bert"), language="fr").logits.square().sum())
    made.step()


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_and_moments_are_fp32_and_untouched_before_the_first_step(precision: str, stage: int, ranks):
    made, optimizer = engine(precision, stage, ranks)
    torch.manual_seed(0)
    before = trained().state_dict()
    for name, parameter in made.module.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])
    step(made, optimizer)
    moments = [x for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
    assert {x.dtype for x in moments} == {torch.float32}
    assert {float(state["step"]) for state in optimizer.state.values() if state} == {1.0}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_norm_covers_all_gradients_before_clipping(stage: int, ranks):
    made, optimizer = engine("fp32", stage, ranks, clip=0.1)
    torch.manual_seed(0)
    plain = trained().eval()
    torch.manual_seed(0)
    plain(**ragged("bert"), language="fr").logits.square().sum().backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters() if p.grad is not None])
    made.eval()
    step(made, optimizer)
    assert gradient_norm(made, optimizer).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_non_finite_gradient_makes_the_norm_non_finite(stage: int, ranks):
    made, optimizer = engine("fp32", stage, ranks)
    step(made, optimizer, scale=float("inf"))
    assert not gradient_norm(made, optimizer).isfinite()


def test_a_checkpoint_is_kept_if_later_ones_are_damaged(ranks, tmp_path):
    made, optimizer = engine("fp32", 0, ranks)
    step(made, optimizer)
    for damaged in (3, 4):
        (tmp_path / "checkpoints" / f"step-{damaged:08d}").mkdir(parents=True)
    for done in (1, 2):
        checkpoint.save(made, tmp_path, done, {}, {}, ranks)
    assert sorted(x.name for x in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize(
    ("error", "disk"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:547] Connection closed by peer"), False),
        (RuntimeError("NCCL communicator was aborted on rank 0."), False),
        (torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
)
def test_only_errors_of_the_disk_are_errors_of_the_checkpoint(error: Exception, disk: bool, ranks, tmp_path):
    def failing(*_: Any, **__: Any) -> None:
        raise error

    with pytest.raises(UserError if disk else type(error), match="make room" if disk else None) as raised:
        checkpoint.save(SimpleNamespace(save_checkpoint=failing), tmp_path, 1, {}, {}, ranks)
    assert disk or raised.value is error


def test_matrix_products_run_in_bf16_mixers_and_logits_in_fp32(ranks):
    made, _ = engine("bf16", 0, ranks)
    model, seen = made.module, {}
    model.watch = lambda name, weights: seen.update({name: weights})
    model.shared[0].intermediate.dense.register_forward_hook(lambda _, inputs, output: seen.update(dense=output))
    logits = made(**ragged("bert"), language="fr").logits
    assert seen.pop("dense").dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    for weights in seen.values():
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(dim=0), torch.ones_like(weights[0]), rtol=0, atol=1e-6)


fp16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="no fp16 on this CPU")


@fp16
def test_fp16_scales_the_loss_and_skips_a_step_that_overflows():
    """Run in a separate process, because DeepSpeed keeps the precision of the last engine for later engines."""
    done = subprocess.run([sys.executable, "-c", OVERFLOW], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


OVERFLOW = """
import torch
from mbkd import distributed
from mbkd.train.engine import loss_scale
from tests.unit.test_engine import engine, step
made, optimizer = engine("fp16", 0, distributed.start())
step(made, optimizer)
before = {n: p.detach().clone() for n, p in made.module.named_parameters()}
scale = loss_scale(made).get_scale()
step(made, optimizer, scale=1e38)
assert all(torch.equal(p, before[n]) for n, p in made.module.named_parameters())
assert loss_scale(made).get_scale() == scale / 2
"""


@fp16
@pytest.mark.parametrize("stage", [1, 2])
def test_fp16_over_shards_is_refused(stage: int, ranks):
    with pytest.raises(UserError, match="zero_stage=0"):
        engine("fp16", stage, ranks)


def test_the_fused_step_removes_the_loss_scale_and_then_clips():
    """The optimizer handles a GradScaler's scale and overflow, on any CPU."""
    found = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        groups = [{"params": list(layer.parameters()), "language": None, "weight_decay": 0.0}]
        optimizer = BranchAdamW(groups, lr=0.1, clip=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        scaler.scale(layer(torch.ones(2, 4)).square().sum()).backward()
        scaler.step(optimizer)
        found.append([*(p.detach().clone() for p in layer.parameters()), optimizer.norm()])
        kept = [p.detach().clone() for p in layer.parameters()]
        layer.weight.grad[0, 0] = float("inf")
        scaler.update()
        scaler.step(optimizer)
        assert all(torch.equal(p, k) for p, k in zip(layer.parameters(), kept, strict=True))
        assert not optimizer.norm().isfinite()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_shared_parameters_and_the_active_branch_require_gradients_and_change():
    """This holds even if the other parameters have gradients, which DeepSpeed fills in."""
    model = trained()
    languages = list(model.config.branch_languages)
    optimizer = BranchAdamW(parameter_groups(model, languages, weight_decay=0.5), lr=0.1)
    optimizer.begin("fr", 0.1)
    idle = {
        name
        for name, _ in model.named_parameters()
        if name.split(".")[0] in ("branches", "inner", "heads") and name.split(".")[1] != str(languages.index("fr"))
    }
    assert {name.split(".")[0] for name in idle} >= {"branches", "inner"}
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == idle
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert {name for name, p in model.named_parameters() if torch.equal(p, before[name])} == idle


def operations_of_a_step(precision: str, layers: int, depth: int, rows: int, ranks, folder: Path):
    """A step's counted operations, and the estimated number. Three languages; `rows` of a batch make a micro-batch."""
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=1100, **sizes).save_pretrained(folder)
    values = {
        "task": {"kind": "xnli", "path": "none"},
        "student": {"backbone": str(folder), "branch_depth": depth},
        "distill": {"signal": "labels"},
        "train": {"batch_size": 4, "precision": precision, "accumulation": 4 // rows},
    }
    config = parse(values, "test")
    made = dry_run.trainer(config, {x: np.array([5, 7, 9, 4]) for x in config.languages}, ranks)
    dry_run.warm_up(made, made.source)
    with Operations() as counted:
        made.step(0)
    return counted, cost.operations(config, online=False)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1700), ("bf16", 2300)])
def test_a_step_of_the_papers_student_dispatches_few_operations(precision: str, most: int, ranks, tmp_path):
    """12 layers, K = 4, three branches. Operations approximate kernel launches; reads stall a GPU's queue."""
    counted, estimated = operations_of_a_step(precision, 12, 4, 4, ranks, tmp_path)
    assert counted.total <= most
    assert counted.reads == 0
    assert precision == "fp32" or estimated == pytest.approx(counted.total, rel=0.05)


@pytest.mark.parametrize(("layers", "depth", "rows"), [(3, 0, 4), (4, 2, 2)])
def test_the_estimated_operations_of_a_step_are_the_counted_ones(layers: int, depth: int, rows: int, ranks, tmp_path):
    counted, estimated = operations_of_a_step("bf16", layers, depth, rows, ranks, tmp_path)
    assert estimated == pytest.approx(counted.total, rel=0.15)


def test_reads_of_the_device_are_counted():
    with Operations() as counted:
        x = torch.arange(4.0)
        x.view(2, 2).sum().item()
        bool(x.all())
    assert counted.reads == 2
    assert counted.counts["view"] == 0
