"""Losses of multilingual distillation (Eq. 1-4), as pure functions of logits."""

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the softened teacher and student, mean over the batch (Eq. 1-3).

    student, teacher: (B, C) logits. No tau^2 factor (decision 10). The gradient with respect to `student` is
    (p_S - p_T) / (tau B).
    """
    p_teacher = (teacher.float() / temperature).softmax(dim=-1)  # Eq. 1
    log_p_student = (student.float() / temperature).log_softmax(dim=-1)  # Eq. 2
    return -(p_teacher * log_p_student).sum(dim=-1).mean()  # Eq. 3


def teacher_entropy(teacher: Tensor, temperature: float) -> Tensor:
    """Mean entropy of the softened teacher (B, C): the minimum of `distillation_loss`; KL is the difference.

    At tau = 8 with three classes, the cross-entropy starts at 1.099 and its minimum is about 0.99. Progress is
    therefore visible only in the KL.
    """
    log_p = (teacher.float() / temperature).log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def step_loss(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    temperature: float,
    tau_squared: bool = False,
    hard_label_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss of a batch, and its KL to the teacher for display (equal to the loss without a teacher).

    student: (B, C) logits; labels: (B,); teacher: (B, C) logits, or None for MultiTrain's hard labels.
    tau_squared: multiply the soft term by tau^2 (decision 10). hard_label_weight: w in (1 - w) * soft + w * hard
    (decision 11).
    """
    if teacher is None:
        loss = F.cross_entropy(student.float(), labels)
        return loss, loss.detach()
    soft = distillation_loss(student, teacher, temperature)
    kl = soft.detach() - teacher_entropy(teacher, temperature)
    if tau_squared:
        soft = soft * temperature**2
    if hard_label_weight:
        hard = F.cross_entropy(student.float(), labels)
        soft = (1 - hard_label_weight) * soft + hard_label_weight * hard
    return soft, kl
