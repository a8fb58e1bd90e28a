"""Labels for rows of text: read, classified and written window by window, so memory does not grow with the input."""

import contextlib
import csv
import difflib
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from mbkd.data import readers
from mbkd.data.batches import evaluation_batches
from mbkd.errors import UserError
from mbkd.predict.classifier import Classifier, length_of

WINDOW = 2048  # rows that are read, and sorted by length, at a time
SECONDS_BETWEEN_LINES = 10.0
ENDINGS = (".jsonl", ".csv", ".tsv", ".txt")


class Row(NamedTuple):
    """One row to classify, and the line it starts at."""

    line: int
    text: str
    pair: str | None


class Bad(NamedTuple):
    """A row that cannot be classified, and why."""

    line: int
    reason: str


def predict(
    model: Path, source: Path | None, out: Path | None, column: str, pair_column: str | None, batch_tokens: int
) -> int:
    """Classify every row of a file (None: standard input) and write one line for each, in the order of the input.

    out: a .csv or .jsonl file; None writes JSONL to standard output. Returns the number of bad rows, which are reported
    on standard error with their lines. Raises UserError for a model, file or column that is not there, and for an
    output that is the input.
    """
    name = "standard input" if source is None else str(source)
    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{out}: unknown ending {out.suffix!r}; predictions go to .jsonl or .csv")
    if out is not None and _is_input(out, source):
        raise UserError(
            f"{out}: is the input too, and would be emptied before it is read; name another file with --out"
        )
    with contextlib.ExitStack() as stack:
        rows = _rows(source, name, column, pair_column, stack)
        classify = _classifier(model, batch_tokens)
        first = next(rows, None)  # a column that is not there is found before the output is opened
        rows = rows if first is None else itertools.chain([first], rows)
        file = sys.stdout if out is None else stack.enter_context(out.open("w", encoding="utf-8", newline=""))
        write = _csv_writer(file) if out is not None and out.suffix == ".csv" else _jsonl_writer(file)
        began = spoke = time.monotonic()
        done = bad = 0
        for window in _windows(rows):
            good = [row for row in window if isinstance(row, Row)]
            for row in window:
                if isinstance(row, Bad):
                    print(f"{name}, line {row.line}: {row.reason}", file=sys.stderr)
            for row, found in zip(good, classify(good) if good else (), strict=True):
                write(row.line, found)
            file.flush()
            done, bad = done + len(good), bad + len(window) - len(good)
            if time.monotonic() - spoke >= SECONDS_BETWEEN_LINES:
                spoke = time.monotonic()
                print(_speed(done, spoke - began), file=sys.stderr, flush=True)
    skipped = f"; {bad:,} bad rows left out" if bad else ""
    print(f"{_speed(done, time.monotonic() - began)}{skipped}", file=sys.stderr)
    return bad


def pairs(source: Path, column: str, pair_column: str | None) -> list[tuple[str, str | None]]:
    """The texts of a file's rows, and the second texts of pairs. Raises UserError for the first bad row."""
    found = []
    with contextlib.ExitStack() as stack:
        for row in _rows(source, str(source), column, pair_column, stack):
            if isinstance(row, Bad):
                raise UserError(f"{source}, line {row.line}: {row.reason}")
            found.append((row.text, row.pair))
    return found


def _is_input(out: Path, source: Path | None) -> bool:
    """Whether the output is the file that is read (None: standard input), also by another name or a link."""
    try:
        return os.path.samestat(out.stat(), os.fstat(sys.stdin.fileno()) if source is None else source.stat())
    except OSError:  # one of them is not there, or standard input is no file
        return False


def _classifier(path: Path, batch_tokens: int) -> Callable[[list[Row]], list[dict[str, float]]]:
    """How to get the probability of each label for each of some rows."""
    classifier = Classifier(path)

    def classify(rows: list[Row]) -> list[dict[str, float]]:
        encoded = classifier.encode([(row.text, row.pair) for row in rows])
        found = np.empty((len(rows), len(classifier.labels)), np.float32)
        for batch in evaluation_batches(np.array([length_of(x) for x in encoded]), batch_tokens, 0, 1):
            found[batch] = classifier.probabilities([encoded[i] for i in batch])
        return [dict(zip(classifier.labels, values, strict=True)) for values in found.tolist()]

    return classify


def _windows(rows: Iterator[Row | Bad]) -> Iterator[list[Row | Bad]]:
    while window := list(itertools.islice(rows, WINDOW)):
        yield window


def _jsonl_writer(file: IO[str]) -> Callable[[int, dict[str, float]], None]:
    def write(line: int, found: dict[str, float]) -> None:
        probabilities = {label: round(value, 6) for label, value in found.items()}
        record = {"line": line, "label": max(found, key=found.__getitem__), "probabilities": probabilities}
        file.write(json.dumps(record, ensure_ascii=False) + "\n")

    return write


def _csv_writer(file: IO[str]) -> Callable[[int, dict[str, float]], None]:
    writer = csv.writer(file, lineterminator="\n")
    begun = False

    def write(line: int, found: dict[str, float]) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(["line", "label", *found])
            begun = True
        writer.writerow([line, max(found, key=found.__getitem__), *(f"{value:.6f}" for value in found.values())])

    return write


def _speed(rows: int, seconds: float) -> str:
    return f"{rows:,} rows in {seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} rows/s"


# ------------------------------------------------------------------------------------------------------------- reading


def _rows(
    source: Path | None, name: str, column: str, pair_column: str | None, stack: contextlib.ExitStack
) -> Iterator[Row | Bad]:
    """The rows of a file by its ending; standard input is JSONL if it begins with a brace, else a text a line."""
    if source is None:
        stream: IO[bytes] = sys.stdin.buffer
        ahead = list(_until_text(stream))
        lines: Iterable[bytes] = itertools.chain(ahead, stream)
        kind = ".jsonl" if ahead and ahead[-1].lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else ".txt"
    else:
        kind = source.suffix.lower()
        if kind not in ENDINGS:
            raise UserError(f"{source}: unknown ending {source.suffix!r}; it can be {', '.join(ENDINGS)}")
        try:
            lines = stream = stack.enter_context(source.open("rb"))
        except OSError as error:
            raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    if kind in (".csv", ".tsv"):
        return map(_checked, _delimited(stream, name, "\t" if kind == ".tsv" else ",", column, pair_column))
    if kind == ".jsonl":
        return map(_checked, _json_lines(lines, name, column, pair_column))
    if pair_column is not None:
        raise UserError(f"{name}: a text a line has no pairs; give JSONL, CSV or TSV for --text-pair")
    return map(_checked, _plain(lines))


def _checked(row: Row | Bad) -> Row | Bad:
    """The row, or what is wrong with its texts."""
    if isinstance(row, Bad):
        return row
    if not readers.is_unicode(f"{row.text}{row.pair}"):
        return Bad(row.line, "not UTF-8")
    return row if row.text.strip() else Bad(row.line, "the text is empty")


def _until_text(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines up to the first one that is not blank."""
    for line in stream:
        yield line
        if line.strip():
            return


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _plain(lines: Iterable[bytes]) -> Iterator[Row | Bad]:
    for number, line in _decoded(lines):
        yield Row(number, line, None)


def _json_lines(lines: Iterable[bytes], name: str, column: str, pair_column: str | None) -> Iterator[Row | Bad]:
    wanted = [column] if pair_column is None else [column, pair_column]
    first = True
    for number, line in _decoded(lines):
        if not line.strip():
            continue
        try:
            row = readers.json_object(line)
        except ValueError as error:
            yield Bad(number, str(error) if readers.is_unicode(line) else "not UTF-8")
            continue
        if first:
            _column_indices(name, list(row), wanted)
            first = False
        missing = [key for key in wanted if key not in row]
        wrong = [key for key in wanted if isinstance(row.get(key), (dict, list))]
        if missing or wrong:
            yield Bad(number, f"no field {missing[0]!r}" if missing else f"{wrong[0]!r} is no text")
            continue
        texts = ["" if row[key] is None else str(row[key]) for key in wanted]
        yield Row(number, texts[0], texts[1] if pair_column is not None else None)


def _delimited(
    stream: IO[bytes], name: str, delimiter: str, column: str, pair_column: str | None
) -> Iterator[Row | Bad]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(readers.LONGEST)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"{name}, line 1: not a well-formed header ({error}); check the quotes") from None
    wanted = _column_indices(name, header, [column] if pair_column is None else [column, pair_column])
    while True:
        line = reader.line_num + 1  # a quoted field may span lines: its first one counts
        try:
            row = next(reader, None)
        except csv.Error as error:
            span = f" up to line {reader.line_num}" * (reader.line_num > line)
            yield Bad(line, f"not well-formed{span} ({error}); check the quotes")
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            yield Bad(line, f"{len(row)} fields where {len(header)} belong; quote a field that holds the separator")
            continue
        yield Row(line, row[wanted[0]], row[wanted[1]] if pair_column is not None else None)


def _column_indices(name: str, there: list[str], wanted: list[str]) -> list[int]:
    """Where the columns stand. Raises UserError that names those that are there."""
    for column in wanted:
        if column not in there:
            near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{name}: no column {column!r}; {hint}there are {', '.join(there) or 'none'}")
    return [there.index(column) for column in wanted]
