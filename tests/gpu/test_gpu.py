"""Claims about one GPU. Machines without a GPU skip these tests with one message."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mbkd import distributed
from mbkd.train.launch import free_port
from tests.conftest import ENVIRONMENT, ROOT, mbkd
from tests.unit import loop_oracle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} finds no GPU")
# Maximum distance of the trained parameters from those of the naive loop, relative to the loop's total update. An
# untrained model has distance 1. A GPU sums in another order. Half precision has the bound of a CPU (test_trainer.py).
BOUNDS = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.05}


@pytest.fixture
def ranks() -> Iterator[distributed.Ranks]:
    started = distributed.start()
    yield started
    distributed.stop()


@pytest.mark.parametrize(
    ("precision", "compiled"), [*((each, False) for each in BOUNDS), ("fp32", True), ("bf16", True)]
)
def test_training_on_a_gpu_matches_the_naive_loop_on_a_cpu(ranks, tmp_path: Path, precision: str, compiled: bool):
    assert torch.distributed.get_backend() == "nccl" and ranks.device.type == "cuda"
    config = loop_oracle.configuration(tmp_path, {"precision": precision, "compile": compiled})
    trainer = loop_oracle.trainer(config, ranks)
    for step in range(trainer.plan.steps):
        trainer.step(step)
    found = loop_oracle.parameters(trainer.engine.module)
    in_fp32 = loop_oracle.configuration(tmp_path)
    assert loop_oracle.relative_distance(in_fp32, found, loop_oracle.train(in_fp32)) < BOUNDS[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_ranks_on_one_gpu_match_one_rank(tmp_path: Path, precision: str):
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "tests.gpu.gloo_job", str(tmp_path), precision, str(tmp_path / "two.pt")]
    jobs = [subprocess.Popen(command, env=ENVIRONMENT | rendezvous | {"RANK": str(rank)}, cwd=ROOT) for rank in (0, 1)]
    assert [job.wait(timeout=240) for job in jobs] == [0, 0]
    config = loop_oracle.configuration(tmp_path)
    found = torch.load(tmp_path / "two.pt")
    assert loop_oracle.relative_distance(config, found, loop_oracle.train(config)) < BOUNDS[precision]


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_evaluate_reproduces_the_scores_of_a_run(toy_yaml: Path, tmp_path: Path, precision: str):
    override = f"train.precision={precision}"
    taught = mbkd("teach", toy_yaml, override, "--runs", tmp_path)
    assert taught.returncode == 0, taught.stderr
    trained = mbkd("train", toy_yaml, override, "--runs", tmp_path, "--json")
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    evaluated = mbkd("evaluate", result["directory"], toy_yaml, override, "--runs", tmp_path, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["accuracy"]["test"] == result["accuracy"]["test"]


def test_the_benchmark_prints_its_table():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--rounds", "1", "--steps", "1", "--out", "/dev/null"],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"GB \(planned \d+\.\d GB\)", done.stderr)
