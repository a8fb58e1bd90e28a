"""CSV and TSV as records: the separator, whether quotes enclose fields, and each record with its line."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mbkd.errors import UserError

LONGEST = 1 << 24  # characters of a field: more than the csv module's 131,072, and beyond it a quote is open
DELIMITERS = (",", ";", "\t", "|")
ENCLOSED = re.compile(r'"(?:[^"]|"")*"')

Lines = Callable[[], Iterable[str]]  # the lines of a file from the first one, with their ends, each time it is called


class Dialect(NamedTuple):
    """How a file separates its fields; `quoted`: quotes enclose fields, else quotes are text."""

    delimiter: str
    quoted: bool


def dialect(lines: Lines, name: str, ending: str, quoted: bool | None = None) -> Dialect:
    """The dialect of a whole file. Raises UserError where quotes can be read in two ways.

    ending: .csv or .tsv, which the first line can contradict. quoted: None decides by the file: fields that commas,
    semicolons or bars separate can be enclosed; tab-separated ones are only where the whole file proves that.
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
                f"{name}: quotes can be text or enclose fields with line breaks; say which with --quoting yes or no"
                " (task.columns.quoted: true or false)"
            )
    return Dialect(delimiter, quoted is not False)


def records(lines: Iterable[str], form: Dialect) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each record with the line that it starts at, empty lines left out; an error in place of a malformed record."""
    if not form.quoted:
        for number, line in enumerate(lines, 1):
            if line := line.rstrip("\r\n"):
                yield number, line.split(form.delimiter)
        return
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=form.delimiter, strict=True)
    while True:
        place = reader.line_num + 1  # a quoted field may span lines: its first one counts
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
    """What is wrong with a record; empty for a good one."""
    if isinstance(row, csv.Error):
        return str(row)
    if len(row) != len(header):
        cure = "quote a field that holds the separator" if form.quoted else "a separator in a text is a blank instead"
        return f"{len(row)} fields where {len(header)} belong ({', '.join(header)}); {cure}"
    return "the line repeats the header, as where files were joined; remove it" if row == header else ""


def unique(names: list[str], name: str) -> list[str]:
    """The names of the columns. Raises UserError for a name that stands twice."""
    if repeated := [x for x in dict.fromkeys(names) if names.count(x) > 1]:
        raise UserError(f"{name}: {names.count(repeated[0])} columns are named {repeated[0]!r}; rename or remove one")
    return names


def _span(first: int, last: int) -> str:
    return f" up to line {last}" if last > first else ""


def _widths(lines: Iterable[str], form: Dialect) -> int | None:
    """The number of fields that all records have; None where they differ or one is malformed."""
    width = None
    for _, row in records(lines, form):
        if isinstance(row, csv.Error) or len(row) != (width or len(row)):
            return None
        width = len(row)
    return width


def _is_quoted(lines: Lines, delimiter: str) -> bool | None:
    """Whether quotes enclose fields of a tab-separated file; None where the whole file leaves it open.

    Text is full of quotes, also of unbalanced ones. A writer that encloses fields encloses all that hold a quote, and
    doubles the quotes in them; or encloses the header, too.
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
            return doubled > loose  # malformed either way: the reading that fits more fields
        swallowed = swallowed or any("\n" in field and delimiter in field for field in row)
    return None if swallowed and not any('""' in line for line in lines()) else True
