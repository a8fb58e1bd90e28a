"""Fold a finished run's branches into one encoder, and measure, calibrate and save the encoder as a run."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mbkd import config as configuration
from mbkd import distributed, provenance, runs
from mbkd.config import Config, changed, structures
from mbkd.data import tasks
from mbkd.data.tokens import load_tokenizer
from mbkd.errors import UserError
from mbkd.evaluate import calibration, folder, measure, mixers
from mbkd.files import folder_beside, write_whole
from mbkd.model import card, saved
from mbkd.model.fold import fold
from mbkd.result import Result

WEIGHTS = {"mean": "", "mixers": " by mixers"}  # weights of the branches -> suffix of the folded system's name


def fold_run(run: Path, weights: str = "mean", out: Path | None = None) -> tuple[Path, list[Result]]:
    """Fold a run's student, measure the result on every split and language, and write a run directory.

    weights: a key of WEIGHTS. With `mixers`, a branch's weight at a depth is its mean mixer weight there on dev, over
    languages, rows and features. out: the directory to write; default: next to the run, where reports find it.
    Returns the directory and the results of the run and of the folded run. A finished run in the same folder with the
    same training values and no branches adds a third result. Raises UserError.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights}: must be one of {', '.join(WEIGHTS)}")
    run = run if run.name else run.absolute()  # `.` has no name
    out = out or _beside(run, weights)
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder with --out")
    before, config = Result.read(run), configuration.read(run / "config.yaml")
    source, root = saved.folder(run), run.parent
    model = saved.load(source)
    if not getattr(model.config, "branch_depth", 0):
        raise UserError(f"{run}: this model has no branches to fold")
    folded = fold(model, _mixed(run, config, root) if weights == "mixers" else None)
    with folder_beside(out) as part:
        distributed.quiet()
        ranks = distributed.start()
        folded.to(ranks.device)
        scores: dict[str, dict[str, Any]] = {}
        for split in before.accuracy:
            answers, labels, ids = folder.logits(folded, source, config, split, root, ranks)
            scores[split] = measure.scores(answers, labels, config.task, tasks.is_ordinal(config.task))
            measure.save(part, split, answers, labels, ids)
        distributed.stop()
        found = measure.by_split(scores)
        result = replace(
            before,
            system=f"{before.system}, folded{WEIGHTS[weights]}",
            hash=hashlib.sha256(f"{run.name} {weights}".encode()).hexdigest()[:8],
            branches=(),
            folded_from=run.name,
            **found,
            calibration=calibration.of_run(part, found["accuracy"], fitted=True),
            parameters=sum(p.numel() for p in folded.parameters()),
            made_from=before.made_from | provenance.member(run),
        )
        saved.calibrate(folded, result.calibration["temperature"], result.calibration["temperatures"])
        saved.save(folded, load_tokenizer(source), part / "model")
        card.write(part / "model", config, result)
        write_whole(part / "config.yaml", config.dump().encode())
        result.write(part)
    return out, [before, result, *_plain(config, root)]


def folded(run: Path) -> Result:
    """Result of a run folded by the plain mean; folds a new or retrained run first. Raises UserError."""
    out = _beside(run, "mean")
    if runs.finished(out):
        found = Result.read(out)
        if provenance.member(run).items() <= found.made_from.items():
            return found
        shutil.rmtree(out)
    return fold_run(run)[1][1]


def _beside(run: Path, weights: str) -> Path:
    return run.with_name(f"{run.name}-folded{'-mixers' if weights == 'mixers' else ''}")


def _mixed(run: Path, config: Config, root: Path) -> list[list[float]]:
    """(K, N): mean weight of each branch at each depth, over the mixers there. Raises UserError."""
    found = mixers.measure(run, config, "dev", root)
    sums = {
        depth: [
            sum(row["mean"] for row in found["rows"] if row["branch"] == branch and _depth(row["mixer"]) == depth)
            for branch in found["branches"]
        ]
        for depth in {_depth(row["mixer"]) for row in found["rows"]}
    }
    shares = {depth: [x / sum(each) for x in each] for depth, each in sums.items()}
    even = [1 / len(found["branches"])] * len(found["branches"])
    # The outer mixer (key None) follows the last layer. Without inner mixers no other mixer weights the branches.
    last = shares.get(None, even)
    inner = range(1, config.student.branch_depth)
    return [*(shares.get(depth, last) for depth in inner), last]


def _depth(mixer: str) -> int | None:
    """Depth after which a mixer acts: 2 for `inner 2, fr`; None for the outer mixer."""
    return None if mixer == "outer" else int(mixer.split()[1].rstrip(","))


def _plain(config: Config, root: Path) -> list[Result]:
    """Result of the finished run that differs from the configuration only by having no branches, if any."""
    if config.student.grow is not None:  # growing requires branches
        return []
    run = runs.folder(root, changed(config, {"student": structures.PLAIN}))
    return [Result.read(run)] if runs.finished(run) else []
