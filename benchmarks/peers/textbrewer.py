"""Compare TextBrewer's MultiTaskDistiller, the paper's tool, with mbkd's MultiKD: three teachers, a plain student.

usage: python -m benchmarks.peers.textbrewer [--rounds 4] [--steps 4] [--out FILE]

The unit is seconds per example after the first step. A round times one call of `MultiTaskDistiller.train` on some
batches of an epoch, and the same number of mbkd's steps with online teachers and with cached logits. Each variant has a
separate process. TextBrewer runs the teacher in every step, because it disables its cache for several tasks. Its
examples pad every row to the maximum length. In the line "padded to the batch", TextBrewer gets batches that are padded
to their longest row.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.peers import setting
from mbkd import distributed
from mbkd.config import Config, changed
from mbkd.data.tasks import label_names

MODULE = "benchmarks.peers.textbrewer"
ONLINE, CACHED = "mbkd, online", "mbkd, cached"
PADDED, DYNAMIC = "TextBrewer, as its examples pad", "TextBrewer, padded to the batch"


class Loader:
    """The loader of a language's batches. All languages share one iterator, so a round takes exactly its batches."""

    def __init__(self, batches: Iterator[dict[str, torch.Tensor]], clock: list[float]):
        self.batches, self.clock = batches, clock

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        distributed.synchronize()
        self.clock.append(time.perf_counter())
        return next(self.batches)


def theirs(config: Config, root: Path, width: int | None, rounds: int, count: int) -> Callable[[int], float]:
    """Return a function that measures TextBrewer's seconds per example in a round.

    width: tokens of every batch; None pads a batch to its longest row.
    """
    from textbrewer import DistillationConfig, MultiTaskDistiller, TrainingConfig
    from transformers import AutoConfig, AutoModelForSequenceClassification, logging

    logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = setting.stores(config, root)

    def classifier(backbone: str) -> Any:
        shape = AutoConfig.from_pretrained(backbone, num_labels=len(label_names(config.task)))
        return AutoModelForSequenceClassification.from_config(shape).to(device)

    student = classifier(config.student.backbone)
    teachers = {x: classifier(config.teachers[x][0].model) for x in rows}
    B, draw = config.train.batch_size, np.random.default_rng(0)
    batches: list[tuple[str, np.ndarray]] = []
    for language, store in rows.items():
        order = draw.permutation(len(store))
        batches += [(language, order[at : at + B]) for at in range(0, len(order) - B + 1, B)]
    longest = np.array([width or rows[x].lengths[each].max() for x, each in batches])
    shares = setting.shares(B * longest, rounds, count)

    def tensors(language: str, each: np.ndarray) -> dict[str, torch.Tensor]:
        columns = {x: torch.from_numpy(y) for x, y in rows[language].batch(each, width).items()}
        return columns | {"labels": torch.from_numpy(np.asarray(rows[language].labels[each]))}

    def logits(batch: Any, outputs: Any) -> dict[str, torch.Tensor]:
        return {"logits": outputs.logits}

    def run(number: int) -> float:
        chosen = [batches[i] for i in shares[number % rounds]]
        # Two steps do not count: the first allocates Adam's moments, the last marks the end of the step before.
        taken = iter([tensors(*each) for each in (chosen[0], *chosen, chosen[0])])
        clock: list[float] = []
        loaders = {x: Loader(taken, clock) for x in teachers}
        distiller = MultiTaskDistiller(
            TrainingConfig(device=device, output_dir=str(root / "textbrewer"), ckpt_steps=count + 2),
            DistillationConfig(temperature=config.distill.temperature, hard_label_weight=0),
            teachers,
            student,
            dict.fromkeys(teachers, logits),
            dict.fromkeys(teachers, logits),
        )
        optimizer = torch.optim.AdamW(student.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay)
        with distiller:
            distiller.train(
                optimizer,
                loaders,
                num_steps=count + 2,
                scheduler_class=torch.optim.lr_scheduler.LambdaLR,
                scheduler_args={"lr_lambda": lambda _: 1.0},
                max_grad_norm=config.train.clip,
            )
        return (clock[-1] - clock[1]) / (count * B)

    return run


def main() -> None:
    asked = setting.parser(MODULE, __doc__)
    asked.add_argument("--rounds", type=int, default=4)
    asked.add_argument("--steps", type=int, default=4, help="steps of each round")
    wanted = asked.parse_args()
    if setting.missing("textbrewer", MODULE, wanted.out):
        return
    rounds, count = wanted.rounds, wanted.steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = setting.make_world(folder, wanted)
        setting.stores(config, folder)
        cached = changed(config, {"distill": {"signal": "cache"}})
        found = common.take_turns(
            {
                ONLINE: setting.SeparateProcess(setting.our_steps, config, folder, rounds, count),
                CACHED: setting.SeparateProcess(setting.our_steps, cached, folder, rounds, count),
                PADDED: setting.SeparateProcess(theirs, config, folder, config.train.max_length, rounds, count),
                DYNAMIC: setting.SeparateProcess(theirs, config, folder, None, rounds, count),
            },
            rounds,
        )
    title = f"MultiKD, plain student: batch {config.train.batch_size}, {rounds} rounds of {count} steps"
    setting.print_times(title, "seconds per example", found, [ONLINE, CACHED])
    kept = {"seconds_per_example": found, "ratio": {x: setting.ratios(found, x) for x in (ONLINE, CACHED)}}
    common.record(MODULE, wanted.out, {"peers": setting.versions("textbrewer", "transformers"), **kept})


if __name__ == "__main__":
    sys.exit(main())
