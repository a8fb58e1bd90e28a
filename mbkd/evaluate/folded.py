"""A finished run's branches folded into one encoder, which is measured, calibrated and saved as a run of its own."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from mbkd import config as configuration
from mbkd import distributed, runs
from mbkd.config import Config, changed, structures
from mbkd.data import tasks
from mbkd.data.tokens import load_tokenizer
from mbkd.errors import UserError
from mbkd.evaluate import calibration, folder, measure, mixers
from mbkd.files import folder_beside, write_whole
from mbkd.model import card, saved
from mbkd.model.fold import fold
from mbkd.result import Result

WEIGHTS = {"mean": "", "mixers": " by mixers"}  # and what a folded system's name then ends in


def fold_run(run: Path, weights: str = "mean", out: Path | None = None) -> tuple[Path, list[Result]]:
    """Fold a run's student, measure it on every split in every language, and write it to a folder like a run's.

    weights: a key of WEIGHTS; `mixers` takes for each depth the mean weights that the mixers there give on dev, over
    languages, rows and features. out: by default beside the run, where reports find it.
    Returns the folder and what goes on the table: the run's result, the folded one's, and that of the plain model of
    the same training values, where it is finished beside the run. Raises UserError.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights}: one of {', '.join(WEIGHTS)}")
    out = out or _beside(run, weights)
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder with --out")
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
        )
        saved.calibrate(folded, result.calibration["temperature"])
        saved.save(folded, load_tokenizer(source), part / "model")
        card.write(part / "model", config, result)
        write_whole(part / "config.yaml", config.dump().encode())
        result.write(part)
    return out, [before, result, *_plain(config, root)]


def folded(run: Path) -> Result:
    """The result of a run's plain mean, folded now if it is not there. Raises UserError."""
    out = _beside(run, "mean")
    return Result.read(out) if runs.finished(out) else fold_run(run)[1][1]


def _beside(run: Path, weights: str) -> Path:
    return run.with_name(f"{run.name}-folded{'-mixers' if weights == 'mixers' else ''}")


def _mixed(run: Path, config: Config, root: Path) -> list[list[float]]:
    """(K, N): the mean weight of each branch at each depth, over what the mixers there give. Raises UserError."""
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
    # The outer mixer, at None, stands behind the last layer; without inner mixers it alone judges the branches.
    last = shares.get(None, even)
    inner = range(1, config.student.branch_depth)
    return [*(shares.get(depth, last) for depth in inner), last]


def _depth(mixer: str) -> int | None:
    """Behind which layer of the branches a mixer stands: `inner 2, fr` behind the second; None for the outer one."""
    return None if mixer == "outer" else int(mixer.split()[1].rstrip(","))


def _plain(config: Config, root: Path) -> list[Result]:
    """The result of the run without branches that differs in nothing else, if it is finished."""
    if config.student.grow is not None:  # no plain model grows
        return []
    run = runs.folder(root, changed(config, {"student": structures.PLAIN}))
    return [Result.read(run)] if runs.finished(run) else []
