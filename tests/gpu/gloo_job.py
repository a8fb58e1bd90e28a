"""Run one of two ranks on the same GPU with gloo, because NCCL refuses this.

usage: RANK=R WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m tests.gpu.gloo_job FOLDER PRECISION OUT
"""

import os
import sys
from pathlib import Path

import torch

os.environ["LOCAL_RANK"] = "0"
from mbkd import distributed

distributed.get_accelerator()._communication_backend_name = "gloo"

from tests.unit import loop_oracle  # noqa: E402


def main(folder: Path, precision: str, out: Path) -> None:
    ranks = distributed.start()
    config = loop_oracle.configuration(folder / str(ranks.rank), {"precision": precision})
    trainer = loop_oracle.trainer(config, ranks)
    for step in range(trainer.plan.steps):
        trainer.step(step)
    if ranks.first:
        torch.save(loop_oracle.parameters(trainer.engine.module), out)
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
