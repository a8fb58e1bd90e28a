"""Claims about the mixer alone (Eq. 10-12)."""

import pytest
import torch

from mbkd.model.mixer import mix, weights
from tests.unit.oracle import mix as slow_mix
from tests.unit.oracle import mixing_weights

N, B, LENGTH, WIDTH, LONGEST = 3, 2, 7, 5, 16


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_states(branches=N, length=LENGTH):
    return torch.randn(branches, B, length, WIDTH, dtype=torch.float64)


def vector():
    return torch.randn(LONGEST, dtype=torch.float64)


def ragged(length=LENGTH):
    """Two texts, of `length` and of 4 tokens."""
    mask = torch.ones(B, length, dtype=torch.long)
    mask[1, 4:] = 0
    return mask


@pytest.mark.parametrize("branches", [1, 2, 3, 5])
def test_weights_and_mix_equal_the_equations_one_number_at_a_time(branches):
    states, v, mask = random_states(branches), vector(), ragged()
    slow = torch.tensor(mixing_weights(list(states), v, mask)).permute(2, 0, 1)
    torch.testing.assert_close(weights(states, v, mask), slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(mix(states, v, mask), slow_mix(list(states), v, mask), rtol=0, atol=1e-12)


def test_gradients_of_states_and_vector_equal_those_of_the_equations():
    states, v, mask = random_states().requires_grad_(), vector().requires_grad_(), ragged()
    upstream = torch.randn(B, LENGTH, WIDTH, dtype=torch.float64)
    fast = torch.autograd.grad((mix(states, v, mask) * upstream).sum(), (states, v))
    slow = torch.autograd.grad((slow_mix(list(states), v, mask) * upstream).sum(), (states, v))
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert fast[1][:LENGTH].abs().min() > 0
    assert not fast[1][LENGTH:].any()


def test_weights_of_every_feature_sum_to_one_over_the_languages():
    shares = weights(random_states(), vector(), ragged())
    assert shares.shape == (N, B, WIDTH)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(B, WIDTH, dtype=torch.float64))


def test_permuting_the_branches_permutes_the_weights_and_leaves_the_mix():
    states, v, mask, order = random_states(), vector(), ragged(), [2, 0, 1]
    torch.testing.assert_close(weights(states[order], v, mask), weights(states, v, mask)[order])
    torch.testing.assert_close(mix(states[order], v, mask), mix(states, v, mask))


def test_a_zero_vector_gives_the_plain_average():
    states = random_states()
    torch.testing.assert_close(mix(states, torch.zeros(LONGEST).double(), ragged()), states.mean(dim=0))


def test_equal_branches_are_unchanged_for_any_vector():
    state = random_states(1)
    torch.testing.assert_close(mix(state.repeat(N, 1, 1, 1), vector(), ragged()), state[0])


def test_a_single_branch_is_unchanged():
    state = random_states(1)
    torch.testing.assert_close(mix(state, vector(), ragged()), state[0])


def test_width_and_content_of_the_padding_do_not_change_weights():
    states, v, mask = random_states(), vector(), ragged()
    narrow = weights(states, v, mask)
    wide = torch.cat([states, 100 * random_states(length=LONGEST - LENGTH)], dim=2)
    wide[:, 1, 4:] = 1000.0
    wide_mask = torch.cat([mask, torch.zeros(B, LONGEST - LENGTH, dtype=torch.long)], dim=1)
    torch.testing.assert_close(weights(wide, v, wide_mask), narrow)
    real = mask.bool()
    torch.testing.assert_close(mix(wide, v, wide_mask)[:, :LENGTH][real], mix(states, v, mask)[real])


def test_a_text_shorter_than_the_vector_uses_its_first_entries():
    states, v, mask = random_states(), vector(), ragged()
    torch.testing.assert_close(weights(states, v, mask), weights(states, v[:LENGTH].clone(), mask))
    changed = v.clone()
    changed[LENGTH:] += 5
    torch.testing.assert_close(mix(states, changed, mask), mix(states, v, mask), rtol=0, atol=0)


def test_examples_and_features_are_independent():
    states, v, mask = random_states(), vector(), ragged()
    changed = states.clone()
    changed[0, 1, :, 3] += 1.0
    differs = weights(changed, v, mask) != weights(states, v, mask)
    expected = torch.zeros(N, B, WIDTH, dtype=torch.bool)
    expected[:, 1, 3] = True
    assert torch.equal(differs, expected)


def test_large_scores_select_one_branch_without_nan():
    states, mask = random_states(), torch.ones(B, LENGTH, dtype=torch.long)
    shares = weights(1e6 * states, vector(), mask)
    assert torch.isfinite(shares).all()
    torch.testing.assert_close(shares.amax(dim=0), torch.ones(B, WIDTH, dtype=torch.float64))
