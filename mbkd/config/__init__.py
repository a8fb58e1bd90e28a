"""Configuration of a training run: fields, YAML files and overrides, and the paper's experiments."""

from mbkd.config.schema import (
    SPLITS,
    Columns,
    Config,
    Distill,
    HiddenPair,
    Section,
    Student,
    Task,
    Teacher,
    Training,
    language_key,
)
from mbkd.config.yaml import changed, override, parse, read, read_values

__all__ = [
    "SPLITS",
    "Columns",
    "Config",
    "Distill",
    "HiddenPair",
    "Section",
    "Student",
    "Task",
    "Teacher",
    "Training",
    "changed",
    "language_key",
    "override",
    "parse",
    "read",
    "read_values",
]
