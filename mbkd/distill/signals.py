"""Sources of teacher logits. The training loop calls a signal and does not know its source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbkd.config import Config
from mbkd.data.classifiers import label_order
from mbkd.distill import checks
from mbkd.distill.cache import Cache, open_cache
from mbkd.distill.teachers import Teacher, TeacherSignal
from mbkd.distributed import Ranks, to_device
from mbkd.inputs import Inputs
from mbkd.terminal.progress import PATIENCE, ProgressBar

# (language, rows of its training split) -> logits of its teachers, classes in the student's order; None: hard labels
Signal = Callable[[str, np.ndarray], TeacherSignal | None]
# rows of a language's training split -> output of one teacher, classes in the student's order
TeacherFunction = Callable[[np.ndarray], TeacherSignal]


@dataclass(frozen=True)
class TeacherSource:
    """A signal, and the record of its teachers.

    teachers      loaded teachers, by language; empty with a cache
    fingerprints  hashes of teachers and caches, by language, numbered for several teachers per language
    accuracy      of each teacher on its language's dev rows, in the configuration's order; None without dev rows
    """

    signal: Signal
    teachers: dict[str, list[Teacher]] = field(default_factory=dict)
    fingerprints: dict[str, dict[str, str]] = field(default_factory=lambda: {"teachers": {}})
    precision: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, list[float | None]] = field(default_factory=dict)


def hard_labels(language: str, rows: np.ndarray) -> None:
    """Signal of MultiTrain: no teacher."""


def averaged(teachers: dict[str, list[tuple[float, TeacherFunction]]]) -> Signal:
    """Signal of MultiKD: each language has its own teachers (Eq. 4).

    teachers: language -> (weight, function that returns the logits) of each teacher. The logits of several teachers are
    averaged by weight.
    """

    def signal(language: str, rows: np.ndarray) -> TeacherSignal:
        answers = [ask(rows) for _, ask in teachers[language]]
        if len(answers) == 1:
            return answers[0]
        weights = [weight for weight, _ in teachers[language]]
        logits = torch.stack([weight * each.logits for weight, each in zip(weights, answers, strict=True)])
        states = tuple(state for each in answers for state in each.states or ())
        return TeacherSignal(logits.sum(dim=0) / sum(weights), states or None)

    return signal


def cached(cache: Cache, labels: tuple[str, ...], device: torch.device) -> TeacherFunction:
    """A teacher whose logits come from a cache, classes in the student's order by name. Raises UserError."""
    order = label_order(cache.labels, labels, str(cache.folder))
    return lambda rows: TeacherSignal(to_device(cache.logits[rows][:, order], device))


def open_source(config: Config, inputs: Inputs, root: Path, ranks: Ranks) -> TeacherSource:
    """Open and check the source of a configuration's logits. Raises UserError for a refused teacher.

    Collective: all ranks must call.
    """
    if not inputs.teachers:
        return TeacherSource(hard_labels)
    loaded: dict[str, Teacher] = {}  # by folder or hub id: a teacher of several languages is loaded once

    def load(path: str) -> Teacher:
        if path not in loaded:
            number = sum(map(len, inputs.teachers.values()))
            title = f"loading a teacher: {path}"
            with ProgressBar(title, number, ranks.first, done=len(loaded), patience=PATIENCE) as progress:
                loaded[path] = Teacher(path, inputs.labels, ranks)
                progress.advance()
        return loaded[path]

    allow = config.distill.allow_chance_teachers
    from_cache = config.distill.signal == "cache"
    layers = tuple(pair.teacher for pair in config.distill.hidden)
    asked: dict[str, list[tuple[float, TeacherFunction]]] = {}
    teachers: dict[str, list[Teacher]] = {}
    prints: dict[str, dict[str, str]] = {"teachers": {}, "cache": {}} if from_cache else {"teachers": {}}
    found: list[tuple[str, dict[str, Any]]] = []
    precision: dict[str, list[str]] = {}
    accuracy: dict[str, list[float | None]] = {language: [] for language in inputs.teachers}
    for language, several in inputs.teachers.items():
        asked[language] = []
        for number, given in enumerate(several, start=1):
            name = language if len(several) == 1 else f"{language} {number}"
            prints["teachers"][name] = given.fingerprint
            if from_cache:
                cache = open_cache(language, given, partial(load, given.path), root / "store", ranks, allow)
                prints["cache"][name] = cache.sha256
                checked = cache.checked
                if cache.dev != (given.dev and given.dev.fingerprint):  # the cache is older than the dev rows
                    checked = checks.examine(load(given.path), language, given, root / "store")
                found.append((name, checked))
                ask = cached(cache, inputs.labels, ranks.device)
            else:
                teacher = load(given.path)
                teachers.setdefault(language, []).append(teacher)
                found.append((name, checks.examine(teacher, language, given, root / "store")))
                ask = partial(teacher.signal, given.train, layers=layers)
            asked[language].append((given.weight, ask))
            accuracy[language].append(found[-1][1]["accuracy"])
            precision.setdefault(language, []).append(found[-1][1]["precision"])
    if ranks.first:
        checks.show(found)
    for name, each in found:
        checks.refuse(name, each, allow)
    named = {language: ", ".join(dict.fromkeys(each)) for language, each in precision.items()}
    return TeacherSource(averaged(asked), teachers, prints, named, accuracy)
