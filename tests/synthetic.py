"""Run directories in mbkd's format without training, from given correct rows."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbkd.config import Config
from mbkd.evaluate import metrics
from mbkd.result import Result

CLASSES = {"xnli": ("entailment", "neutral", "contradiction"), "marc": ("1", "2", "3", "4", "5")}
CorrectRows = Mapping[str, Mapping[str, np.ndarray]]  # split -> language -> (rows,) bool


def make_result(**given: Any) -> Result:
    """Return a result of one seed of MultiKD; `given` overrides its fields."""
    values = {"system": "MultiKD", "role": "student", "task": "own", "backbone": "mbert", "seed": 1}
    values |= {"supervised": (), "zero_shot": (), "accuracy": {}, "averages": {}, "mae": {}, "mae_averages": {}}
    return Result(**values | given)


def labels_of(task: str, split: str, language: str, rows: int, classes: int) -> np.ndarray:
    """Return the classes, (rows,): equal in all languages for XNLI, different otherwise."""
    seed = zlib.crc32(f"{split} {'' if task == 'xnli' else language}".encode())
    return np.random.default_rng(seed).integers(0, classes, rows)


def write_run(root: Path, config: Config, correct: CorrectRows, **result: Any) -> Path:
    """Write a finished run of a configuration; `result` overrides fields of result.json."""
    folder = root / config.run_name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
    given = {"system": config.system, "role": config.role, "seed": config.seed, "hash": config.hash}
    given |= {"backbone": config.student.backbone, "trained": config.languages}
    return _write(folder, config, correct, given | result)


def write_ensemble(root: Path, members: Sequence[Config], correct: CorrectRows, **result: Any) -> Path:
    """Write an ensemble of runs as tuning does: a run directory without a configuration."""
    seeds = [config.seed for config in members]
    folder = root / f"{members[0].task.kind}-ens2-{'-'.join(map(str, seeds))}-{members[0].hash}"
    folder.mkdir(parents=True)
    given = {"system": "Ens2", "role": "ensemble", "seeds": seeds, "members": [config.run_name for config in members]}
    given |= {"backbone": members[0].student.backbone, "branch_depth": members[0].student.branch_depth}
    return _write(folder, members[0], correct, given | result)


def _write(folder: Path, config: Config, correct: CorrectRows, result: dict[str, Any]) -> Path:
    task = config.task
    names = task.labels or CLASSES[task.kind]
    scores: dict[str, dict[str, Any]] = {"accuracy": {}, "mae": {}, "averages": {}, "mae_averages": {}, "rows": {}}
    for kind in ("logits", "labels"):
        (folder / kind).mkdir()
    for split, each in correct.items():
        accuracy, mae = {}, {}
        for language, right in each.items():
            labels = labels_of(task.kind, split, language, len(right), len(names))
            answers = np.where(right, labels, (labels + 1) % len(names))
            logits = np.eye(len(names), dtype=np.float32)[answers]
            np.save(folder / "logits" / f"{split}.{language}.npy", logits)
            np.save(folder / "labels" / f"{split}.{language}.npy", labels)
            accuracy[language] = metrics.accuracy(logits, labels)
            mae[language] = metrics.mae(logits, labels)
        scores["accuracy"][split] = accuracy
        scores["averages"][split] = metrics.averages(accuracy, task.supervised, task.zero_shot)
        scores["rows"][split] = {language: len(right) for language, right in each.items()}
        if task.kind == "marc" or task.ordinal:
            scores["mae"][split] = mae
            scores["mae_averages"][split] = metrics.averages(mae, task.supervised, task.zero_shot)
    whole = {
        "task": task.kind,
        "labels": names,
        "supervised": task.supervised,
        "zero_shot": task.zero_shot,
        **scores,
        "parameters": 1000,
        "steps": round(100 * config.train.epochs),
        "train_seconds": 10.0,
        "step_seconds": {"median": 0.1, "teacher": config.distill.signal},
        **result,
    }
    (folder / "result.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder
