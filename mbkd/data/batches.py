"""The language and the rows of every optimizer step, as pure functions of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mbkd.errors import UserError

WINDOW = 50  # number of batches whose rows are sorted by length together; more would mix rows less
LANGUAGE, ROWS, ORDER = range(3)  # keys of independent random streams

EIGHTHS = (2, 3, 4, 6)  # the widths of compiled batches below max_length, in eighths of max_length
TOKENS_PER_BATCH = 8192  # maximum tokens of an evaluation batch on an accelerator, with padding
TOKENS_ON_CPU = 2048  # the activations of a larger batch leave the processor's caches


class Plan:
    """The steps of a run: one language per step, and its rows without replacement (decisions 13, 14, 15).

    The plan is the same on every rank and after every restart. A step does not depend on earlier calls.

    lengths     language -> (rows,) token length of each training row, in the order of the branches
    batch_size  B, the global batch
    epochs      expected passes over the union of the languages; may be a fraction
    draw        uniform: each step draws a language; proportional: with probability ~ rows ** alpha;
                shuffled: every epoch is a shuffled deck with each language's batches exactly once
    group_by_length  whether batches have rows of similar length; the batches still differ from pass to pass

    A pass over a language takes each row at most once, and leaves out rows that do not fill a batch. Every
    pass shuffles again. A language with fewer rows than B repeats rows within a batch.
    Raises UserError for a language without rows.
    """

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        batch_size: int,
        *,
        epochs: float,
        seed: int,
        draw: Literal["uniform", "proportional", "shuffled"] = "uniform",
        alpha: float = 1.0,
        group_by_length: bool = True,
    ) -> None:
        if empty := [language for language, rows in lengths.items() if len(rows) == 0]:
            raise UserError(f"no training rows in {', '.join(empty)}")
        self.languages = tuple(lengths)
        self.batch_size = batch_size
        self._lengths = [np.asarray(rows) for rows in lengths.values()]
        self._seed = seed
        self._group_by_length = group_by_length
        # (N,) batches in a pass over each language
        self._batches = np.array([max(len(rows) // batch_size, 1) for rows in self._lengths])
        self.steps_per_epoch = int(self._batches.sum())
        self.steps = max(round(epochs * self.steps_per_epoch), 1)
        if draw == "shuffled":
            self._language = self._decks()
        else:
            rows = np.array([len(rows) for rows in self._lengths], float)
            self._language = self._independent(rows ** (alpha if draw == "proportional" else 0.0))
        self._ordinal = np.empty(self.steps, np.int64)  # the number of earlier steps with the same language
        for index in range(len(self.languages)):
            at = np.flatnonzero(self._language == index)
            self._ordinal[at] = np.arange(len(at))
        self._passes: dict[int, tuple[int, np.ndarray]] = {}  # language -> (number of its current pass, batches)

    def language(self, step: int) -> str:
        """Return the language of a step; steps count from 0."""
        return self.languages[self._language[step]]

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, as indices into its language's rows: (B,)."""
        index = int(self._language[step])
        number, batch = divmod(int(self._ordinal[step]), int(self._batches[index]))
        found = self._passes.get(index)
        if found is None or found[0] != number:
            found = self._passes[index] = number, self._pass(index, number)
        return found[1][batch]

    @property
    def digest(self) -> str:
        """The hash of everything that decides the steps; equal if and only if the plans are equal."""
        arrays = [self._language, *self._lengths, np.array([self.batch_size, self._seed, self._group_by_length])]
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    @property
    def steps_per_language(self) -> dict[str, int]:
        """The number of steps of each language."""
        counts = np.bincount(self._language, minlength=len(self.languages))
        return dict(zip(self.languages, counts.tolist(), strict=True))

    def padding_efficiency(self, steps: int = 200) -> float:
        """Return real tokens / padded tokens over the first steps, with each batch padded to its longest row."""
        lengths = [self._lengths[self._language[s]][self.rows(s)] for s in range(min(steps, self.steps))]
        return float(sum(x.sum() for x in lengths) / sum(x.max() * len(x) for x in lengths))

    def _independent(self, weights: np.ndarray) -> np.ndarray:
        """Return (steps,) language indices. The first steps do not depend on the number of steps."""
        bounds = np.cumsum(weights / weights.sum())[:-1]  # (N - 1,)
        uniform = (_draws(self.steps, self._seed, LANGUAGE) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
        return np.searchsorted(bounds, uniform, side="right")

    def _decks(self) -> np.ndarray:
        """Return (steps,) language indices; every epoch is one shuffled deck."""
        deck = np.repeat(np.arange(len(self.languages)), self._batches)
        epochs = -(-self.steps // len(deck))
        shuffled = [deck[_permutation(len(deck), self._seed, LANGUAGE, epoch)] for epoch in range(epochs)]
        return np.concatenate(shuffled)[: self.steps]

    def _pass(self, index: int, number: int) -> np.ndarray:
        """Return pass `number` over a language: (batches, B) row indices."""
        lengths, batches = self._lengths[index], int(self._batches[index])
        rows = _permutation(len(lengths), self._seed, ROWS, index, number)
        rows = np.resize(rows, batches * self.batch_size)  # cuts the remainder, or repeats a small language
        if self._group_by_length:
            # At least four windows, because one window would form the same batches in every pass.
            together = max(min(WINDOW, batches // 4), 1) * self.batch_size
            window = np.arange(len(rows)) // together
            rows = rows[np.lexsort((lengths[rows], window))]  # stable: equal lengths stay shuffled
        return rows.reshape(batches, -1)[_permutation(batches, self._seed, ORDER, index, number)]


def micro_batch(rows: np.ndarray, rank: int, world: int, accumulation: int, index: int) -> np.ndarray:
    """Return a rank's rows of the global batch for one accumulation step (decision 32).

    rows: (B,), index: 0 .. accumulation - 1; returns (B / (world * accumulation),)
    All ranks and accumulation steps together take each row of the batch once. The stride gives every rank short and
    long rows of a batch that is sorted by length. Raises UserError if B is not divisible by world * accumulation.
    """
    parts = world * accumulation
    if len(rows) % parts:
        down = len(rows) // parts * parts
        fits = f"{down} or {down + parts}" if down else f"{parts}"
        raise UserError(
            f"batch_size {len(rows)} is not divisible by {world} ranks x {accumulation} accumulation steps "
            f"= {parts}; {fits} would fit"
        )
    return rows[index * world + rank :: parts]


def compiled_width(longest: int, max_length: int) -> int:
    """Return the padded width of a batch for compiled layers: one of a few values, to limit compilations.

    longest: tokens of the longest row, at most max_length
    Widths are multiples of 8, or max_length.
    """
    return next((w for w in (max_length * eighths // 64 * 8 for eighths in EIGHTHS) if longest <= w), max_length)


def tokens_per_batch(device_type: str) -> int:
    """Return the budget of `evaluation_batches` for a device type of torch, such as "cpu" or "cuda"."""
    return TOKENS_ON_CPU if device_type == "cpu" else TOKENS_PER_BATCH


def evaluation_batches(lengths: np.ndarray, tokens_per_batch: int, rank: int, world: int) -> list[np.ndarray]:
    """Return a rank's evaluation batches, longest rows first. All ranks together take each row once.

    lengths: (rows,) token length of each row
    A batch has rows * longest <= tokens_per_batch, or one row. A single last row shares a batch with the row before it.
    The ranks' counts differ by at most one batch.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(tokens_per_batch // max(int(lengths[order[start]]), 1), 1)
        batches.append(order[start : start + count])
        start += count
    if len(batches) > 1 and len(batches[-1]) == 1 and len(batches[-2]) > 2:
        # The matrix product of a single row can depend on the alignment of its memory.
        batches[-2:] = [batches[-2][:-1], np.concatenate([batches[-2][-1:], batches[-1]])]
    return batches[rank::world]


def _draws(count: int, *key: int) -> np.ndarray:
    """Return (count,) random 64-bit numbers that depend on the key only.

    The numbers are the raw output of a counter-based generator. numpy guarantees this output across versions,
    unlike the output of `Generator.permutation`.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def _permutation(count: int, *key: int) -> np.ndarray:
    return np.argsort(_draws(count, *key), kind="stable")


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Indices, int64, of at most `most` of `count` rows. Rows sorted by label keep their shares of labels."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
