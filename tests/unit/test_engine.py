"""What the door to DeepSpeed sets up for a process."""

import ctypes
import subprocess
import sys

import pytest
import torch

from mbkd import distributed
from mbkd.config import Training
from mbkd.train.engine import training_engine
from mbkd.train.optim import BranchAdamW, parameter_groups
from tests.conftest import ROOT
from tests.unit.test_mblm import trained

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


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_learned_or_forgotten_while_the_engine_is_made(precision: str, stage: int):
    """In 16 bit at stage 0 DeepSpeed steps the optimizer on zeros: Adam's counter and weight decay would tell."""
    model = trained()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = BranchAdamW(parameter_groups(model, model.config.branch_languages, weight_decay=0.5), lr=1e-2)
    settings = Training(batch_size=2, precision=precision, zero_stage=stage)
    distributed.quiet()
    made = training_engine(model, optimizer, settings, distributed.start())
    kept = torch.float32 if precision == "fp32" else torch.bfloat16
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then.to(kept))
    assert not optimizer.state
    assert optimizer.norm is None
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    del made
    distributed.stop()
