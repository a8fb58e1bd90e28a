"""A trained classifier that answers rows of text, by torch or as an ONNX graph: probabilities, weights of branches.

Letters: B rows, n tokens, d width, N languages with a branch, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.predict.export import FILES, start_session

Inputs = dict[str, list[int]]  # what the tokenizer makes of one row: input_ids, attention_mask, ...


def length_of(row: Inputs) -> int:
    """Tokens of a row, the special ones included."""
    return len(row["input_ids"])


class Classifier:
    """A model and its tokenizer, on this machine's device.

    labels    the C names, in the order of the probabilities
    branches  the N languages that `branch_weights` tells of; none of a model without mixers
    pairs  whether it was trained on pairs of texts; None of a model that does not say
    calibrated  whether a probability says how often the label is right (mbkd/evaluate/calibration.py)
    """

    def __init__(self, path: Path) -> None:
        """Load a run directory or a model's folder. Raises UserError."""
        folder = saved.folder(path)
        self._device = saved.device()
        self._model = saved.load(folder).to(self._device)
        self._read(folder, self._model.config)
        mixed = hasattr(self._model, "inner") and (self._model.outer is not None or any(map(len, self._model.inner)))
        self.branches: list[str] = self._model.config.branch_languages if mixed else []

    def _read(self, folder: Path, config: Any) -> None:
        """Take what a model's configuration and its tokenizer say."""
        self._tokenizer = saved.load_tokenizer(folder)
        self.calibrated = getattr(config, "calibration_temperature", None) is not None
        members = getattr(config, "member_configs", None) or [config]  # of an ensemble
        self.pairs: bool | None = getattr(members[0], "text_pairs", None)
        self._length = saved.max_tokens(config, self._tokenizer)
        self.labels: list[str] = [config.id2label[i] for i in range(config.num_labels)]

    def encode(self, rows: Sequence[tuple[str, str | None]]) -> list[Inputs]:
        """The tokens of each row, a text and perhaps the second one of a pair; the longer text of a long row is cut."""
        found: list[Inputs] = [{} for _ in rows]
        for paired in (False, True):  # one call of the tokenizer takes pairs or lone texts
            wanted = [i for i, (_, pair) in enumerate(rows) if (pair is not None) == paired]
            if not wanted:
                continue
            pairs = [rows[i][1] for i in wanted] if paired else None
            cut = {"truncation": "longest_first", "max_length": self._length}
            encoded = self._tokenizer([rows[i][0] for i in wanted], pairs, **cut)
            for place, i in enumerate(wanted):
                found[i] = {name: values[place] for name, values in encoded.items()}
        return found

    @torch.inference_mode()
    def probabilities(self, rows: Sequence[Inputs]) -> np.ndarray:
        """The probability of each label for each encoded row, (B, C) fp32."""
        logits = self._model(**self._padded(rows)).logits
        return logits.float().softmax(dim=-1).cpu().numpy()

    @torch.inference_mode()
    def branch_weights(self, rows: Sequence[Inputs]) -> dict[str, np.ndarray]:
        """Each mixer's weights of the branches for each encoded row, (B, N): the mean over features (Eq. 11)."""
        found: dict[str, np.ndarray] = {}
        if self.branches:

            def note(mixer: str, weights: Tensor) -> None:  # (N, B, d)
                found[mixer] = weights.float().mean(dim=2).T.cpu().numpy()

            self._model.watch = note
            try:
                self._model(**self._padded(rows))
            finally:
                self._model.watch = None
        return found

    def _padded(self, rows: Sequence[Inputs]) -> Any:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return self._tokenizer.pad(columns, return_tensors="pt").to(self._device)


class GraphClassifier(Classifier):
    """The same by the ONNX graph beside a model, on the CPU; without weights of branches."""

    def __init__(self, path: Path, dtype: str) -> None:
        """Load the graph that `mbkd export` wrote; dtype: a key of export.FILES. Raises UserError."""
        folder = saved.folder(path)
        file = folder / "onnx" / FILES[dtype]
        if not file.is_file():
            raise UserError(f"{file}: no graph here; `mbkd export {path} --dtype {dtype}` writes it")
        self._device = torch.device("cpu")
        self._read(folder, saved.load_configuration(folder))
        self.branches = []
        self._session = start_session(file)
        self._names = [each.name for each in self._session.get_inputs()]

    def probabilities(self, rows: Sequence[Inputs]) -> np.ndarray:
        batch = self._padded(rows)
        (logits,) = self._session.run(None, {name: batch[name].numpy() for name in self._names})
        return torch.from_numpy(logits).softmax(dim=-1).numpy()
