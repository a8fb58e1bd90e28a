"""What the door to DeepSpeed sets up for a process."""

import ctypes
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BYTES = 200_000_000
FREED = f"""
import psutil, torch
from mbkd.train import engine
engine.KEEP
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
