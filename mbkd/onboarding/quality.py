"""Quality of a task's rows: label balance, lengths, unknown tokens, duplicates and languages.

Counts and comparisons use all rows. Lengths, unknown tokens and languages use SAMPLE evenly spaced rows.
"""

import contextlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mbkd.config import Config
from mbkd.data import tasks
from mbkd.data.batches import evenly_spaced
from mbkd.data.tokens import load_tokenizer
from mbkd.errors import UserError
from mbkd.inputs import refuse_lost_segments
from mbkd.onboarding import languages
from mbkd.terminal.progress import ProgressBar

SAMPLE = 1000  # rows per split and language
EXAMPLES = 2
# Limits of the warnings.
FEW_ROWS, FEW_OF_A_LABEL = 100, 20  # training rows
TRUNCATED = 0.05  # share of truncated rows
UNKNOWN = 0.01  # share of unknown tokens
OWN_LANGUAGE = 0.8  # share of rows in their own language
CONSTANT = 0.5  # share of rows with the same text


def inspect(config: Config) -> dict[str, Any]:
    """Return all facts that `mbkd data` shows, as plain values.

    tokenizers: {name: {"model", "problem"}}, with the names `student`, `teacher en`, `teacher en 2`. A tokenizer that
    cannot be loaded has a problem, and is left out of the other facts.
    splits: an entry of `_measure` for each readable split and language.
    problems: faults that would stop training. warnings: faults that would degrade the results.
    """
    task = config.task
    problems: list[str] = []
    tokenizers, loaded = _tokenizers(config, problems)
    found: list[dict[str, Any]] = []
    before: dict[str, list[pa.Array]] = {}  # split -> the keys of its rows, all languages
    languages = {s: config.languages if s == "train" else tasks.languages(task, s) for s in tasks.splits(task)}
    wanted = [(split, language) for split, each in languages.items() for language in each]
    with ProgressBar("checking rows", len(wanted)) as progress:
        for split, language in wanted:
            try:
                rows = tasks.load(task, split, language, warn=False).data.table
            except UserError as error:
                problems.append(str(error))
            else:
                mine = {x: loaded[x] for x in loaded if x == "student" or x.split()[1] == language}
                found.append(_measure(config, split, language, rows, mine, before))
            progress.advance()
    return {
        "task": task.kind,
        "labels": tasks.label_names(task),
        "max_length": config.train.max_length,
        "tokenizers": tokenizers,
        "splits": found,
        "problems": list(dict.fromkeys(problems)),  # every language reports the same missing file
        "warnings": [
            *_unlisted(config, [split for split, each in languages.items() if each]),
            *(warning for each in found for warning in _warnings(each, config.train.max_length)),
        ],
    }


def _unlisted(config: Config, splits: list[str]) -> list[dict[str, str]]:
    """Return a warning for each split with rows in languages that the configuration does not name."""
    said = []
    for split in splits:
        with contextlib.suppress(UserError):  # an unreadable file is already a problem
            if left := tasks.unlisted(config.task, split):
                message = f"in neither supervised nor zero_shot, and ignored: {tasks.shown(left)}"
                said.append({"split": split, "language": "others", "kind": "other languages", "message": message})
    return said


def _tokenizers(config: Config, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return descriptions of all tokenizers, and the loaded ones, by name. Appends to `problems`."""
    models = {"student": config.student.backbone}
    for language in config.languages if config.distill.signal != "labels" else ():
        for index, teacher in enumerate(config.teachers.get(language, ()), 1):
            models[f"teacher {language}" + (f" {index}" if index > 1 else "")] = teacher.model
    described, loaded = {}, {}
    for name, model in models.items():
        try:
            loaded[name] = load_tokenizer(model)
            described[name] = {"model": model, "problem": None}
        except UserError as error:
            described[name] = {"model": model, "problem": str(error).splitlines()[0]}
            continue
        try:
            refuse_lost_segments(model, loaded[name], config.task)
        except UserError as error:
            problems.append(str(error))
    return described, loaded


def _measure(
    config: Config,
    split: str,
    language: str,
    rows: pa.Table,
    tokenizers: dict[str, Any],
    before: dict[str, list[pa.Array]],
) -> dict[str, Any]:
    """Return the facts of one split of one language. Adds keys to `before`, the splits read so far.

    empty: rows with an empty text in a pair; duplicates: rows that repeat another row's texts; conflicts: duplicates
    with a different label; also_in: {split: rows whose texts are also in that split}; constant: share of rows with the
    most frequent first text.
    """
    count = rows.num_rows
    text_a, text_b, labels = (rows.column(x).combine_chunks() for x in ("text_a", "text_b", "label"))
    keys = pc.binary_join_element_wise(_key(text_a), _key(text_b.fill_null("")), "\x1f")
    distinct = pc.count_distinct(keys).as_py()
    with_labels = pc.binary_join_element_wise(keys, labels.cast(pa.string()), "\x1f")
    also_in = {
        other: int(pc.sum(pc.is_in(keys, value_set=pa.chunked_array(there).combine_chunks())).as_py())
        for other, there in before.items()
        if other != split
    }
    before.setdefault(split, []).append(keys)
    sample = evenly_spaced(count, SAMPLE)
    first, second = (x.take(pa.array(sample)).to_pylist() for x in (text_a, text_b))
    names = tasks.label_names(config.task)
    return {
        "split": split,
        "language": language,
        "rows": count,
        "labels": dict(zip(names, np.bincount(labels.to_numpy(), minlength=len(names)).tolist(), strict=True)),
        "empty": 0 if text_b.null_count else _empty(text_a) + _empty(text_b),
        "duplicates": count - distinct,
        "conflicts": pc.count_distinct(with_labels).as_py() - distinct,
        "also_in": also_in,
        "constant": max(pc.value_counts(text_a).field("counts").to_pylist()) / count,
        "looks_like": languages.looks_like(
            (f"{a} {b}" if b else a for a, b in zip(first, second, strict=True)), language
        ),
        "tokens": {name: _tokens(x, first, second, config.train.max_length) for name, x in tokenizers.items()},
        "examples": [
            {"label": names[labels[i].as_py()], "text": text_a[i].as_py(), "text_pair": text_b[i].as_py()}
            for i in range(min(EXAMPLES, count))
        ],
    }


def _empty(texts: pa.Array) -> int:
    return int(pc.sum(pc.equal(_key(texts), "")).as_py())


def _key(texts: pa.Array) -> pa.Array:
    """Return texts in the form for comparison: without case and outer space."""
    return pc.utf8_lower(pc.utf8_trim_whitespace(texts))


def _tokens(tokenizer: Any, first: list[str], second: list[str | None], max_length: int) -> dict[str, Any]:
    """Return percentiles of tokens per row, and the shares of truncated and unknown tokens.

    longer: share of rows longer than max_length; cut: share of truncated tokens; unknown: share of unknown tokens, or
    None for a tokenizer without an unknown token.
    """
    alone = second[0] is None  # either all rows of a task are pairs, or no row is
    encoded = tokenizer(first, None if alone else second, truncation=False, return_attention_mask=False)["input_ids"]
    lengths = np.array([len(ids) for ids in encoded])
    unknown = tokenizer.unk_token_id
    if unknown in {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}:
        unknown = None
    p50, p90, p99 = np.percentile(lengths, [50, 90, 99]).round().astype(int).tolist()
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "longer": float((lengths > max_length).mean()),
        "cut": float(np.maximum(lengths - max_length, 0).sum() / lengths.sum()),
        "unknown": None if unknown is None else sum(ids.count(unknown) for ids in encoded) / int(lengths.sum()),
    }


def _warnings(found: dict[str, Any], max_length: int) -> list[dict[str, str]]:
    """Return the warnings about one split of one language."""
    said: list[tuple[str, str]] = []
    train, rows = found["split"] == "train", found["rows"]
    if train and rows < FEW_ROWS:
        said.append(("few rows", f"only {_rows(rows)} for training"))
    for label, count in found["labels"].items():
        if not count:
            said.append(("label missing", f"no row has the label {label!r}"))
        elif train and count < FEW_OF_A_LABEL:
            said.append(("tiny class", f"label {label!r}: only {_rows(count)}"))
    if found["constant"] >= CONSTANT and round(found["constant"] * rows) > 1:
        said.append(("constant text", f"{found['constant']:.0%} of the rows have the same text; check the column"))
    for other, count in found["also_in"].items():
        if count:
            what = "inflates its scores; remove the rows from one split" if other == "train" else "evaluated twice"
            said.append(("leakage", f"also in {other}: {_rows(count)} ({what})"))
    if found["empty"]:
        said.append(("empty text", f"an empty text in a pair: {_rows(found['empty'])}"))
    if found["conflicts"]:
        said.append(
            ("conflicting labels", f"the same text as another row, but a different label: {_rows(found['conflicts'])}")
        )
    if (look := found["looks_like"]) and look["own"] < OWN_LANGUAGE:
        others = ", ".join(f"{share:.0%} {language}" for language, share in look["others"].items())
        said.append(("wrong language", f"{look['own']:.0%} of the rows look like {found['language']} ({others})"))
    for name, tokens in found["tokens"].items():
        said += _of_tokens(name, tokens, max_length)
    where = {"split": found["split"], "language": found["language"]}
    return [where | {"kind": kind, "message": message} for kind, message in said]


def _of_tokens(name: str, tokens: dict[str, Any], max_length: int) -> list[tuple[str, str]]:
    """Return the warnings about truncated and unknown tokens of a tokenizer."""
    said = []
    if tokens["longer"] > TRUNCATED:
        share = f"{tokens['longer']:.0%} of the rows have more than {max_length} tokens of {name}"
        said.append(("truncation", f"{share}, 99 % up to {tokens['p99']}; raise train.max_length"))
    if tokens["unknown"] is not None and tokens["unknown"] > UNKNOWN:
        said.append(("unknown tokens", f"{tokens['unknown']:.1%} of the tokens are unknown to {name}"))
    return said


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")
