"""A JSON object as fields of text: a row of a JSONL file."""

import json
import math
from typing import Any


def parse(line: str) -> dict[str, Any]:
    """Parse the object in a line of JSONL. Raises ValueError with the problem of the line."""
    try:
        row = json.loads(line, object_pairs_hook=unique_names)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}); one object per line") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply); one object per line") from None
    except ValueError as error:
        if "is repeated" in str(error):
            raise
        # Python reads at most 4,300 digits of an integer
        raise ValueError("a number with thousands of digits; quote or remove it") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, not {line.strip()[:40]!r}")
    return row


def fields(row: dict[str, Any]) -> dict[str, str | list[Any]]:
    """Return the values of an object as text, named `outer.inner` in inner objects. Lists stay lists.

    Raises ValueError for a repeated name.
    """
    found: dict[str, str | list[Any]] = {}
    for name, value in row.items():
        inner = {f"{name}.{x}": each for x, each in fields(value).items()} if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            inner = {name: value if isinstance(value, list) else _scalar(value)}
        if twice := [x for x in inner if x in found]:
            raise ValueError(f"the field {twice[0]!r} is repeated")
        found |= inner
    return found


def no_text(name: str, value: list[Any]) -> str:
    """Return a message about a field that holds a list instead of one value."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return (
        f"{name!r} holds a list, {shown[:40]}{'…' if len(shown) > 40 else ''}, but one value is expected;"
        f" write the value, such as {name}[0], to a separate field"
    )


def _scalar(value: Any) -> str:
    """Return a JSON value as text, as in the file; empty for null and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raises ValueError for a repeated name; Python would keep the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(x for x in names if names.count(x) > 1)!r} is repeated")
    return found
