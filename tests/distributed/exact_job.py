"""Run the twelve steps of tests/unit/loop_oracle.py on every rank for each setting, with the launcher.

usage: exact_job.py OUT.npz FOLDER stage,precision,accumulation,rank of branches ...
Rank 0 saves the parameters of every setting.
"""

import sys
from pathlib import Path

import numpy as np

from mbkd import distributed
from tests.unit import loop_oracle

if __name__ == "__main__":
    distributed.quiet()
    here = distributed.start()
    out, folder, *settings = sys.argv[1:]
    found = {}
    for setting in settings:
        stage, precision, accumulation, rank = setting.split(",")
        train = {"zero_stage": int(stage), "precision": precision, "accumulation": int(accumulation)}
        config = loop_oracle.configuration(Path(folder) / str(here.rank), train, branch_rank=int(rank))
        made = loop_oracle.trainer(config, here)
        for step in range(made.plan.steps):
            made.step(step)
        made.refuse_not_finite()
        parameters = loop_oracle.parameters(made.engine.module)
        found |= {f"{setting}/{name}": values.numpy() for name, values in parameters.items()}
    if here.first:
        np.savez(out, **found)
    distributed.stop()
