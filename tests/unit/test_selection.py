"""Claims about the choice of a configuration (decisions 18, 19)."""

import pytest

from mbkd.errors import UserError
from mbkd.evaluate.selection import Candidate, choose, mean_score
from mbkd.result import Result
from tests.synthetic import make_result


def result(seed: int, a: float | None, s: float = 0.5, steps: int = 100) -> Result:
    return make_result(seed=seed, steps=steps, averages={"dev": {"S": s, "Z": None, "A": a}})


def candidate(lr: float, *results: Result) -> Candidate:
    return Candidate({"train.lr": lr}, results)


def test_the_best_mean_over_seeds_wins_not_the_best_seed():
    steady = candidate(1e-5, result(1, 0.70), result(2, 0.70))
    lucky = candidate(2e-5, result(1, 0.75), result(2, 0.60))
    assert choose([lucky, steady]) is steady
    assert mean_score(lucky) == pytest.approx(0.675)


def test_the_rule_supervised_ignores_zero_shot_dev_labels():
    one = candidate(1e-5, result(1, a=0.70, s=0.60))
    other = candidate(2e-5, result(1, a=0.60, s=0.70))
    assert choose([one, other]) is one
    assert choose([one, other], "supervised") is other


def test_of_equal_candidates_the_one_with_fewer_steps_wins():
    long, short = candidate(1e-5, result(1, 0.7, steps=200)), candidate(2e-5, result(1, 0.7, steps=100))
    assert choose([long, short]) is short


def test_a_winner_with_five_seeds_is_not_beaten_by_a_search_run_of_one_seed():
    confirmed = candidate(1e-5, *(result(seed, 0.70) for seed in range(5)))
    searched = candidate(2e-5, result(1, 0.71))
    assert choose([searched, confirmed]) is confirmed


def test_a_run_without_a_dev_average_is_named():
    with pytest.raises(UserError, match=r"MultiKD, seed 3: no AVG\(A\) on a dev split.*--rule supervised"):
        choose([candidate(1e-5, result(3, None)), candidate(2e-5, result(3, 0.5))])


def test_the_lack_of_finished_runs_is_reported():
    with pytest.raises(UserError, match="no run is finished"):
        choose([candidate(1e-5)])
