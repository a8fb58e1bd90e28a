"""Error messages for invalid configurations: the field, the value, and the nearest valid name."""

import difflib
import re
from typing import Any, get_args

from pydantic import BaseModel

from mbkd.config.schema import Config, Section


def explain(error: dict[str, Any]) -> str:
    """Format a pydantic error as one line."""
    # A language's only teacher is written as a mapping, so the user's path has no list index.
    path = re.sub(r"^(teachers\.[^.]+)\.0(?=\.|$)", r"\1", ".".join(str(x) for x in error["loc"]))
    if error["type"] == "extra_forbidden":
        fields = _fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(fields)}"
        return f"{path} = {error['input']!r}: unknown field; {hint}"
    if error["type"] == "missing":
        return f"{path}: the required field is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        options = re.findall(r"'([^']*)'|\b(\d+)\b", error["ctx"]["expected"])
        names = [a or b for a, b in options]
        near = difflib.get_close_matches(str(error["input"]), names, n=1, cutoff=0.5)
        message = (f"did you mean {near[0]!r}? " if near else "") + f"must be one of {', '.join(names)}"
    if error["type"] == "tuple_type":
        message = "must be a list, such as [a, b]"
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        message = "must be a mapping of fields or names to values"
    if error["type"] == "string_type" and not isinstance(error["input"], (dict, list)):
        message = (
            "must be a string; add quotes, because YAML reads yes and no as true and false, and 2021-05-01 as a date"
        )
    if error["loc"][-1:] == ("[key]",):
        path = f"{'.'.join(map(str, error['loc'][:-2]))} (key)"
    if isinstance(error["input"], (dict, BaseModel)):
        return f"{path}: {message}" if path else message
    return f"{path} = {error['input']!r}: {message}"


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Return the field names of the section at a path, such as ('task', 'columns')."""
    section: Any = Config
    for key in path:
        if isinstance(section, type) and issubclass(section, Section):
            section = section.model_fields[key].annotation
        else:  # a dict or tuple of sections: the key is user-defined or an index
            section = next(x for x in reversed(get_args(section)) if x is not Ellipsis)
    return list(section.model_fields)
