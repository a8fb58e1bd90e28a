"""The wording of a configuration's errors: the field, the value, and the nearest valid one."""

import difflib
import re
from typing import Any, get_args

from pydantic import BaseModel

from mbkd.config.schema import Config, Section


def explain(error: dict[str, Any]) -> str:
    """Return one line for one of pydantic's errors."""
    # A language's only teacher is a mapping for the user, not the first of a list.
    path = re.sub(r"^(teachers\.[^.]+)\.0(?=\.|$)", r"\1", ".".join(str(x) for x in error["loc"]))
    if error["type"] == "extra_forbidden":
        fields = _fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(fields)}"
        return f"{path} = {error['input']!r}: unknown field; {hint}"
    if error["type"] == "missing":
        return f"{path}: is needed and not there"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        options = re.findall(r"'([^']*)'|\b(\d+)\b", error["ctx"]["expected"])
        names = [a or b for a, b in options]
        near = difflib.get_close_matches(str(error["input"]), names, n=1, cutoff=0.5)
        message = (f"did you mean {near[0]!r}? " if near else "") + f"one of {', '.join(names)}"
    if error["type"] == "string_type" and not isinstance(error["input"], (dict, list)):
        message = (
            "a text belongs here; in quotes, or YAML takes yes and no for true and false, and 2021-05-01 for a date"
        )
    if error["loc"][-1:] == ("[key]",):
        path = f"{'.'.join(map(str, error['loc'][:-2]))}, a key"
    if isinstance(error["input"], (dict, BaseModel)):
        return f"{path}: {message}" if path else message
    return f"{path} = {error['input']!r}: {message}"


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """The field names of the section at a path such as ('task', 'columns')."""
    section: Any = Config
    for key in path:
        if isinstance(section, type) and issubclass(section, Section):
            section = section.model_fields[key].annotation
        else:  # a dict or a tuple of sections: the key is the user's own, or a number
            section = next(x for x in reversed(get_args(section)) if x is not Ellipsis)
    return list(section.model_fields)
