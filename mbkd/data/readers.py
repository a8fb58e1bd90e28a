"""Data files as columns of strings, with the line number of each row."""

import codecs
import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbkd.data import delimited, json_objects
from mbkd.data.delimited import Dialect
from mbkd.errors import UserError

TEXT_ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
ENDINGS = (*TEXT_ENDINGS, *(f"{x}.gz" for x in TEXT_ENDINGS), ".parquet")
CONVERT = {
    ".xlsx": "save the sheet as CSV (UTF-8)",
    ".xls": "save the sheet as CSV (UTF-8)",
    ".zip": "unpack it first: unzip {file}",
    ".bz2": "unpack it first: bunzip2 {file}",
    ".xz": "unpack it first: unxz {file}",
    ".zst": "unpack it first: unzstd {file}",
    ".arrow": "datasets.Dataset.from_file({file!r}).to_parquet('rows.parquet') converts the file",
    ".pkl": "pandas.read_pickle({file!r}).to_parquet('rows.parquet') converts the file",
}


class Rows(NamedTuple):
    """Raw columns of strings, without nulls, and the place of each row."""

    source: str  # the file or hub id, for messages
    unit: str  # of `places`: "line" of a text file (the header is line 1), or "row"
    places: pa.Array  # (rows,) 1-based
    columns: dict[str, pa.Array]  # name -> (rows,)
    unfit: dict[str, str] = {}  # noqa: RUF012  columns that are not text -> the problem and its solution
    dialect: Dialect | None = None  # of a CSV or TSV file

    def at(self, index: int) -> str:
        """Return the place of row `index`, for a message."""
        return f"{self.source}, {self.unit} {self.places[index]}"

    def column(self, name: str) -> pa.Array:
        """Return a column. Raises UserError if the column is not text, or is missing."""
        if name in self.unfit:
            raise UserError(f"{self.source}{self.unfit[name]}")
        if name in self.columns:
            return self.columns[name]
        raise UserError(f"{self.source}: {no_column(name, list(self.columns))}")

    def keep(self, mask: pa.Array) -> "Rows":
        """Return the rows for which the mask is true."""
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return self._replace(places=self.places.filter(mask), columns=columns)


def no_column(name: str, there: Sequence[str]) -> str:
    """Return a message about a missing column: the most similar name, and the available columns."""
    if inner := [x for x in there if x.startswith(f"{name}.")]:
        return f"{name!r} holds objects; name one of their values: {', '.join(inner)}"
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no column {name!r}; {hint}available: {', '.join(there) or 'none'}"


def first(mask: pa.Array) -> int:
    """Return the index of the first true value, or -1."""
    return int(pc.index(mask, pa.scalar(True)).as_py())


def plain_tsv(file: Path, names: Sequence[str] = ()) -> Rows:
    """Read a TSV without quoting; the header is line 1. names: the columns of a file without a header.

    Quotes are text, because XNLI's files have unbalanced quotes. Only a newline ends a line.
    """
    lines = pc.split_pattern(pa.array([text(file).rstrip("\r\n")], pa.large_string()), "\n")[0].values
    fields = pc.split_pattern(pc.utf8_rtrim(lines, "\r"), "\t")
    header = list(names) or fields[0].as_py()
    counts = pc.list_value_length(fields)
    if (wrong := first(pc.not_equal(counts, len(header)))) >= 0:
        raise UserError(
            f"{file}, line {wrong + 1}: expected {len(header)} tab-separated fields ({', '.join(header)}),"
            f" found {counts[wrong]}; fix or remove the line"
        )
    start = 0 if names else 1
    columns = {name: pc.list_element(fields, i).slice(start) for i, name in enumerate(header)}
    return Rows(str(file), "line", _count(start + 1, len(lines) - start), columns)


def table(file: Path, header: bool = True, quoted: bool | None = None) -> Rows:
    """Read a file of the user in the format of its ending (ENDINGS). Raises UserError.

    header: whether the first line of a CSV or TSV names the columns; otherwise the names are 1, 2, 3.
    quoted: whether quotes enclose fields of a CSV or TSV; None: `delimited.dialect` detects the quoting.
    """
    kind(file)
    stat = file.stat()
    return _table(file, stat.st_size, stat.st_mtime_ns, header, quoted)


def kind(file: Path) -> str:
    """Return a file's ending, one of ENDINGS without `.gz`. Raises UserError for other endings."""
    name = file.name.lower()
    ending = next((x for x in ENDINGS if name.endswith(x)), "")
    if ending:
        return ending.removesuffix(".gz")
    if file.suffix.lower() == ".txt":
        labels = next((x for x in sorted(file.parent.glob("*label*.txt")) if _alike(x, file)), "LABELS.txt")
        raise UserError(
            f"{file}: one text per line has no labels. If another file has one label per line, join both files:"
            f" paste {file} {labels} > rows.tsv, then use --header no (task.columns.header: false)"
        )
    how = CONVERT.get(file.suffix.lower(), "").format(file=str(file))
    raise UserError(
        f"{file}: unknown ending {file.suffix!r}; use one of {', '.join(ENDINGS)}{'; ' if how else ''}{how}"
    )


def _alike(labels: Path, texts: Path) -> bool:
    """Return whether names differ only by `labels` and `text`: train_labels.txt and train_text.txt."""
    return re.sub("labels?", "", labels.stem.lower()) == re.sub("texts?", "", texts.stem.lower())


@lru_cache(maxsize=1)  # one file may hold all languages, and is read for each of them in turn
def _table(file: Path, size: int, mtime: int, header: bool, quoted: bool | None) -> Rows:
    ending = kind(file)
    if ending == ".parquet":
        return _parquet(file)
    if ending == ".json":
        return _json(file)
    return json_lines(file) if ending == ".jsonl" else _delimited(file, ending, header, quoted)


def _delimited(file: Path, ending: str, header: bool, quoted: bool | None) -> Rows:
    whole = text(file)

    def lines() -> io.StringIO:
        return io.StringIO(whole, newline="")

    form = delimited.dialect(lines, str(file), ending, quoted)
    found = delimited.records(lines(), form)
    line, names = next(found, (1, []))
    if isinstance(names, csv.Error):
        raise UserError(f"{file}, line {line}: {names}")
    places, rows = [], []
    if not header:
        places, rows = [line], [names]
        names = numbered(names)
    delimited.unique(names, str(file))
    for place, row in found:
        wrong = delimited.problem(row, names, form)
        if wrong or isinstance(row, csv.Error):
            raise UserError(f"{file}, line {place}: {wrong}")
        places.append(place)
        rows.append(row)
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    columns = {name: pa.array(column, pa.large_string()) for name, column in zip(names, cells, strict=True)}
    return Rows(str(file), "line", pa.array(places, pa.int64()), columns, dialect=form)


def numbered(row: Sequence[str]) -> list[str]:
    """Return the names of columns without a header: 1, 2, 3."""
    return [str(i) for i in range(1, len(row) + 1)]


def _json(file: Path) -> Rows:
    """Read an array of objects, or one object per line."""
    source = text(file)
    if source.lstrip().startswith("{"):
        try:
            whole = json.loads(source)
        except (ValueError, RecursionError):
            return json_lines(file)
        if source.strip().count("\n"):
            lists = [name for name, value in whole.items() if isinstance(value, list)]
            raise UserError(
                f"{file}: one JSON object, but an array of objects or one object per line is expected;"
                f" jq -c '.{lists[0] if lists else 'rows'}[]' {file} > rows.jsonl extracts a list's rows"
            )
        return json_lines(file)
    try:
        found = json.loads(source, object_pairs_hook=json_objects.unique_names)
        if not isinstance(found, list):
            raise ValueError("expected an array of objects")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({one_line(error)})") from None
    return _objects(str(file), "row", enumerate(found, 1))


def json_lines(file: Path) -> Rows:
    """Read one JSON object per line. A missing or null field becomes an empty string."""

    def objects() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(text(file).split("\n"), 1):  # not splitlines: U+2028 is text
            if line.strip():
                try:
                    yield number, json_objects.parse(line)
                except ValueError as error:
                    raise UserError(f"{file}, line {number}: {error}") from None

    return _objects(str(file), "line", objects())


def _objects(source: str, unit: str, objects: Iterator[tuple[int, Any]]) -> Rows:
    """Return objects as columns. A missing or null field becomes an empty string."""
    places: list[int] = []
    cells: dict[str, list[str]] = {}
    unfit: dict[str, str] = {}
    for number, row in objects:
        if not isinstance(row, dict):
            raise UserError(f"{source}, {unit} {number}: expected a JSON object, not {str(row)[:40]!r}")
        try:
            fields = json_objects.fields(row)
        except ValueError as error:
            raise UserError(f"{source}, {unit} {number}: {error}") from None
        for name in fields:
            if name not in cells:
                cells[name] = [""] * len(places)
        for name, column in cells.items():
            value = fields.get(name, "")
            if isinstance(value, list):
                unfit.setdefault(name, f", {unit} {number}: {json_objects.no_text(name, value)}")
                value = ""
            if not is_unicode(name + value):
                raise UserError(
                    f"{source}, {unit} {number}: {name!a} holds half of a character (one of two \\u escapes,"
                    " as in a truncated text); fix or remove the row"
                )
            column.append(value)
        places.append(number)
    columns = {name: pa.array(column, pa.large_string()) for name, column in cells.items() if name not in unfit}
    return Rows(source, unit, pa.array(places, pa.int64()), columns, unfit)


def is_unicode(text: str) -> bool:
    """Return False if the text has half of a surrogate pair, from JSON or from a byte that is not UTF-8."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def _parquet(file: Path) -> Rows:
    try:
        found = pq.ParquetFile(file).read()  # also reads repeated column names
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a parquet file ({one_line(error)})") from None
    return from_arrow(str(file), found, class_names(found.schema))


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of ClassLabel columns, which `datasets` writes to a file's metadata."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    return {name: each["names"] for name, each in features.items() if "names" in each}


def content(file: Path) -> bytes:
    """Return the bytes of a file, unpacked if its name ends in .gz. Raises UserError."""
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if file.suffix.lower() == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: incomplete or damaged gzip file ({one_line(error)})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def lines(file: Path) -> Iterator[str]:
    """Yield a file's lines with their ends. A byte of another encoding becomes half of a surrogate pair.

    Raises UserError.
    """
    unpack = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with unpack(file, "rb") as stream:
            start = stream.read(2)
        with unpack(file, "rt", encoding=encoding(start), errors="surrogateescape", newline="") as stream:
            yield from stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: incomplete or damaged gzip file ({one_line(error)})") from None
    except UnicodeDecodeError as error:  # only UTF-16; in UTF-8, surrogates replace such bytes
        raise UserError(f"{file}: damaged UTF-16 ({one_line(error)}); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def encoding(start: bytes) -> str:
    """Return the encoding of a file by its first bytes: UTF-16 for its byte order mark, otherwise UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def text(file: Path) -> str:
    """Return the whole file as text, without its byte order mark. Raises UserError."""
    data = content(file)
    try:
        whole = data.decode(encoding(data[:2]))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not UTF-8 ({error.reason}); {_convert(file, data)}") from None
    if not whole or whole.isspace():
        raise UserError(f"{file}: the file is empty")
    if "\0" in whole:
        line = whole.count("\n", 0, whole.index("\0")) + 1
        raise UserError(f"{file}, line {line}: a NUL character, as in UTF-16 without its mark; {_convert(file, data)}")
    return whole if "\n" in whole else whole.replace("\r", "\n")  # line ends of classic Mac OS


def _convert(file: Path, data: bytes) -> str:
    """Return a command that converts a file to UTF-8, with a guess of its encoding."""
    import charset_normalizer

    zeros = data[:1000].count(0) > 100
    found = ("utf-16-be" if data[:1] == b"\0" else "utf-16-le") if zeros else None
    guess = found or getattr(charset_normalizer.from_bytes(data[:100_000]).best(), "encoding", None)
    return f"save the file as UTF-8: iconv -f {(guess or 'ENCODING').replace('_', '-')} -t UTF-8 {file} > NEW"


def from_arrow(source: str, found: pa.Table, names: dict[str, list[str]] | None = None) -> Rows:
    """Return Arrow columns as strings, named `outer.inner` in structs. Null and NaN become empty.

    names: column -> the names of its class numbers. Raises UserError for a repeated column name.
    """
    delimited.unique(found.column_names, source)
    while any(map(pa.types.is_struct, found.schema.types)):
        found = found.flatten()
    columns, unfit = {}, {}
    for name, column in zip(delimited.unique(found.column_names, source), found.columns, strict=True):
        try:
            text = pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
            if names and name in names:  # -1: a row without a label
                text = pa.array([None, *names[name]], pa.large_string()).take(pc.add(column.fill_null(-1), 1))
            columns[name] = pa.chunked_array(text.cast(pa.large_string()).fill_null("")).combine_chunks()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            value = next((x for x in column.to_pylist() if x), None)
            what = (
                json_objects.no_text(name, value)
                if isinstance(value, list)
                else f"{name!r} holds {column.type}, not text"
            )
            unfit[name] = f": {what}"
    return Rows(source, "row", _count(1, found.num_rows), columns, unfit)


def _count(start: int, length: int) -> pa.Array:
    return pa.array(range(start, start + length), pa.int64())


def one_line(error: Any) -> str:
    """Return the first line of another library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
