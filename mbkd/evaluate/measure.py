"""Logits of every row of a split, computed over ranks, saved as arrays and scored."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbkd.config import Task
from mbkd.data.batches import evaluation_batches, tokens_per_batch
from mbkd.data.tokens import Tokens
from mbkd.distributed import Ranks, sum_over_ranks, tensors
from mbkd.evaluate import metrics
from mbkd.files import refuse_full, write_whole
from mbkd.model import saved


@torch.inference_mode()
def logits(model: Any, tokens: Tokens, ranks: Ranks, **arguments: Any) -> np.ndarray:
    """Raw logits (rows, C) in fp32, in the token store's order, identical on every rank; without dropout.

    arguments: passed to the model's forward, such as `language`. Collective: all ranks must call.
    """
    training = model.training
    model.eval()
    found = None
    with saved.raw_logits(model):
        budget = tokens_per_batch(ranks.device.type)
        for rows in evaluation_batches(tokens.lengths, budget, ranks.rank, ranks.world):
            out = model(**tensors(tokens.batch(rows), ranks.device), **arguments).logits.float()
            if found is None:
                found = torch.zeros(len(tokens), out.shape[1], device=ranks.device)
            found[torch.from_numpy(rows).to(ranks.device)] = out
    model.train(training)
    if found is None:  # fewer batches than ranks
        found = torch.zeros(len(tokens), model.config.num_labels, device=ranks.device)
    # One rank fills each row and the others leave zeros there, so the sum is an exact gather.
    return sum_over_ranks(found).cpu().numpy()


def scores(
    found: dict[str, np.ndarray], labels: dict[str, np.ndarray], task: Task, ordinal: bool
) -> dict[str, dict[str, Any]]:
    """Accuracy (and MAE for ordinal labels) per language, and their averages, from logits per language."""
    result: dict[str, dict[str, Any]] = {}
    for name, score in (("accuracy", metrics.accuracy), ("mae", metrics.mae)):
        if name == "accuracy" or ordinal:
            each = {language: score(found[language], labels[language]) for language in found}
            result[name] = each
            result[f"{name}_averages"] = metrics.averages(each, task.supervised, task.zero_shot)
    return result


def by_split(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Scores by split as the fields of a `Result`: accuracy, averages, mae, mae_averages."""
    fields = {"accuracy": "accuracy", "averages": "accuracy_averages", "mae": "mae", "mae_averages": "mae_averages"}
    return {
        field: {split: scores[name] for split, scores in found.items() if name in scores}
        for field, name in fields.items()
    }


def save(
    folder: Path,
    split: str,
    found: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    ids: Mapping[str, Sequence[str]],
) -> None:
    """Write logits/ and labels/ as <split>.<language>.npy and ids/ as <split>.<language>.json in a folder.

    Raises UserError for a full disk.
    """
    with refuse_full(folder):
        for name, arrays in (("logits", found), ("labels", labels)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for language, values in arrays.items():
                content = io.BytesIO()
                np.save(content, values)
                write_whole(folder / name / f"{split}.{language}.npy", content.getvalue())
        (folder / "ids").mkdir(exist_ok=True)
        for language, names in ids.items():
            text = json.dumps(list(names), ensure_ascii=False)
            write_whole(folder / "ids" / f"{split}.{language}.json", text.encode())
