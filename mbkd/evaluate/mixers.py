"""Mixer weights of each branch, by language and mixer (Eq. 11).

Letters: B rows, d width, N languages with a branch.
"""

import csv
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbkd import precision
from mbkd.config import Config
from mbkd.data import tasks
from mbkd.data.batches import evaluation_batches, tokens_per_batch
from mbkd.data.tokens import load_tokenizer, open_store
from mbkd.errors import UserError
from mbkd.files import write_json, write_whole
from mbkd.model import saved
from mbkd.terminal.progress import ProgressBar


class Weights:
    """Running mean and standard deviation of every mixer's weights over features and examples."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # mixer -> (3, N): count, sum, sum of squares

    def add(self, mixer: str, weights: Tensor) -> None:
        """Add one mixer's weights (N, B, d) of a batch."""
        values = weights.double().flatten(1)  # (N, B * d)
        sums = torch.stack([torch.ones_like(values).sum(1), values.sum(1), values.square().sum(1)]).cpu()
        self.sums[mixer] = self.sums.get(mixer, torch.zeros_like(sums)) + sums

    def summary(self) -> dict[str, list[tuple[float, float]]]:
        """Mean and standard deviation of each branch's weight, by mixer."""
        found = {}
        for mixer, (count, total, squares) in self.sums.items():
            mean = total / count
            spread = (squares / count - mean.square()).clamp(min=0).sqrt()
            found[mixer] = list(zip(mean.tolist(), spread.tolist(), strict=True))
        return found


@torch.inference_mode()
def measure(path: Path, config: Config, split: str, root: Path) -> dict[str, Any]:
    """Weights of every mixer in every language of a split.

    Returns {"split", "branches": languages, "rows": [{"language", "mixer", "branch", "mean", "std"}]}. The means of one
    language and mixer sum to 1. Raises UserError, also for a model without mixers.
    """
    task = config.task
    if split not in tasks.splits(task):
        raise UserError(f"split {split!r}: the task's splits are {', '.join(tasks.splits(task))}")
    folder = saved.folder(path)
    model, tokenizer = saved.load(folder), load_tokenizer(folder)
    if model.config.model_type != "mblm" or (model.outer is None and not any(map(len, model.inner))):
        raise UserError(f"{path}: this model has no mixers")
    device = saved.device()
    model.to(device)
    length = min(config.train.max_length, saved.max_tokens(model.config, tokenizer))
    languages = tasks.languages(task, split)
    branches, rows = model.config.branch_languages, []
    kind = precision.of_model(model.config, device)
    with ProgressBar(f"mixers on {split}", len(languages)) as progress, precision.autocast(kind, device):
        for language in languages:
            tokens = open_store(root / "store", task, split, language, str(folder), length)
            seen = Weights()
            model.watch = seen.add
            for batch in evaluation_batches(tokens.lengths, tokens_per_batch(device.type), 0, 1):
                inputs = {name: torch.from_numpy(values).to(device) for name, values in tokens.batch(batch).items()}
                model(**inputs, language=language)
            for mixer, found in seen.summary().items():
                rows += [
                    {"language": language, "mixer": mixer, "branch": branch, "mean": mean, "std": std}
                    for branch, (mean, std) in zip(branches, found, strict=True)
                ]
            progress.advance()
    model.watch = None
    return {"split": split, "branches": branches, "rows": rows}


def write(found: dict[str, Any], file: Path) -> None:
    """Write the weights as JSON, or as CSV with one line per language, mixer and branch. Raises UserError."""
    if file.suffix == ".json":
        write_json(file, found)
    elif file.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(found["rows"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found["rows"])
        write_whole(file, text.getvalue().encode())
    else:
        raise UserError(f"{file}: unknown ending {file.suffix!r}; use .json or .csv")
