"""Which configuration of a system counts: the one with the best mean dev average over its seeds (decision 18)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mbkd.errors import UserError
from mbkd.result import Result

# all: dev AVG(A), as in the paper, which looks at zero-shot dev labels; supervised: dev AVG(S) (decision 19)
Rule = Literal["all", "supervised"]
AVERAGE = {"all": "A", "supervised": "S"}
OTHERWISE = {"all": ", choose by the supervised ones (--rule supervised)", "supervised": ""}


@dataclass(frozen=True)
class Candidate:
    """One configuration of a system: its values, and the results of its finished runs, one for each seed."""

    values: dict[str, Any]
    results: tuple[Result, ...]


def dev_average(result: Result, rule: Rule = "all") -> float | None:
    """The dev average, 0 to 1, that a run is judged by; None for a run without it."""
    return result.means("dev").get(AVERAGE[rule])


def score(result: Result, rule: Rule = "all") -> float:
    """`dev_average` of a run. Raises UserError for a run without it."""
    value = dev_average(result, rule)
    if value is None:
        raise UserError(
            f"{result.system}, seed {result.seed}: no AVG({AVERAGE[rule]}) on a dev split, so no configuration can be "
            f"chosen by it; give the task dev rows in every language{OTHERWISE[rule]}, or train with fixed values"
        )
    return float(value)


def mean_score(candidate: Candidate, rule: Rule = "all") -> float:
    """The mean over a candidate's seeds. Raises UserError for a run without a dev average."""
    return sum(score(result, rule) for result in candidate.results) / len(candidate.results)


def seeds(candidate: Candidate) -> int:
    """How many seeds of a candidate are finished; repetitions of a seed are one."""
    return len({result.all_seeds for result in candidate.results})


def not_considered(candidates: Sequence[Candidate]) -> list[str]:
    """In words: the candidates that do not compete, because others have more finished seeds."""
    most = max(map(seeds, candidates), default=0)
    left = [candidate for candidate in candidates if seeds(candidate) < most]
    values = [", ".join(f"{path}={value}" for path, value in each.values.items()) for each in left]
    return [f"{x} ({seeds(each)} of {most} seeds finished)" for x, each in zip(values, left, strict=True)]


def choose(candidates: Sequence[Candidate], rule: Rule = "all") -> Candidate:
    """The candidate with the best mean; of equals the one with fewer steps, then the first.

    Only candidates with the most seeds compete: one lucky seed is no match for a mean over five.
    Raises UserError where no run is finished, or one has no dev average.
    """
    most = max(map(seeds, candidates), default=0)
    if not most:
        raise UserError("no run is finished, so no configuration can be chosen")
    full = [candidate for candidate in candidates if seeds(candidate) == most]
    if len(full) == 1:
        return full[0]
    return max(full, key=lambda candidate: (mean_score(candidate, rule), -candidate.results[0].steps))
