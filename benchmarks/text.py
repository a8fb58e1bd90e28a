"""Text for the benchmarks: XNLI if it is next to the checkout, otherwise toy text with XNLI's lengths."""

from itertools import cycle
from pathlib import Path

import numpy as np

from mbkd.config import Task
from mbkd.demo import toy, toy_models

LANGUAGES = ("en", "fr", "zh")
XNLI = Path(__file__).parents[2] / "shared" / "data" / "xnli"
PIECES = 6_000  # per language; about 16,000 in total
# Median and spread (of the logarithm) of the tokens of an XNLI pair under a vocabulary of 16,000 pieces.
LENGTHS = {"en": (54, 0.42), "fr": (61, 0.42), "zh": (69, 0.42)}


def xnli(folder: Path, rows: int, zero_shot: tuple[str, ...] = ()) -> Task:
    """Return a task with `rows` training pairs in each of three languages."""
    path = XNLI if XNLI.is_dir() else _as_long(folder / "text", rows)
    return Task(kind="xnli", path=str(path), zero_shot=zero_shot if XNLI.is_dir() else (), limit=rows)


def tokenizer(folder: Path, task: Task) -> None:
    """Write a unigram tokenizer, as in XLM-R, with about 16,000 pieces from the task's text to a folder."""
    toy_models.unigram(_texts(task), PIECES).save_pretrained(folder)


def word_pieces(folder: Path, task: Task) -> None:
    """Write a WordPiece tokenizer, as in BERT, from the task's text to a folder."""
    lines = [line for texts in _texts(task).values() for line in texts]
    toy_models.word_piece(lines, PIECES * len(task.supervised)).save_pretrained(folder)


def _texts(task: Task) -> dict[str, list[str]]:
    from mbkd.data import tasks

    texts = {}
    for language in task.supervised:
        rows = tasks.load(task, "train", language)
        texts[language] = [*rows["text_a"], *rows["text_b"]]
    return texts


def _as_long(folder: Path, rows: int) -> Path:
    """Write pairs of concatenated toy sentences with XNLI's lengths, in the layout of XNLI's translations."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for language, (median, spread) in LENGTHS.items():
        sentences = cycle(part for pair in toy.unlabelled(language, 2000) for part in pair if part)
        lines = ["premise\thypo\tlabel"]
        for number, length in enumerate(median * np.exp(spread * draw.standard_normal(rows))):
            parts = [[next(sentences)], [next(sentences)]]
            while _words(language, parts) < length - 3:  # three special tokens
                parts[0].append(next(sentences))
            label = ("entailment", "neutral", "contradictory")[number % 3]
            lines.append("\t".join([*(" ".join(part) for part in parts), label]))
        (folder / f"multinli.train.{language}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _words(language: str, parts: list[list[str]]) -> int:
    """Estimate the tokens of sentences: words and punctuation, or half the characters in Chinese."""
    text = " ".join(sentence for part in parts for sentence in part)
    return len(text) // 2 if language == "zh" else len(text.split()) + sum(map(text.count, ".,!?"))
