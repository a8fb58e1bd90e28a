"""Hidden-state matching: student layers are trained towards teacher layers through learned projections.

Teacher and student tokenize text differently, so only the states of the first position are compared. The head reads
this position. The projections are trained with the student and are not saved with it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbkd.config import Distill
from mbkd.distill.teachers import Teacher
from mbkd.errors import UserError


class Matching(nn.Module):
    """Projections of every language, teacher and pair of layers.

    student: an MBLM. weights: of each teacher, by language. distill: its `hidden` lists the pairs of layers.
    Raises UserError for a layer that the student or a teacher does not have.
    """

    def __init__(
        self, student: Any, teachers: dict[str, list[Teacher]], weights: dict[str, list[float]], distill: Distill
    ):
        super().__init__()
        self.pairs, self.weights = distill.hidden, weights
        layers, width = student.config.backbone_config.num_hidden_layers, student.encoder.config.hidden_size
        if (deepest := max(pair.student for pair in self.pairs)) > layers:
            raise UserError(f"distill.hidden: the student has {layers} layers, not {deepest}")
        self.projections = nn.ModuleList()  # of all teachers, language by language
        self._teachers: dict[str, list[int]] = {}  # language -> indices of its teachers in `projections`
        for language, several in teachers.items():
            self._teachers[language] = []
            for teacher in several:
                config = teacher.engine.module.config
                if not hasattr(config, "num_hidden_layers"):  # a student with branches, or an ensemble
                    raise UserError(f"distill.hidden: teacher {teacher.path} gives no hidden states")
                if (deepest := max(pair.teacher for pair in self.pairs)) > config.num_hidden_layers:
                    raise UserError(
                        f"distill.hidden: teacher {teacher.path} has {config.num_hidden_layers} layers, not {deepest}"
                    )
                self._teachers[language].append(len(self.projections))
                self.projections.append(nn.ModuleList(nn.Linear(width, config.hidden_size) for _ in self.pairs))

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups. A language's projections do not change in steps of other languages, as with branches."""
        found = []
        for language, places in self._teachers.items():
            mine = [p for place in places for p in self.projections[place].parameters()]
            for decay, parameters in (
                (weight_decay, [p for p in mine if p.ndim >= 2]),
                (0.0, [p for p in mine if p.ndim < 2]),
            ):
                found.append({"params": parameters, "language": language, "weight_decay": decay})
        return found

    def forward(self, language: str, student: tuple[Tensor, ...], teachers: tuple[tuple[Tensor, ...], ...]) -> Tensor:
        """Mean squared error of a batch's states over pairs of layers, weighted over the language's teachers.

        student: (B, n, d) by layer from 0, a model's `hidden_states`; teachers: `TeacherSignal.states`.
        """
        total, weights = sum(self.weights[language]), self.weights[language]
        distances = [
            weight / total * F.mse_loss(project(student[pair.student][:, 0].float()), state)
            for weight, place, states in zip(weights, self._teachers[language], teachers, strict=True)
            for pair, project, state in zip(self.pairs, self.projections[place], states, strict=True)
        ]
        return torch.stack(distances).sum() / len(self.pairs)
