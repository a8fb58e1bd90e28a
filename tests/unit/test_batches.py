"""Claims about the steps of a run and the batches of an evaluation."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from mbkd.data.batches import WINDOW, Plan, compiled_width, evaluation_batches, micro_batch
from mbkd.errors import UserError

ROWS = {"en": 200, "fr": 130, "zh": 75}
DRAWS = ["uniform", "proportional", "shuffled"]


def lengths(rows=ROWS, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.integers(4, 129, count) for name, count in rows.items()}


def plan(rows=ROWS, batch_size=8, epochs=4.0, seed=3, **options):
    return Plan(lengths(rows), batch_size, epochs=epochs, seed=seed, **options)


def steps_of(plan, steps=None):
    return [(plan.language(s), plan.rows(s).tolist()) for s in steps or range(plan.steps)]


def passes_of(plan, language):
    """Return the batches of a language, grouped by pass."""
    batches = [plan.rows(s) for s in range(plan.steps) if plan.language(s) == language]
    per_pass = len(lengths()[language]) // plan.batch_size
    return [batches[i : i + per_pass] for i in range(0, len(batches), per_pass)]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_step_does_not_depend_on_the_order_of_requests(draw):
    forward, other = plan(draw=draw), plan(draw=draw)
    order = np.random.default_rng(0).permutation(forward.steps).tolist()
    assert dict(zip(order, steps_of(other, order), strict=True)) == dict(enumerate(steps_of(forward)))


def test_another_process_gets_the_same_steps():
    code = (
        "import numpy as np; from mbkd.data.batches import Plan;"
        "p = Plan({'en': np.arange(90) % 17, 'fr': np.arange(50) % 13}, 8, epochs=3, seed=5);"
        "print([(p.language(s), p.rows(s).tolist()) for s in range(p.steps)])"
    )
    command = [sys.executable, "-c", code]
    outputs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for _ in range(2)]
    here = Plan({"en": np.arange(90) % 17, "fr": np.arange(50) % 13}, 8, epochs=3, seed=5)
    assert [output.strip() for output in outputs] == [str(steps_of(here))] * 2


def test_the_sequence_equals_that_of_earlier_versions():
    fixed = Plan({"en": np.arange(40), "fr": np.arange(20)}, 4, epochs=2, seed=1, group_by_length=False)
    assert "".join(fixed.language(s)[0] for s in range(12)) == "eeefeeeefffe"
    assert fixed.rows(0).tolist() == [31, 21, 0, 25]


def test_a_longer_run_begins_with_the_steps_of_the_shorter_one():
    short, long = plan(epochs=2), plan(epochs=7)
    assert steps_of(long, range(short.steps)) == steps_of(short)


def test_resuming_at_a_step_continues_the_sequence():
    whole, resumed = plan(), plan()
    assert steps_of(resumed, range(90, resumed.steps)) == steps_of(whole)[90:]


def test_another_seed_gives_other_languages_and_other_rows():
    one, other = plan(seed=1), plan(seed=2)
    assert [one.language(s) for s in range(100)] != [other.language(s) for s in range(100)]
    assert sorted(passes_of(one, "en")[0][0]) != sorted(passes_of(other, "en")[0][0])


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("draw", DRAWS)
def test_a_pass_contains_no_row_twice_and_omits_less_than_a_batch(draw, group_by_length):
    made = plan(epochs=6, draw=draw, group_by_length=group_by_length)
    for language, count in ROWS.items():
        whole = [p for p in passes_of(made, language) if len(p) == count // 8]
        assert len(whole) >= 2
        for batches in whole:
            rows = np.concatenate(batches)
            assert len(set(rows.tolist())) == len(rows) == count // 8 * 8
            assert rows.min() >= 0
            assert rows.max() < count


def test_the_next_pass_shuffles_again_and_omits_other_rows():
    first, second = (np.concatenate(p) for p in passes_of(plan(epochs=6), "fr")[:2])
    assert first.tolist() != second.tolist()
    assert set(first.tolist()) != set(second.tolist())  # 130 rows, 16 batches of 8: each pass omits two rows


def test_rows_of_a_batch_change_between_passes_despite_grouping_by_length():
    first, second = ({frozenset(b.tolist()) for b in p} for p in passes_of(plan(epochs=6), "en")[:2])
    assert not first & second


def test_a_uniform_draw_gives_every_language_a_third_of_the_steps():
    made = plan({"en": 30_000, "fr": 300, "zh": 3_000}, batch_size=1, epochs=1)
    n = made.steps
    for count in made.steps_per_language.values():
        assert abs(count - n / 3) < 4 * np.sqrt(n * 2 / 9)  # four standard deviations


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_proportional_draw_follows_rows_to_the_power_of_alpha(alpha):
    rows = {"en": 20_000, "fr": 5_000, "zh": 1_000}
    made = plan(rows, batch_size=1, epochs=1, draw="proportional", alpha=alpha)
    weights = np.array(list(rows.values()), float) ** alpha
    for p, count in zip(weights / weights.sum(), made.steps_per_language.values(), strict=True):
        assert abs(count - p * made.steps) < 4 * np.sqrt(made.steps * p * (1 - p))


def test_independent_draws_do_not_depend_on_the_previous_step():
    made = plan({"en": 10_000, "fr": 10_000}, batch_size=1, epochs=1)
    en = np.array([made.language(s) == "en" for s in range(made.steps)])
    assert abs((en[1:] == en[:-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(made.steps)


def test_a_shuffled_deck_gives_every_language_exactly_its_batches_in_every_epoch():
    made = plan(epochs=3, draw="shuffled")
    per_epoch = {language: count // 8 for language, count in ROWS.items()}
    epochs = [
        [made.language(s) for s in range(start, start + made.steps_per_epoch)]
        for start in range(0, made.steps, made.steps_per_epoch)
    ]
    assert [Counter(epoch) for epoch in epochs] == [Counter(per_epoch)] * 3
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 50), (3, 150), (0.5, 25), (0.001, 1)])
def test_an_epoch_is_the_sum_of_the_languages_batches(epochs, steps):
    made = plan({"en": 200, "fr": 130, "zh": 75}, epochs=epochs)  # 25 + 16 + 9 batches of 8
    assert made.steps_per_epoch == 50
    assert made.steps == steps == sum(made.steps_per_language.values())
    with pytest.raises(IndexError):
        made.rows(made.steps)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_language_smaller_than_a_batch_repeats_its_rows_evenly(draw):
    made = plan({"en": 40, "sw": 3}, batch_size=8, epochs=10, draw=draw)
    assert made.steps_per_epoch == 6
    tiny = [made.rows(s) for s in range(made.steps) if made.language(s) == "sw"]
    assert tiny
    for rows in tiny:
        assert sorted(Counter(rows.tolist()).values()) == [2, 3, 3]


def test_a_language_without_rows_is_refused_by_name():
    with pytest.raises(UserError, match="no training rows in fr"):
        plan({"en": 10, "fr": 0})


def test_grouping_by_length_pads_far_less_than_random_batches():
    generator = np.random.default_rng(0)
    text = {"en": np.clip(generator.lognormal(3.6, 0.5, 20_000), 4, 128).astype(int)}
    grouped, random = (
        Plan(text, 32, epochs=1, seed=1, group_by_length=group).padding_efficiency(625) for group in (True, False)
    )
    assert random < 0.5
    assert grouped > 0.95


def test_grouped_batches_are_not_ordered_by_length():
    text = {"en": np.random.default_rng(0).integers(4, 129, 40 * WINDOW)}
    made = Plan(text, 8, epochs=1, seed=1)
    longest = np.array([text["en"][made.rows(s)].max() for s in range(made.steps)])
    assert abs(np.corrcoef(longest, np.arange(made.steps))[0, 1]) < 4 / np.sqrt(made.steps)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 8)])
def test_the_micro_batches_of_all_ranks_are_the_batch(world, accumulation):
    rows = plan(batch_size=32).rows(5)
    parts = [micro_batch(rows, r, world, accumulation, i) for i in range(accumulation) for r in range(world)]
    assert {len(part) for part in parts} == {32 // (world * accumulation)}
    assert sorted(np.concatenate(parts).tolist()) == sorted(rows.tolist())


def test_the_ranks_of_a_grouped_batch_get_near_equal_lengths():
    text = {"en": np.arange(64)}
    rows = Plan(text, 64, epochs=1, seed=1).rows(0)
    longest = [text["en"][micro_batch(rows, rank, 4, 1, 0)].max() for rank in range(4)]
    assert max(longest) - min(longest) <= 3


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulation", "fits"),
    [(32, 3, 1, "30 or 33"), (32, 3, 4, "24 or 36"), (4, 8, 1, "8")],
)
def test_an_indivisible_batch_is_refused_with_the_valid_sizes(batch_size, world, accumulation, fits):
    with pytest.raises(UserError, match=rf"batch_size {batch_size} .*{world} ranks.* {fits} would fit"):
        micro_batch(np.arange(batch_size), 0, world, accumulation, 0)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 999])
def test_an_evaluation_covers_every_row_once_over_all_ranks(count, world):
    text = np.random.default_rng(0).integers(3, 129, count)
    ranks = [evaluation_batches(text, 1024, rank, world) for rank in range(world)]
    taken = [row for batches in ranks for batch in batches for row in batch.tolist()]
    assert sorted(taken) == list(range(count))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def test_an_evaluation_respects_its_token_budget_and_starts_with_long_rows():
    text = np.random.default_rng(0).integers(3, 129, 999)
    batches = evaluation_batches(text, 1024, 0, 1)
    assert all(len(batch) * text[batch].max() <= 1024 for batch in batches)
    assert (np.diff(text[np.concatenate(batches)]) <= 0).all()
    padded = sum(len(batch) * text[batch].max() for batch in batches)
    assert text.sum() / padded > 0.95


def test_a_row_longer_than_the_token_budget_is_a_separate_batch():
    assert [b.tolist() for b in evaluation_batches(np.array([5, 90, 80, 6]), 20, 0, 1)] == [[1], [2], [3, 0]]


@pytest.mark.parametrize("count", range(2, 60))
def test_an_evaluation_has_no_batch_of_one_row_that_could_have_two(count):
    text = np.random.default_rng(count).integers(3, 129, count)
    batches = evaluation_batches(text, 1024, 0, 1)
    assert min(map(len, batches)) > 1
    assert all(len(batch) * text[batch].max() <= 1024 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))


def test_compiled_batches_have_one_of_five_widths_and_are_as_wide_as_their_longest_row():
    for most in (16, 100, 128, 512):
        widths = {longest: compiled_width(longest, most) for longest in range(1, most + 1)}
        assert all(longest <= width <= most for longest, width in widths.items())
        assert len(set(widths.values())) <= 5
        assert all(width % 8 == 0 or width == most for width in widths.values())
    assert set(widths.values()) == {128, 192, 256, 384, 512}
