"""Classify rows of text window by window, in memory that does not depend on the number of rows."""

import contextlib
import csv
import itertools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mbkd.data import delimited, json_objects, readers
from mbkd.errors import UserError
from mbkd.files import beside, refuse_full
from mbkd.predict.classifier import Classifier

WINDOW = 2048  # rows that are read and sorted by length at a time
SECONDS_BETWEEN_LINES = 10.0
SECONDS_OPEN = 0.1  # rows from a pipe wait at most this long for a full window
OUTPUTS = {".jsonl": None, ".csv": ",", ".tsv": "\t"}  # endings of --out, and their separators


class Row(NamedTuple):
    """A row to classify, and the number of its first line."""

    line: int
    text: str
    pair: str | None


class Bad(NamedTuple):
    """A row that cannot be classified, and the reason."""

    line: int
    reason: str


def predict(
    model: Path,
    source: Path | None,
    out: Path | None,
    column: str,
    pair_column: str | None,
    batch_tokens: int | None,
    header: bool = True,
    quoted: bool | None = None,
    min_confidence: float = 0.0,
    language: str | None = None,
) -> int:
    """Classify every row of a file and write one line per row, in the order of the input.

    source: None reads standard input. header, quoted: as in `readers.table`.
    out: a file with an ending of OUTPUTS, written atomically; None writes JSONL to standard output.
    min_confidence: rows whose most probable label is below this probability get no label.
    language: of all rows, as in `Classifier.classify`.
    Returns the number of bad rows; each is reported on standard error with its line number. Raises UserError for a
    missing model, file or column, for an output that is the input, and for a full disk.
    """
    name = "standard input" if source is None else str(source)
    place = Path("standard output") if out is None else out
    check_output(out, source)
    with contextlib.ExitStack() as stack:
        if source is None:  # load the model before the first row arrives
            classify = _classifier(model, batch_tokens, pair_column is not None, language)
            rows = _rows(source, name, column, pair_column, header, quoted)
        else:
            rows = _rows(source, name, column, pair_column, header, quoted)
            classify = _classifier(model, batch_tokens, pair_column is not None, language)
        first = next(rows, None)  # report a missing column before opening the output
        rows = rows if first is None else itertools.chain([first], rows)
        file = sys.stdout if out is None else stack.enter_context(_output(out))
        separator = None if out is None else OUTPUTS[out.suffix]
        write = _jsonl_writer(file) if separator is None else _csv_writer(file, separator)
        began = reported = time.monotonic()
        done = bad = unsure = 0
        for window in _windows_of_pipe(rows) if source is None else _windows(rows):
            good = [row for row in window if isinstance(row, Row)]
            for row in window:
                if isinstance(row, Bad):
                    print(f"{name}, line {row.line}: {row.reason}", file=sys.stderr)
            answers = classify(good) if good else []
            with refuse_full(place):
                for row, found in zip(good, answers, strict=True):
                    label = max(found, key=found.__getitem__)
                    sure = found[label] >= min_confidence
                    write(row.line, label if sure else None, found)
                    unsure += not sure
                file.flush()
            done, bad = done + len(good), bad + len(window) - len(good)
            if time.monotonic() - reported >= SECONDS_BETWEEN_LINES:
                reported = time.monotonic()
                print(_speed(done, reported - began), file=sys.stderr, flush=True)
    skipped = f"; {bad:,} bad rows skipped" if bad else ""
    left = f"; {unsure:,} without a label, below {min_confidence:g}" if min_confidence else ""
    print(f"{_speed(done, time.monotonic() - began)}{left}{skipped}", file=sys.stderr)
    return bad


@contextlib.contextmanager
def _output(out: Path) -> Iterator[IO[str]]:
    """Open the output: a regular file is replaced atomically at the end, a named pipe is written directly."""
    with contextlib.ExitStack() as stack:
        part = out if out.exists() and not out.is_file() else stack.enter_context(beside(out.resolve()))
        file = part.open("w", encoding="utf-8", newline="")
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):  # after a full disk, closing retries the failed write
                file.close()


def check_output(out: Path | None, source: Path | None) -> None:
    """Raise UserError for an output with an unknown ending, or an output that is the input."""
    if out is not None and out.suffix not in OUTPUTS:
        raise UserError(f"{out}: unknown ending {out.suffix!r}; use .jsonl, .csv or .tsv")
    if out is not None and _is_input(out, source):
        raise UserError(f"{out}: is also the input; choose another file with --out")


def pairs(source: Path, column: str, pair_column: str | None) -> list[tuple[str, str | None]]:
    """Texts or pairs of texts of a file's rows. Raises UserError for the first bad row."""
    found = []
    for row in _rows(source, str(source), column, pair_column):
        if isinstance(row, Bad):
            raise UserError(f"{source}, line {row.line}: {row.reason}")
        found.append((row.text, row.pair))
    return found


def _is_input(out: Path, source: Path | None) -> bool:
    """Whether the output and the source (None: standard input) are the same file, links included."""
    try:
        return os.path.samestat(out.stat(), os.fstat(sys.stdin.fileno()) if source is None else source.stat())
    except OSError:  # a file does not exist, or standard input is not a file
        return False


def _classifier(
    path: Path, batch_tokens: int | None, paired: bool, language: str | None
) -> Callable[[list[Row]], list[dict[str, float]]]:
    """Load a model; return a function from rows to the probability of each label for each row."""
    classifier = Classifier(path)
    print(classifier.calibration(language), file=sys.stderr)
    if classifier.pairs and not paired:
        print(
            f"{path} was trained on pairs of texts, but each row has one text; name the second with --text-pair",
            file=sys.stderr,
        )

    def classify(rows: list[Row]) -> list[dict[str, float]]:
        texts, pairs = [row.text for row in rows], [row.pair for row in rows]
        _, found = classifier.classify(texts, pairs, language, batch_tokens)
        return [dict(zip(classifier.labels, values, strict=True)) for values in found.tolist()]

    return classify


def _windows(rows: Iterator[Row | Bad]) -> Iterator[list[Row | Bad]]:
    while window := list(itertools.islice(rows, WINDOW)):
        yield window


def _windows_of_pipe(rows: Iterator[Row | Bad]) -> Iterator[list[Row | Bad]]:
    """Group rows of an open pipe: up to WINDOW rows that arrive within SECONDS_OPEN of the first row."""
    waiting: queue.Queue[Row | Bad | BaseException | None] = queue.Queue(WINDOW)

    def read() -> None:
        try:
            for row in rows:
                waiting.put(row)
            waiting.put(None)
        except BaseException as error:  # raised again in the consumer
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    window: list[Row | Bad] = []
    until = 0.0
    while True:
        try:
            row = waiting.get(timeout=max(0.0, until - time.monotonic()) if window else None)
        except queue.Empty:
            yield window
            window = []
            continue
        if row is None or isinstance(row, BaseException):
            if window:
                yield window
            if row is not None:
                raise row
            return
        if not window:
            until = time.monotonic() + SECONDS_OPEN
        window.append(row)
        if len(window) == WINDOW:
            yield window
            window = []


def _jsonl_writer(file: IO[str]) -> Callable[[int, str | None, dict[str, float]], None]:
    def write(line: int, label: str | None, found: dict[str, float]) -> None:
        probabilities = {name: round(value, 6) for name, value in found.items()}
        record = {"line": line, "label": label, "probabilities": probabilities}
        file.write(json.dumps(record, ensure_ascii=False) + "\n")

    return write


def _csv_writer(file: IO[str], separator: str) -> Callable[[int, str | None, dict[str, float]], None]:
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    begun = False

    def write(line: int, label: str | None, found: dict[str, float]) -> None:
        nonlocal begun
        if not begun:
            # A class may also be named `line` or `label`; column names stay unique.
            writer.writerow(["line", "label", *(f"{x} (class)" if x in ("line", "label") else x for x in found)])
            begun = True
        writer.writerow([line, label, *(f"{value:.6f}" for value in found.values())])

    return write


def _speed(rows: int, seconds: float) -> str:
    return f"{rows:,} rows in {seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} rows/s"


# ------------------------------------------------------------------------------------------------------------- reading


def _rows(
    source: Path | None,
    name: str,
    column: str,
    pair_column: str | None,
    header: bool = True,
    quoted: bool | None = None,
) -> Iterator[Row | Bad]:
    """Rows of a file, in the format of its ending.

    Standard input is JSONL if its first non-blank line starts with a brace; otherwise every line is a text.
    """
    wanted = [column] if pair_column is None else [column, pair_column]
    if source is None:
        # A separate file object: a thread blocked on the pipe at exit would otherwise hold the lock of sys.stdin.
        stream = _decoded(open(sys.stdin.fileno(), "rb", closefd=False))  # noqa: SIM115
        ahead = list(_until_text(stream))
        lines: Iterable[str] = itertools.chain(ahead, stream)
        kind = ".jsonl" if ahead and ahead[-1].lstrip("\ufeff \t").startswith("{") else ".txt"
    else:
        kind = ".txt" if source.suffix.lower() == ".txt" else readers.kind(source)
        lines = readers.lines(source)
    if source is not None and kind in (".csv", ".tsv"):
        form = delimited.dialect(lambda: readers.lines(source), name, kind, quoted)
        return map(_checked, _delimited(lines, name, form, header, wanted))
    if source is not None and kind in (".json", ".parquet"):
        return map(_checked, _table(readers.table(source), wanted))
    if kind == ".jsonl":
        return map(_checked, _json_lines(lines, name, wanted))
    if pair_column is not None:
        raise UserError(f"{name}: one text per line has no pairs; use JSONL, CSV or TSV for --text-pair")
    return map(_checked, _plain(lines))


def _checked(row: Row | Bad) -> Row | Bad:
    """The row, or the problem with its texts."""
    if isinstance(row, Bad):
        return row
    if not readers.is_unicode(f"{row.text}{row.pair}"):
        return Bad(row.line, "not UTF-8")
    if "\0" in f"{row.text}{row.pair}":
        return Bad(row.line, "a NUL character, as in UTF-16 without its mark")
    return row if row.text.strip() or (row.pair or "").strip() else Bad(row.line, "the text is empty")


def _decoded(stream: IO[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", "surrogateescape") for line in stream)


def _until_text(lines: Iterator[str]) -> Iterator[str]:
    """Lines up to and including the first line that is not blank."""
    for line in lines:
        yield line
        if line.strip("\ufeff \t\r\n"):
            return


def _row(line: int, texts: list[str]) -> Row:
    return Row(line, texts[0], texts[1] if len(texts) > 1 else None)


def _plain(lines: Iterable[str]) -> Iterator[Row | Bad]:
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        yield Row(number, text.removeprefix("\ufeff") if number == 1 else text, None)


def _table(rows: readers.Rows, wanted: list[str]) -> Iterator[Row | Bad]:
    columns = [rows.column(name).to_pylist() for name in wanted]
    for line, *texts in zip(rows.places.to_pylist(), *columns, strict=True):
        yield _row(line, texts)


def _json_lines(lines: Iterable[str], name: str, wanted: list[str]) -> Iterator[Row | Bad]:
    first = True
    for number, line in enumerate(lines, 1):
        if not line.strip("\ufeff \t\r\n"):
            continue
        try:
            fields = json_objects.fields(json_objects.parse(line.removeprefix("\ufeff")))
        except ValueError as error:
            yield Bad(number, str(error) if readers.is_unicode(line) else "not UTF-8")
            continue
        if first:
            _refuse_missing(name, list(fields), wanted)
            first = False
        texts = [fields.get(key) for key in wanted]
        if reasons := [_unfit(key, value) for key, value in zip(wanted, texts, strict=True) if _unfit(key, value)]:
            yield Bad(number, reasons[0])
        else:
            yield _row(number, [str(text) for text in texts])


def _unfit(key: str, value: str | list[Any] | None) -> str:
    if value is None:
        return f"no field {key!r}"
    return json_objects.no_text(key, value) if isinstance(value, list) else ""


def _delimited(
    lines: Iterable[str], name: str, form: delimited.Dialect, header: bool, wanted: list[str]
) -> Iterator[Row | Bad]:
    found = delimited.records(lines, form)
    line, names = next(found, (1, []))
    if isinstance(names, csv.Error):
        raise UserError(f"{name}, line {line}: the header is {names}")
    if not header:
        found, names = itertools.chain([(line, names)], found), readers.numbered(names)
    _refuse_missing(name, delimited.unique(names, name), wanted)
    places = [names.index(each) for each in wanted]
    for line, row in found:
        wrong = delimited.problem(row, names, form)
        yield Bad(line, wrong) if isinstance(row, csv.Error) or wrong else _row(line, [row[i] for i in places])


def _refuse_missing(name: str, there: list[str], wanted: list[str]) -> None:
    """Raise UserError if a column is missing."""
    if missing := [column for column in wanted if column not in there]:
        raise UserError(f"{name}: {readers.no_column(missing[0], there)}")
