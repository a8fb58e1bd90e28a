"""Configurations with lists in place of single values, and the grid that the lists span."""

import json
from itertools import product
from typing import Any, get_origin

from mbkd import config as configuration
from mbkd.config import Config, Section
from mbkd.errors import UserError


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Replace each list at a single-value field by its first entry; return the values and the lists.

    A field that takes several values, such as task.supervised, keeps its list. Raises UserError for an empty list.
    """
    lists: dict[str, list[Any]] = {}
    return _split(Config, values, "", lists), lists


def _split(section: type[Section], values: dict[str, Any], path: str, lists: dict[str, list[Any]]) -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        kind = section.model_fields[name].annotation if name in section.model_fields else None
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Section):
            result[name] = _split(kind, value, f"{path}{name}.", lists)
        elif isinstance(value, list) and kind is not None and get_origin(kind) not in (tuple, dict):
            if not value:
                raise UserError(f"{path}{name}: the list is empty; give the values to try")
            lists[f"{path}{name}"] = value
            result[name] = value[0]
        else:
            result[name] = value
    return result


def combinations(lists: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the lists' values, by dotted field; one empty combination without lists."""
    return [dict(zip(lists, chosen, strict=True)) for chosen in product(*lists.values())]


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return the configuration with values by dotted field. Raises UserError."""
    overrides = [f"{path}={json.dumps(value)}" for path, value in values.items()]
    return configuration.parse(configuration.override(config.model_dump(mode="json"), overrides), config.run_name)


def value_of(config: Config, path: str) -> Any:
    """Return a configuration's value at a dotted field."""
    node: Any = config
    for name in path.split("."):
        node = getattr(node, name)
    return node
