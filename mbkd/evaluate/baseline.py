"""Lower baseline: scikit-learn's logistic regression on the frozen encoder's mean-pooled states, scaled to unit length.

Dev accuracy over all languages chooses the regularization, as for every other system. Standardized features overfit
the trained languages: on SIB-200, AVG(A) on dev is 42 with them and 52 with unit length.

Letters: B rows, n tokens, d width, C classes.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbkd import config as configuration
from mbkd import provenance, runs
from mbkd.config import Config, paper
from mbkd.data import hub, tasks
from mbkd.data.batches import evaluation_batches, evenly_spaced, tokens_per_batch
from mbkd.data.tokens import Tokens, open_store
from mbkd.errors import UserError
from mbkd.evaluate import calibration, measure
from mbkd.files import folder_beside, write_json, write_whole
from mbkd.model import backbones, saved
from mbkd.result import Result
from mbkd.terminal.progress import ProgressBar

SYSTEM = "Baseline (frozen encoder)"
ROWS = 10_000  # training rows per language at most; more rows hardly change a linear model
ITERATIONS = 1000
STRENGTHS = (10.0, 1.0, 100.0)  # scikit-learn's C, in order of preference; the first one without dev rows


def baseline(config: Config, root: Path) -> Path:
    """Fit and measure the baseline of a configuration's task and backbone, and write its run directory.

    One classifier is fitted on the training rows of all languages; the encoder stays frozen. A finished, current
    directory is reused. Returns the directory. Raises UserError.
    """
    task, backbone, length = config.task, config.student.backbone, config.train.max_length
    asked = f"{task.model_dump_json()} {backbone} {length} {config.languages} unit length, C by dev, evenly spaced rows"
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    directory = root / f"{task.kind}-baseline-{digest}"
    plain = configuration.changed(config, {"student": {"branch_depth": 0}, "distill": paper.HARD_LABELS})
    # A stale baseline (other rows or another encoder) is refitted without confirmation: fitting takes a minute.
    if runs.finished(directory) and not provenance.stale({directory: plain}, root):
        return directory
    splits = tasks.splits(task)
    if "train" not in splits:
        raise UserError(f"task.path = {task.path}: the task has no training split")
    if splits == ("train",):
        raise UserError("a baseline is measured on dev or test rows, and the task has neither")

    def tokens(split: str, language: str) -> Tokens:
        return open_store(root / "store", task, split, language, backbone, length)

    train = {x: tokens("train", x) for x in config.languages}
    heldout = {
        split: {x: tokens(split, x) for x in tasks.languages(task, split)} for split in splits if split != "train"
    }
    encoder = backbones.load(backbone, hub.pinned(backbone)).to(saved.device()).eval()
    began = time.perf_counter()
    with folder_beside(directory) as part:
        with ProgressBar("frozen encoder", len(train) + sum(map(len, heldout.values()))) as progress:

            def features(store: Tokens, which: np.ndarray) -> np.ndarray:
                found = _means(encoder, store, which)
                progress.advance()
                return found

            chosen = {x: evenly_spaced(len(store), ROWS) for x, store in train.items()}
            rows = np.concatenate([features(store, chosen[x]) for x, store in train.items()])
            classes = np.concatenate([np.asarray(store.labels)[chosen[x]] for x, store in train.items()])
            candidates = [_fit(rows, classes, len(tasks.label_names(task)), c) for c in STRENGTHS]
            seconds = time.perf_counter() - began
            scores = {}
            for split, stores in sorted(heldout.items()):  # dev first, because its scores choose the classifier
                labels = {x: np.asarray(store.labels) for x, store in stores.items()}
                several: list[dict[str, np.ndarray]] = [{} for _ in candidates]
                for language, store in stores.items():
                    these = features(store, np.arange(len(store)))
                    for answer, answers in zip(candidates, several, strict=True):
                        answers[language] = answer(these)
                each = [measure.scores(answers, labels, task, tasks.is_ordinal(task)) for answers in several]
                means = [np.mean(list(scored["accuracy"].values())) for scored in each]
                best = int(np.argmax(means)) if split == "dev" else 0
                candidates, scores[split] = [candidates[best]], each[best]
                measure.save(part, split, several[best], labels, {x: store.row_ids for x, store in stores.items()})
        found = measure.by_split(scores)
        result = Result(
            system=SYSTEM,
            role="student",
            task=task.kind,
            backbone=backbone,
            seed=config.seed,
            hash=digest,
            labels=tasks.label_names(task),
            trained=config.languages,
            supervised=task.supervised,
            zero_shot=task.zero_shot,
            **found,
            calibration=calibration.of_run(part, found["accuracy"], fitted=False),
            parameters=sum(p.numel() for p in encoder.parameters())
            + (rows.shape[1] + 1) * len(tasks.label_names(task)),
            train_seconds=seconds,
            step_seconds={"median": 0.0, "teacher": "labels"},
            made_from=provenance.made_from(plain, root),
            rows={
                split: {x: len(s) for x, s in stores.items()} for split, stores in {"train": train, **heldout}.items()
            },
        )
        write_whole(part / "config.yaml", plain.dump().encode())
        write_json(part / "environment.json", runs.environment())
        result.write(part)
    return directory


@torch.inference_mode()
def _means(encoder: Any, tokens: Tokens, wanted: np.ndarray) -> np.ndarray:
    """Mean of the last layer's states over the tokens of each row, excluding padding: (B, d) fp32.

    wanted: (B,) indices of rows.
    """
    found = np.empty((len(wanted), encoder.config.hidden_size), np.float32)
    budget = tokens_per_batch(encoder.device.type)
    for rows in evaluation_batches(np.asarray(tokens.lengths)[wanted], budget, 0, 1):
        batch = {name: torch.from_numpy(x).to(encoder.device) for name, x in tokens.batch(wanted[rows]).items()}
        states = encoder(**batch).last_hidden_state  # (B, n, d)
        mask = batch["attention_mask"].unsqueeze(2).to(states.dtype)
        found[rows] = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
    return found


def _fit(rows: np.ndarray, classes: np.ndarray, count: int, strength: float) -> Any:
    """Fit on rows (B, d) with C = strength; return a function from rows (B, d) to log-probabilities (B, C)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    if len(np.unique(classes)) < 2:
        raise UserError("all training rows have the same label; a classifier needs at least two labels")
    model = make_pipeline(Normalizer(), LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(rows, classes)

    def answer(these: np.ndarray) -> np.ndarray:
        found = np.full((len(these), count), np.log(1e-12), np.float32)  # for labels without training rows
        found[:, model.classes_] = np.log(model.predict_proba(these).clip(1e-12))
        return found

    return answer
