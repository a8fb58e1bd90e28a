"""The text that benchmarks read: XNLI where it lies beside the checkout, else toy text as long as XNLI's."""

from itertools import cycle
from pathlib import Path

import numpy as np

from mbkd.config import Task
from mbkd.demo import toy, toy_models

LANGUAGES = ("en", "fr", "zh")
XNLI = Path(__file__).parents[2] / "shared" / "data" / "xnli"
PIECES = 6_000  # of each language: about 16,000 together
# Median and spread (of the logarithm) of the tokens of an XNLI pair under a vocabulary of 16,000 pieces.
LENGTHS = {"en": (54, 0.42), "fr": (61, 0.42), "zh": (69, 0.42)}


def xnli(folder: Path, rows: int, zero_shot: tuple[str, ...] = ()) -> Task:
    """A task of so many training pairs in each of three languages."""
    path = XNLI if XNLI.is_dir() else _as_long(folder / "text", rows)
    return Task(kind="xnli", path=str(path), zero_shot=zero_shot if XNLI.is_dir() else (), limit=rows)


def tokenizer(folder: Path, task: Task) -> None:
    """A multilingual tokenizer of XLM-R's kind with about 16,000 pieces, made from the task's text, in a folder."""
    toy_models.unigram(_texts(task), PIECES).save_pretrained(folder)


def word_pieces(folder: Path, task: Task) -> None:
    """One of BERT's kind, likewise."""
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
    """Toy sentences, strung together to pairs with XNLI's lengths, in the layout of XNLI's machine translations."""
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
    """About how many tokens the sentences have: words and marks, or in Chinese half the characters."""
    text = " ".join(sentence for part in parts for sentence in part)
    return len(text) // 2 if language == "zh" else len(text.split()) + sum(map(text.count, ".,!?"))
