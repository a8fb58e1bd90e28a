"""A trained classifier for rows of text, in torch or as an ONNX graph: probabilities and branch weights.

Letters: B rows, n tokens, d width, N languages with a branch, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbkd import precision
from mbkd.data.batches import evaluation_batches, tokens_per_batch
from mbkd.data.tokens import load_tokenizer
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.predict.export import FILES, start_session

Encoding = dict[str, list[int]]  # the tokenizer's output for one row: input_ids, attention_mask, ...


def length_of(row: Encoding) -> int:
    """Number of tokens of a row, including special tokens."""
    return len(row["input_ids"])


class Classifier:
    """A model and its tokenizer, on this machine's device.

    path        the run directory or the model's folder
    labels      C names, in the order of the probabilities
    branches    N languages, in the order of `branch_weights`; empty for a model without mixers
    pairs       whether the model was trained on pairs of texts; None if unknown
    temperature, temperatures
                the divisor of the logits of rows without a language (None: not calibrated), and by language
                (mbkd/evaluate/calibration.py)
    """

    def __init__(self, path: Path | str) -> None:
        """Load a run directory, a model's folder or a hub id. Raises UserError."""
        folder = saved.folder(path)
        self.path = Path(path) if Path(path).exists() else folder
        self._device = saved.device()
        self._model = saved.load(folder).to(self._device)
        self._precision = precision.of_model(self._model.config, self._device)
        self._read(folder, self._model.config)
        mixed = hasattr(self._model, "inner") and (self._model.outer is not None or any(map(len, self._model.inner)))
        self.branches: list[str] = self._model.config.branch_languages if mixed else []

    def _read(self, folder: Path, config: Any) -> None:
        """Read the attributes from a model's configuration and its tokenizer."""
        self._config, self._tokenizer = config, load_tokenizer(folder)
        self.temperature: float | None = getattr(config, "calibration_temperature", None)
        self.temperatures: dict[str, float] = getattr(config, "calibration_temperatures", {})
        members = getattr(config, "member_configs", None) or [config]  # members of an ensemble
        self.pairs: bool | None = getattr(members[0], "text_pairs", None)
        self._length = saved.max_tokens(config, self._tokenizer)
        self.labels: list[str] = [config.id2label[i] for i in range(config.num_labels)]

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str | None] | None = None,
        languages: str | Sequence[str | None] | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[list[str], np.ndarray]:
        """Label of each text, and the probability of every label (B, C) fp32, both in the order of the texts.

        pairs         second texts, for a model of pairs of texts
        languages     of all texts, or of each text; optional. Selects the temperature and, in students with
                      heads=per_language or inference=single, the branch and the head
        batch_tokens  maximum tokens of a batch, with padding; texts of similar length share a batch. None: 8192, or
                      2048 on a CPU
        Texts longer than the model's maximum are truncated. Raises UserError for wrong types or lengths of arguments.
        """
        if isinstance(texts, str) or isinstance(pairs, str):
            raise UserError("texts and pairs must be lists; for a single text pass [text]")
        texts = list(texts)
        seconds = [None] * len(texts) if pairs is None else list(pairs)
        spoken = [languages] * len(texts) if languages is None or isinstance(languages, str) else list(languages)
        for name, values in (("pairs", seconds), ("languages", spoken)):
            if len(values) != len(texts):
                raise UserError(f"{len(texts)} texts but {len(values)} {name}; their numbers must be equal")
        if wrong := [x for x in (*texts, *(x for x in seconds if x is not None)) if not isinstance(x, str)]:
            raise UserError(f"{wrong[0]!r} is not a text")
        known = {x: saved.spelling(self._config, x) for x in dict.fromkeys(spoken)}
        spoken = [known[x] for x in spoken]
        encoded = self.encode(list(zip(texts, seconds, strict=True)))
        scores = np.empty((len(texts), len(self.labels)), np.float32)
        for language in dict.fromkeys(spoken):
            rows = np.array([i for i, x in enumerate(spoken) if x == language])
            lengths = np.array([length_of(encoded[i]) for i in rows])
            for batch in evaluation_batches(lengths, batch_tokens or tokens_per_batch(self._device.type), 0, 1):
                scores[rows[batch]] = self.probabilities([encoded[i] for i in rows[batch]], language)
        return [self.labels[i] for i in scores.argmax(axis=1)], scores

    def calibration(self, language: str | None = None) -> str:
        """State how the probabilities of rows of a language, or of rows without a language, are calibrated."""
        if self.temperature is None:
            return "the probabilities are not calibrated and do not tell how often a label is correct"
        language = saved.spelling(self._config, language)
        if language in self.temperatures:
            return f"probabilities: calibrated, temperature {self.temperatures[language]:.3g} of {language}"
        unknown = f" (none for {language})" if language is not None else ""
        return f"probabilities: calibrated, overall temperature {self.temperature:.3g}{unknown}"

    def encode(self, rows: Sequence[tuple[str, str | None]]) -> list[Encoding]:
        """Tokens of each row, a text or a pair of texts. In a row that is too long, the longer text is truncated."""
        found: list[Encoding] = [{} for _ in rows]
        for paired in (False, True):  # one tokenizer call takes either pairs or single texts
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
    def probabilities(self, rows: Sequence[Encoding], language: str | None = None) -> np.ndarray:
        """Probability of each label for each encoded row, (B, C) fp32. language: of all rows, if known."""
        told = {"language": language} if saved.takes_language(self._model.config) else {}
        with precision.autocast(self._precision, self._device):
            logits = self._model(**self._inputs(rows), **told).logits
        return logits.float().softmax(dim=-1).cpu().numpy()

    @torch.inference_mode()
    def branch_weights(self, rows: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """Branch weights of each mixer for each encoded row, (B, N): the mean over features (Eq. 11)."""
        found: dict[str, np.ndarray] = {}
        if self.branches:

            def note(mixer: str, weights: Tensor) -> None:  # (N, B, d)
                found[mixer] = weights.float().mean(dim=2).T.cpu().numpy()

            self._model.watch = note
            try:
                with precision.autocast(self._precision, self._device):
                    self._model(**self._inputs(rows))
            finally:
                self._model.watch = None
        return found

    def _inputs(self, rows: Sequence[Encoding]) -> dict[str, Tensor]:
        padded = self._padded(rows)
        if padded["attention_mask"].all():  # a forward pass without a mask needs no device synchronization
            del padded["attention_mask"]
        return {name: values.to(self._device) for name, values in padded.items()}

    def _padded(self, rows: Sequence[Encoding]) -> Any:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return self._tokenizer.pad(columns, return_tensors="pt")


class GraphClassifier(Classifier):
    """A `Classifier` that runs the ONNX graph in a model's folder on the CPU, without branch weights and languages."""

    def __init__(self, path: Path, dtype: str) -> None:
        """Load the graph written by `mbkd export`. dtype: a key of export.FILES. Raises UserError."""
        folder = saved.folder(path)
        file = folder / "onnx" / FILES[dtype]
        if not file.is_file():
            raise UserError(f"{file}: the graph is missing; create it with `mbkd export {path} --dtype {dtype}`")
        self._device = torch.device("cpu")
        self._read(folder, saved.load_configuration(folder))
        self.path, self.branches, self.temperatures = Path(path), [], {}
        self._session = start_session(file)
        self._names = [each.name for each in self._session.get_inputs()]

    def probabilities(self, rows: Sequence[Encoding], language: str | None = None) -> np.ndarray:
        batch = self._padded(rows)
        (logits,) = self._session.run(None, {name: batch[name].numpy() for name in self._names})
        return torch.from_numpy(logits).softmax(dim=-1).numpy()
