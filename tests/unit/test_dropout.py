"""Dropout drawn sixteen bits a feature: its law, its gradient, and where it takes torch's place."""

import pytest
import torch
from torch import nn

from mbkd import distributed
from mbkd.config import Training
from mbkd.model import dropout
from mbkd.model.dropout import CPUDropout
from mbkd.train.engine import training_engine
from mbkd.train.optim import parameter_groups
from tests.unit.test_mblm import trained

NUMBERS = 2_000_000


def draw(rate: float, *shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return CPUDropout(rate)(torch.ones(shape))


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_numbers_are_dropped_at_the_rate_and_the_mean_stays(rate):
    found = draw(rate, NUMBERS)
    deviation = (rate * (1 - rate) / NUMBERS) ** 0.5
    assert abs(float((found == 0).double().mean()) - rate) < 4 * deviation + 2**-17
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-4)


def test_the_four_numbers_of_one_draw_are_dropped_independently():
    """Each of the 16 patterns of four neighbours, at a rate of a half, is as frequent as the others."""
    patterns = ((draw(0.5, NUMBERS).view(-1, 4) == 0) * torch.tensor([1, 2, 4, 8])).sum(dim=1)
    counts, expected = torch.bincount(patterns, minlength=16), NUMBERS / 4 / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7  # chi-square, 15 degrees of freedom, p = 0.001


def test_what_is_dropped_gets_no_gradient_and_what_stays_gets_its_factor():
    torch.manual_seed(0)
    states = torch.randn(3, 5, 7, requires_grad=True)
    out = CPUDropout(0.3)(states)
    out.sum().backward()
    torch.testing.assert_close(out, states * states.grad)
    assert 0 < int((states.grad == 0).sum()) < states.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_seed_draws_the_same_again_in_any_precision(dtype):
    first, second = ((draw(0.3, 3, 5, 7).to(dtype) == 0) for _ in range(2))
    torch.manual_seed(0)
    out = CPUDropout(0.3)(torch.ones(3, 5, 7, dtype=dtype))
    assert out.dtype == dtype
    assert torch.equal(first, second)
    assert torch.equal(first, out == 0)
    assert not torch.equal(out, CPUDropout(0.3)(torch.ones(3, 5, 7, dtype=dtype)))


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True), (1.0, True)])
def test_where_nothing_is_left_to_chance_it_is_torchs(rate, training):
    states = torch.randn(4, 6)
    assert torch.equal(CPUDropout(rate).train(training)(states), nn.Dropout(rate).train(training)(states))


def test_no_numbers_at_all_pass():
    assert draw(0.5, 0, 3).shape == (0, 3)


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("backbone", ["bert", "distilbert", "modernbert"])
def test_all_dropouts_of_a_student_are_replaced_where_torchs_are_slow(backbone, slow, monkeypatch):
    monkeypatch.setattr(dropout, "slow_here", lambda: slow)
    model = trained(backbone=backbone)
    before = [(name, each.p) for name, each in model.named_modules() if isinstance(each, nn.Dropout)]
    groups = parameter_groups(model, model.config.branch_languages, 0.0)
    training_engine(model, groups, Training(batch_size=2), distributed.start())
    after = [(name, each.p, type(each)) for name, each in model.named_modules() if isinstance(each, nn.Dropout)]
    assert after == [(*each, CPUDropout if slow else nn.Dropout) for each in before]
