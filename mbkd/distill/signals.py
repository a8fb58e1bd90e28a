"""Where teacher logits come from. The loop asks a signal and does not know the answer's source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbkd.config import Config
from mbkd.data.classifiers import label_order
from mbkd.distill import checks
from mbkd.distill.cache import Cache, open_cache
from mbkd.distill.teachers import Teacher
from mbkd.distributed import Ranks
from mbkd.inputs import Inputs
from mbkd.terminal.progress import PATIENCE, ProgressBar

# (language, rows of its training split) -> teacher logits (B, C) in fp32, or None for hard labels
Signal = Callable[[str, np.ndarray], Tensor | None]
# the same for one teacher of one language
Voice = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Source:
    """A signal, and the record of what is behind it.

    teachers      those that are loaded, by language; none with a cache
    fingerprints  by language, numbered where it has several teachers: hashes of teachers and of caches
    accuracy      of each teacher on its own language's dev rows, in the configuration's order; None without dev rows
    """

    signal: Signal
    teachers: dict[str, list[Teacher]] = field(default_factory=dict)
    fingerprints: dict[str, dict[str, str]] = field(default_factory=lambda: {"teachers": {}})
    precision: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, list[float | None]] = field(default_factory=dict)


def hard_labels(language: str, rows: np.ndarray) -> None:
    """MultiTrain: there is no teacher."""


def averaged(voices: dict[str, list[tuple[float, Voice]]]) -> Signal:
    """MultiKD: each language asks its own teachers (Eq. 4); several are averaged by their weights.

    voices: language -> (weight, teacher's answer) of each teacher
    """

    def signal(language: str, rows: np.ndarray) -> Tensor:
        (weight, first), *others = voices[language]
        if not others:
            return first(rows)
        total = weight + sum(weight for weight, _ in others)
        return sum((weight * voice(rows) for weight, voice in others), start=weight * first(rows)) / total

    return signal


def cached(cache: Cache, labels: tuple[str, ...], device: torch.device) -> Voice:
    """A teacher whose logits are read, classes brought to the student's order by name. Raises UserError."""
    order = label_order(cache.labels, labels, str(cache.folder))
    return lambda rows: torch.from_numpy(cache.logits[rows][:, order]).to(device)


def open_source(config: Config, inputs: Inputs, root: Path, ranks: Ranks) -> Source:
    """What a configuration learns from, checked. A collective call. Raises UserError for a teacher that is refused."""
    if not inputs.teachers:
        return Source(hard_labels)
    loaded: dict[str, Teacher] = {}  # by folder or hub id: a multilingual teacher is loaded once

    def load(path: str) -> Teacher:
        if path not in loaded:
            number = sum(map(len, inputs.teachers.values()))
            title = f"loading a teacher: {path}"
            with ProgressBar(title, number, ranks.first, done=len(loaded), patience=PATIENCE) as progress:
                loaded[path] = Teacher(path, inputs.labels, ranks, config.distill.placement == "on_demand")
                progress.advance()
        return loaded[path]

    allow = config.distill.allow_chance_teachers
    from_cache = config.distill.signal == "cache"
    voices: dict[str, list[tuple[float, Voice]]] = {}
    teachers: dict[str, list[Teacher]] = {}
    prints: dict[str, dict[str, str]] = {"teachers": {}, "cache": {}} if from_cache else {"teachers": {}}
    found: list[tuple[str, dict[str, Any]]] = []
    precision: dict[str, list[str]] = {}
    accuracy: dict[str, list[float | None]] = {language: [] for language in inputs.teachers}
    for language, several in inputs.teachers.items():
        voices[language] = []
        for number, given in enumerate(several, start=1):
            name = language if len(several) == 1 else f"{language} {number}"
            prints["teachers"][name] = given.fingerprint
            if from_cache:
                cache = open_cache(language, given, partial(load, given.path), root / "store", ranks, allow)
                prints["cache"][name] = cache.sha256
                found.append((name, cache.checked))
                voice = cached(cache, inputs.labels, ranks.device)
            else:
                teacher = load(given.path)
                teachers.setdefault(language, []).append(teacher)
                found.append((name, checks.examine(teacher, language, given, root / "store")))
                voice = _asked(teacher, given.train)
            voices[language].append((given.weight, voice))
            accuracy[language].append(found[-1][1]["accuracy"])
            precision.setdefault(language, []).append(found[-1][1]["precision"])
    if ranks.first:
        checks.show(found)
    for name, each in found:
        checks.refuse(name, each, allow)
    named = {language: ", ".join(dict.fromkeys(each)) for language, each in precision.items()}
    return Source(averaged(voices), teachers, prints, named, accuracy)


def _asked(teacher: Teacher, tokens: Any) -> Voice:
    """A teacher that is asked now."""
    return lambda rows: teacher.logits(tokens, rows)
