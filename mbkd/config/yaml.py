"""Configurations from YAML files, `key.key=value` overrides, and other configurations."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mbkd.config.explain import explain
from mbkd.config.schema import Config
from mbkd.errors import UserError


def parse(values: dict[str, Any], source: str) -> Config:
    """Validate nested values. Raises UserError with the source, the field, the value and valid choices."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {explain(dict(e))}" for e in error.errors())
        raise UserError(f"{source}: the configuration is not valid\n{problems}") from None


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """Return the configuration with changed values, nested by section, and validate it. Raises UserError."""
    values = config.model_dump(mode="json")
    for section, value in changes.items():
        values[section] = values[section] | value if isinstance(value, dict) else value
    return parse(values, config.run_name)


def read(file: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply `key.key=value` overrides. Raises UserError."""
    return parse(override(read_values(file), overrides or []), str(file))


class _Loader(yaml.SafeLoader):
    """yaml's safe loader, which keeps the last of two equal keys, with an error instead."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key.value, str):
                problem = f"`{key.value}` occurs twice; join both entries"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen |= {key.value} if isinstance(key.value, str) else set()
        return super().construct_mapping(node, deep)


def read_values(file: str | Path) -> dict[str, Any]:
    """Return the values of a YAML file without validation. Raises UserError."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give a YAML file or a name from `mbkd recipes`") from None
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except ValueError as error:  # 2021-13-01
        raise UserError(f"{file}: {error}; put quotes around text that looks like a date or a number") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: a configuration is a mapping of sections (task, student, ...), not {values!r}")
    return _found_beside(_copy(values), Path(file).parent)


def _found_beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve relative paths against the working directory, otherwise against the YAML file's folder."""

    def resolve(section: Any, key: str) -> None:
        path = section.get(key) if isinstance(section, dict) else None
        if isinstance(path, str) and path and not _leads(Path(), path) and _leads(folder, path):
            section[key] = str(folder / path)

    task, teachers = values.get("task"), values.get("teachers")
    resolve(task, "path")
    # If `path` is set, it is a hub id, and files are the names of its splits.
    files = task.get("files") if isinstance(task, dict) and not task.get("path") else None
    for split in files if isinstance(files, dict) else ():
        resolve(files, split)
    resolve(values.get("student"), "backbone")
    for several in teachers.values() if isinstance(teachers, dict) else ():
        for teacher in several if isinstance(several, list) else [several]:
            resolve(teacher, "model")
    return values


def _leads(folder: Path, path: str) -> bool:
    """Whether a relative path exists. {language} matches any part of a name."""
    if "{" in path and not Path(path).is_absolute():
        return any(folder.glob(re.sub(r"\{.*?\}", "*", path)))
    return (folder / path).exists()


def override(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the nested values with each `a.b=value` applied. Values are parsed as YAML. Raises UserError."""
    values = _copy(values)
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise UserError(f"override {item!r}: write it as key=value, for example train.lr=2e-5")
        *parents, last = path.split(".")
        node = values
        for key in parents:
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict):
                raise UserError(f"override {item!r}: {key} is a value and has no fields")
        try:
            node[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise UserError(f"override {item!r}: the value is not valid YAML") from None
    return values


def _copy(value: Any) -> Any:
    """Copy nested values. Mappings and lists that YAML aliases share become separate objects."""
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value
