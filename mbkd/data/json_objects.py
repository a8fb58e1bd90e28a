"""A JSON object as fields of text: what a row of JSONL holds."""

import json
import math
from typing import Any


def parse(line: str) -> dict[str, Any]:
    """The object that a line of JSONL holds. Raises ValueError that says what is wrong with the line."""
    try:
        row = json.loads(line, object_pairs_hook=unique_names)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}); one object per line") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply); one object per line") from None
    except ValueError as error:
        if "stands twice" in str(error):
            raise
        # Python reads integers of 4,300 digits and no more
        raise ValueError("a number of thousands of digits; put it in quotes, or remove it") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object belongs here, not {line.strip()[:40]!r}")
    return row


def fields(row: dict[str, Any]) -> dict[str, str | list[Any]]:
    """The values of an object as text; an inner object's are called `outer.inner`; a list stays one.

    Raises ValueError for a name that stands twice.
    """
    found: dict[str, str | list[Any]] = {}
    for name, value in row.items():
        inner = {f"{name}.{x}": each for x, each in fields(value).items()} if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            inner = {name: value if isinstance(value, list) else _scalar(value)}
        if twice := [x for x in inner if x in found]:
            raise ValueError(f"the field {twice[0]!r} stands twice")
        found |= inner
    return found


def no_text(name: str, value: list[Any]) -> str:
    """Says that a field holds a list, and where in it the value lies that could be meant."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return (
        f"{name!r} holds a list, {shown[:40]}{'…' if len(shown) > 40 else ''}, where one value belongs;"
        f" write the one that is meant, such as {name}[0], into a field of its own"
    )


def _scalar(value: Any) -> str:
    """A value of JSON as text: as the file has it, nothing for null and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError for a name that stands twice, of which Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(x for x in names if names.count(x) > 1)!r} stands twice")
    return found
