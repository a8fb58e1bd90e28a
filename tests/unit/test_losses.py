"""Claims about the losses (Eq. 1-4, decisions 10-12)."""

import math

import pytest
import torch

from mbkd.distill.losses import distillation_loss, step_loss, teacher_entropy

B, C, TAU = 6, 3, 8.0


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def logits(classes=C, scale=5.0):
    return scale * torch.randn(B, classes, dtype=torch.float64)


def probabilities(row, tau):
    """Eq. 1 and 2 for one example, in Python's own floats."""
    powers = [math.exp((float(z) - float(max(row))) / tau) for z in row]
    return [power / sum(powers) for power in powers]


def paper_loss(student, teacher, tau):
    """Eq. 3."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for p_t, p_s in zip(probabilities(t, tau), probabilities(s, tau), strict=True):
            total -= p_t * math.log(p_s)
    return total / len(student)


def paper_entropy(teacher, tau):
    return sum(-p * math.log(p) for row in teacher for p in probabilities(row, tau)) / len(teacher)


@pytest.mark.parametrize("tau", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_loss_is_equation_3(tau, classes):
    student, teacher = logits(classes), logits(classes)
    assert float(distillation_loss(student, teacher, tau)) == pytest.approx(paper_loss(student, teacher, tau), rel=1e-6)
    assert float(teacher_entropy(teacher, tau)) == pytest.approx(paper_entropy(teacher, tau), rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 8.0])
def test_the_loss_is_kl_plus_the_teachers_entropy(tau):
    student, teacher = logits(), logits()
    p, q = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean()
    total = kl + teacher_entropy(teacher, tau)
    assert float(distillation_loss(student, teacher, tau)) == pytest.approx(float(total), rel=1e-6)
    _, shown = step_loss(student, torch.zeros(B, dtype=torch.long), teacher, tau)
    assert float(shown) == pytest.approx(float(kl), abs=1e-6)


@pytest.mark.parametrize("tau", [1.0, 8.0])
def test_the_gradient_of_the_student_logits_is_the_difference_of_the_probabilities_over_tau_and_batch(tau):
    student, teacher = logits().requires_grad_(), logits()
    distillation_loss(student, teacher, tau).backward()
    formula = ((student / tau).softmax(-1) - (teacher / tau).softmax(-1)) / (tau * B)
    assert student.grad.dtype == torch.float64
    torch.testing.assert_close(student.grad, formula.detach(), rtol=0, atol=1e-7)  # computed in fp32


def test_a_student_equal_to_its_teacher_has_no_gradient_and_no_kl():
    teacher = logits()
    student = teacher.clone().requires_grad_()
    loss, kl = step_loss(student, torch.zeros(B, dtype=torch.long), teacher, TAU)
    loss.backward()
    assert student.grad.abs().max() < 1e-8
    assert abs(float(kl)) < 1e-6
    assert float(loss.detach()) == pytest.approx(paper_entropy(teacher, TAU), rel=1e-6)


@pytest.mark.parametrize("classes", [3, 5])
def test_the_loss_of_equal_logits_is_the_logarithm_of_the_number_of_classes(classes):
    loss = distillation_loss(torch.zeros(B, classes), logits(classes), TAU)
    assert float(loss) == pytest.approx(math.log(classes), rel=1e-6)


def test_a_constant_added_to_the_logits_does_not_change_the_loss():
    student, teacher = logits(), logits()
    shifted = distillation_loss(student + 7.0, teacher - 3.0, TAU)
    assert float(shifted) == pytest.approx(float(distillation_loss(student, teacher, TAU)), rel=1e-6)


def test_the_displayed_kl_has_no_gradient():
    student = logits().requires_grad_()
    _, kl = step_loss(student, torch.zeros(B, dtype=torch.long), logits(), TAU)
    assert not kl.requires_grad


def test_by_default_the_loss_has_no_tau_squared_and_no_hard_labels():
    student, teacher, labels = logits(), logits(), torch.randint(C, (B,))
    loss, _ = step_loss(student, labels, teacher, TAU)
    assert float(loss) == pytest.approx(paper_loss(student, teacher, TAU), rel=1e-6)


def test_tau_squared_scales_the_soft_term_and_not_the_displayed_loss():
    student, teacher, labels = logits(), logits(), torch.randint(C, (B,))
    plain, kl = step_loss(student, labels, teacher, TAU)
    scaled, same_kl = step_loss(student, labels, teacher, TAU, tau_squared=True)
    assert float(scaled) == pytest.approx(64.0 * float(plain), rel=1e-6)
    assert float(same_kl) == float(kl)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("tau_squared", [False, True])
def test_the_hard_label_weight_blends_soft_and_hard_terms(weight, tau_squared):
    student, teacher, labels = logits(), logits(), torch.randint(C, (B,))
    soft = paper_loss(student, teacher, TAU) * (TAU**2 if tau_squared else 1.0)
    hard = sum(-math.log(probabilities(row, 1.0)[y]) for row, y in zip(student, labels, strict=True)) / B
    loss, _ = step_loss(student, labels, teacher, TAU, tau_squared=tau_squared, hard_label_weight=weight)
    assert float(loss) == pytest.approx((1 - weight) * soft + weight * hard, rel=1e-6)


def test_without_a_teacher_the_loss_is_the_cross_entropy_of_the_labels_at_temperature_one():
    student, labels = logits(), torch.randint(C, (B,))
    hard = sum(-math.log(probabilities(row, 1.0)[y]) for row, y in zip(student, labels, strict=True)) / B
    loss, shown = step_loss(student, labels, None, TAU, tau_squared=True, hard_label_weight=0.5)
    assert float(loss) == pytest.approx(hard, rel=1e-6)
    assert float(shown) == pytest.approx(hard, rel=1e-6)


def test_half_precision_logits_give_a_loss_in_single_precision():
    student, teacher = logits().to(torch.bfloat16).requires_grad_(), logits().to(torch.float16)
    loss = distillation_loss(student, teacher, TAU)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(paper_loss(student.detach(), teacher, TAU), rel=1e-5)
