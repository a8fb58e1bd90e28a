"""Choice of a system's configuration: the best dev average, as a mean over seeds (decision 18)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mbkd.errors import UserError
from mbkd.result import Result

# all: dev AVG(A), as in the paper, which uses zero-shot dev labels; supervised: dev AVG(S) (decision 19)
Rule = Literal["all", "supervised"]
AVERAGE = {"all": "A", "supervised": "S"}
OTHERWISE = {"all": ", choose by the supervised ones (--rule supervised)", "supervised": ""}


@dataclass(frozen=True)
class Candidate:
    """A configuration of a system: its values and the results of its finished runs, one per seed."""

    values: dict[str, Any]
    results: tuple[Result, ...]


def dev_average(result: Result, rule: Rule = "all") -> float | None:
    """Dev average, 0 to 1, that ranks a run; None if the run has no dev average."""
    return result.means("dev").get(AVERAGE[rule])


def score(result: Result, rule: Rule = "all") -> float:
    """`dev_average` of a run. Raises UserError if the run has no dev average."""
    value = dev_average(result, rule)
    if value is None:
        raise UserError(
            f"{result.system}, seed {result.seed}: no AVG({AVERAGE[rule]}) on a dev split, so no configuration can be "
            f"chosen by it; give the task dev rows in every language{OTHERWISE[rule]}, or train with fixed values"
        )
    return float(value)


def mean_score(candidate: Candidate, rule: Rule = "all") -> float:
    """Mean score over a candidate's seeds. Raises UserError if a run has no dev average."""
    return sum(score(result, rule) for result in candidate.results) / len(candidate.results)


def seeds(candidate: Candidate) -> int:
    """Number of a candidate's finished seeds. Repetitions of a seed count once."""
    return len({result.all_seeds for result in candidate.results})


def not_considered(candidates: Sequence[Candidate]) -> list[str]:
    """Descriptions of the candidates that do not compete because other candidates have more finished seeds."""
    most = max(map(seeds, candidates), default=0)
    left = [candidate for candidate in candidates if seeds(candidate) < most]
    values = [", ".join(f"{path}={value}" for path, value in each.values.items()) for each in left]
    return [f"{x} ({seeds(each)} of {most} seeds finished)" for x, each in zip(values, left, strict=True)]


def choose(candidates: Sequence[Candidate], rule: Rule = "all") -> Candidate:
    """Return the candidate with the best mean. Ties go to fewer steps, then to the first candidate.

    Only candidates with the most finished seeds compete, because one seed is a noisier estimate than a mean over five.
    Raises UserError if no run is finished or a run has no dev average.
    """
    most = max(map(seeds, candidates), default=0)
    if not most:
        raise UserError("no run is finished, so no configuration can be chosen")
    full = [candidate for candidate in candidates if seeds(candidate) == most]
    if len(full) == 1:
        return full[0]
    return max(full, key=lambda candidate: (mean_score(candidate, rule), -candidate.results[0].steps))
