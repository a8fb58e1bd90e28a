"""Files as columns of strings, each row with the line it came from."""

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbkd.errors import UserError

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
LONGEST = 1 << 24  # characters of a CSV field: more than the csv module's 131,072, and beyond it a quote is open


class Rows(NamedTuple):
    """Raw columns of strings (nothing is null), and where each row stands."""

    source: str  # the file or hub id, for messages
    unit: str  # what `places` counts: "line" of a text file (the header is line 1), or "row"
    places: pa.Array  # (rows,) 1-based
    columns: dict[str, pa.Array]  # name -> (rows,)

    def at(self, index: int) -> str:
        """Where row `index` stands, for a message."""
        return f"{self.source}, {self.unit} {self.places[index]}"

    def column(self, name: str) -> pa.Array:
        """One column. Raises UserError that names the columns that are there."""
        if name in self.columns:
            return self.columns[name]
        near = difflib.get_close_matches(name, self.columns, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"{self.source}: no column {name!r}; {hint}there are {', '.join(self.columns)}")

    def keep(self, mask: pa.Array) -> "Rows":
        """The rows where the mask holds."""
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return Rows(self.source, self.unit, self.places.filter(mask), columns)


def first(mask: pa.Array) -> int:
    """Index of the first true value; -1 when there is none."""
    return int(pc.index(mask, pa.scalar(True)).as_py())


def plain_tsv(file: Path, names: Sequence[str] = ()) -> Rows:
    """Read a TSV without quoting; the header is line 1, unless `names` says that there is none.

    Quotes are text, and nothing but a newline ends a line: XNLI's files hold unbalanced quotes.
    """
    lines = pc.split_pattern(pa.array([_text(file).rstrip("\r\n")], pa.large_string()), "\n")[0].values
    fields = pc.split_pattern(pc.utf8_rtrim(lines, "\r"), "\t")
    header = list(names) or fields[0].as_py()
    counts = pc.list_value_length(fields)
    if (wrong := first(pc.not_equal(counts, len(header)))) >= 0:
        raise UserError(
            f"{file}, line {wrong + 1}: {counts[wrong]} tab-separated fields where {len(header)} belong"
            f" ({', '.join(header)}); mend or remove the line"
        )
    start = 0 if names else 1
    columns = {name: pc.list_element(fields, i).slice(start) for i, name in enumerate(header)}
    return Rows(str(file), "line", _count(start + 1, len(lines) - start), columns)


def table(file: Path) -> Rows:
    """Read the user's own CSV, TSV, JSONL or parquet file, by its ending. Raises UserError."""
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"{file}: unknown ending {file.suffix!r}; it can be {', '.join(ENDINGS)}")
    stat = file.stat()
    return _table(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1)  # one file may hold all languages, and is asked for each of them in turn
def _table(file: Path, size: int, mtime: int) -> Rows:
    ending = file.suffix.lower()
    if ending == ".parquet":
        return _parquet(file)
    return json_lines(file) if ending == ".jsonl" else _delimited(file, "\t" if ending == ".tsv" else ",")


def _delimited(file: Path, delimiter: str) -> Rows:
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True)
    places, rows, end = [], [], 0
    try:
        header = next(reader)
        end = reader.line_num
        for row in reader:
            place, end = end + 1, reader.line_num  # a quoted field may span lines: its first one counts
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{file}, line {place}: {len(row)} fields where {len(header)} belong"
                    f" ({', '.join(header)}); quote a field that holds the separator"
                )
            places.append(place)
            rows.append(row)
    except csv.Error as error:
        raise UserError(
            f"{file}, line {end + 1}: not a well-formed {file.suffix} ({error}); check the quotes"
        ) from None
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    columns = {name: pa.array(column, pa.large_string()) for name, column in zip(header, cells, strict=True)}
    return Rows(str(file), "line", pa.array(places, pa.int64()), columns)


def json_lines(file: Path) -> Rows:
    """Read one JSON object per line; a field that is missing or null is an empty string."""
    places: list[int] = []
    cells: dict[str, list[str]] = {}
    for number, line in enumerate(_text(file).split("\n"), 1):  # not splitlines: U+2028 is text
        if not line.strip():
            continue
        try:
            row = json_object(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from None
        for name in row:
            if name not in cells:
                cells[name] = [""] * len(places)
        for name, column in cells.items():
            value = row.get(name)
            text = "" if value is None else str(value)
            if not is_unicode(name + text):
                raise UserError(
                    f"{file}, line {number}: {name!a} holds half of a character (one \\u escape of two, as in a"
                    " text that was cut); mend or remove the row"
                )
            column.append(text)
        places.append(number)
    columns = {name: pa.array(column, pa.large_string()) for name, column in cells.items()}
    return Rows(str(file), "line", pa.array(places, pa.int64()), columns)


def json_object(line: str) -> dict[str, Any]:
    """The object that a line of JSONL holds. Raises ValueError that says what is wrong with the line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}); one object per line") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply); one object per line") from None
    except ValueError:  # Python reads integers of 4,300 digits and no more
        raise ValueError("a number of thousands of digits; put it in quotes, or remove it") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object belongs here, not {line.strip()[:40]!r}")
    return row


def is_unicode(text: str) -> bool:
    """False where JSON escapes half of a surrogate pair, or a byte that is no UTF-8 was let through."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def _parquet(file: Path) -> Rows:
    try:
        found = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a parquet file ({one_line(error)})") from None
    return from_arrow(str(file), found)


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes, computed once as long as the file stays the same."""
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(file: Path, size: int, mtime: int) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _text(file: Path) -> str:
    """The whole file as text, without its byte order mark."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    if not text or text.isspace():
        raise UserError(f"{file}: the file is empty")
    return text


def from_arrow(source: str, found: pa.Table) -> Rows:
    """Arrow's columns as strings; a column that is no text, such as a list, is left out."""
    columns = {}
    for name in found.column_names:
        try:
            columns[name] = found[name].cast(pa.large_string()).fill_null("").combine_chunks()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return Rows(source, "row", _count(1, found.num_rows), columns)


def _count(start: int, length: int) -> pa.Array:
    return pa.array(range(start, start + length), pa.int64())


def one_line(error: Any) -> str:
    """The first line of an error of another library."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
