"""Claims about two ranks at every valid ZeRO stage and accumulation: the model equals the paper's loop on one rank."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, deepspeed
from tests.unit import loop_oracle
from tests.unit.test_trainer import BF16, largest

JOB = ROOT / "tests" / "distributed" / "exact_job.py"
# ZeRO stage, precision, accumulation, rank of the branches (0: full copies)
FP32 = ["0,fp32,1,0", "1,fp32,1,0", "2,fp32,1,0", "0,fp32,2,0", "1,fp32,2,0", "0,fp32,1,2", "1,fp32,1,2", "2,fp32,1,2"]
LOWER = ["0,bf16,1,0", "1,bf16,1,0", "2,bf16,1,0"]

Parameters = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parameters]:
    """The parameters after twelve steps on two ranks, by setting."""
    folder = tmp_path_factory.mktemp("exact")
    done = deepspeed(2, "--no_local_rank", JOB, folder / "out.npz", folder, *FP32, *LOWER)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Parameters] = {}
    for key, values in np.load(folder / "out.npz").items():
        setting, name = key.split("/")
        found.setdefault(setting, {})[name] = torch.from_numpy(values)
    return found


@pytest.mark.parametrize("setting", FP32)
def test_two_ranks_in_fp32_equal_the_papers_loop(trained, tmp_path: Path, setting: str):
    config = loop_oracle.configuration(tmp_path, branch_rank=int(setting[-1]))
    assert largest(trained[setting], loop_oracle.train(config)) < 1e-6


@pytest.mark.parametrize("setting", LOWER)
def test_two_ranks_in_bf16_stay_close_to_the_papers_loop(trained, tmp_path: Path, setting: str):
    config = loop_oracle.configuration(tmp_path)
    assert loop_oracle.relative_distance(config, trained[setting], loop_oracle.train(config)) < BF16
