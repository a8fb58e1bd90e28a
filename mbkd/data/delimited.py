"""Records of CSV and TSV files: the separator, the quoting, and the line number of each record."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mbkd.errors import UserError

LONGEST = 1 << 24  # characters of a field; the csv module's default is 131,072. A longer field has an open quote
DELIMITERS = (",", ";", "\t", "|")
ENCLOSED = re.compile(r'"(?:[^"]|"")*"')

Lines = Callable[[], Iterable[str]]  # each call returns the lines of a file from the first line, with line ends


class Dialect(NamedTuple):
    """The separator of a file's fields. quoted: whether quotes enclose fields; otherwise quotes are text."""

    delimiter: str
    quoted: bool


def dialect(lines: Lines, name: str, ending: str, quoted: bool | None = None) -> Dialect:
    """Return the dialect of a whole file. Raises UserError if its quotes are ambiguous.

    ending: .csv or .tsv; the first line can contradict the ending.
    quoted: None detects the quoting. Commas, semicolons and bars may separate quoted fields. Tabs separate quoted
    fields only if the whole file proves this.
    """
    own = "\t" if ending == ".tsv" else ","
    able = {}
    for delimiter in (own, *(x for x in DELIMITERS if x != own)):
        form = Dialect(delimiter, delimiter != "\t" if quoted is None else quoted)
        header = next((x for _, x in records(lines(), form)), [])
        if not isinstance(header, csv.Error) and len(header) > 1:
            able[delimiter] = form
    delimiter = next(iter(able), own)
    if len(able) > 1:
        delimiter = next((x for x, each in able.items() if _widths(lines(), each) is not None), delimiter)
    if quoted is None and delimiter == "\t":
        quoted = _is_quoted(lines, delimiter)
        if quoted is None:
            raise UserError(
                f"{name}: quotes can be text, or can enclose fields with line breaks; choose with --quoting yes or no"
                " (task.columns.quoted: true or false)"
            )
    return Dialect(delimiter, quoted is not False)


def records(lines: Iterable[str], form: Dialect) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield the first line's number and each record, or a csv.Error if malformed. Skips empty lines."""
    if not form.quoted:
        for number, line in enumerate(lines, 1):
            if line := line.rstrip("\r\n"):
                yield number, line.split(form.delimiter)
        return
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=form.delimiter, strict=True)
    while True:
        place = reader.line_num + 1  # of the record's first line, because a quoted field may span lines
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield place, csv.Error(f"not well-formed{_span(place, reader.line_num)} ({error}); check the quotes")
            continue
        if row is None:
            return
        if row:
            yield place, row


def problem(row: list[str] | csv.Error, header: list[str], form: Dialect) -> str:
    """Return the problem of a record, or ""."""
    if isinstance(row, csv.Error):
        return str(row)
    if len(row) != len(header):
        cure = "quote fields that contain the separator" if form.quoted else "replace separators in texts by spaces"
        return f"expected {len(header)} fields ({', '.join(header)}), found {len(row)}; {cure}"
    return "the line repeats the header, as in joined files; remove it" if row == header else ""


def unique(names: list[str], name: str) -> list[str]:
    """Return the names of the columns. Raises UserError for a repeated name."""
    if repeated := [x for x in dict.fromkeys(names) if names.count(x) > 1]:
        raise UserError(f"{name}: {names.count(repeated[0])} columns are named {repeated[0]!r}; rename or remove one")
    return names


def _span(first: int, last: int) -> str:
    return f" up to line {last}" if last > first else ""


def _widths(lines: Iterable[str], form: Dialect) -> int | None:
    """Return the number of fields of all records, or None if records differ or one is malformed."""
    width = None
    for _, row in records(lines, form):
        if isinstance(row, csv.Error) or len(row) != (width or len(row)):
            return None
        width = len(row)
    return width


def _is_quoted(lines: Lines, delimiter: str) -> bool | None:
    """Return whether quotes enclose fields of a tab-separated file, or None if the file is ambiguous.

    Plain text often has unbalanced quotes. A program that quotes fields either also quotes the header, or quotes every
    field that contains a quote and doubles the quotes inside the field.
    """
    width, even, doubled, loose = 0, True, 0, 0
    for line in lines():
        fields = line.rstrip("\r\n").split(delimiter)
        if not width:
            width = len(fields)
            if all(map(ENCLOSED.fullmatch, fields)):
                return True
        even = even and (len(fields) == width or fields == [""])
        for field in fields if '"' in line else ():
            if ENCLOSED.fullmatch(field):
                doubled += '""' in field[1:-1]
            else:
                loose += '"' in field
    if even or not doubled + loose:
        return doubled > 0 and not loose
    form, swallowed = Dialect(delimiter, True), False
    for _, row in records(lines(), form):
        if isinstance(row, csv.Error) or len(row) != width:
            return doubled > loose  # malformed in both readings: choose the reading that fits more fields
        swallowed = swallowed or any("\n" in field and delimiter in field for field in row)
    return None if swallowed and not any('""' in line for line in lines()) else True
