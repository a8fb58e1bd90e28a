"""The reference loop: a plain implementation of MultiKD + MBLM with transformers and torch only.

Batches are padded to 128, and the teacher runs in every step in fp32. Idle branches are detached with `.detach()` but
still build a graph. AdamW updates all parameters. The parameters have the names of mbkd's model, so the reference can
load its weights. With dropout off, both models give the same logits.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

LENGTH = 128


class PlainMBLM(nn.Module):
    """BERT with N branches of K layers at the bottom and a mixer after each of their layers (Eq. 5-12)."""

    def __init__(self, config: BertConfig, branches: int, depth: int, classes: int):
        super().__init__()
        bert = BertModel(config, add_pooling_layer=False)
        layers, bert.encoder.layer = bert.encoder.layer, nn.ModuleList()
        self.encoder = bert
        self.branches = nn.ModuleList(copy.deepcopy(layers[:depth]) for _ in range(branches))
        self.shared = layers[depth:]
        self.inner = nn.ModuleList(
            nn.ParameterList(nn.Parameter(torch.zeros(LENGTH)) for _ in range(depth - 1)) for _ in range(branches)
        )
        self.outer = nn.Parameter(torch.zeros(LENGTH))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.head = nn.Linear(config.hidden_size, classes)

    def forward(self, batch: dict[str, Tensor], own: int) -> Tensor:
        """Compute logits (B, C) of a batch in the language with branch `own`."""
        mask = batch["attention_mask"]
        visible = mask[:, None, None, :].bool()  # (B, 1, 1, n)
        hidden = self.encoder.embeddings(batch["input_ids"])
        states = [hidden] * len(self.branches)
        for depth, layers in enumerate(zip(*self.branches, strict=True)):
            outputs = [layer(state, visible) for layer, state in zip(layers, states, strict=True)]
            stacked = torch.stack([x if i == own else x.detach() for i, x in enumerate(outputs)])  # Eq. 8
            if depth < len(self.inner[0]):
                states = [mix(stacked, vectors[depth], mask) for vectors in self.inner]
        hidden = mix(stacked, self.outer, mask)
        for layer in self.shared:
            hidden = layer(hidden, visible)
        return self.head(self.dropout(hidden[:, 0]))


def mix(states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Mix states (N, B, n, d) to (B, n, d) (Eq. 10-12)."""
    scores = torch.einsum("bn,Nbnd->Nbd", v[: mask.shape[1]] * mask, states)
    return (scores.softmax(dim=0).unsqueeze(2) * states).sum(dim=0)


class Reference:
    """The student with its optimizer and teacher."""

    def __init__(self, student: PlainMBLM, teacher: Any, lr: float, temperature: float):
        self.student, self.teacher, self.temperature = student.train(), teacher.eval(), temperature
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)

    def step(self, columns: dict[str, np.ndarray], own: int) -> None:
        """Run one iteration on ids and mask (B, n), in the language with branch `own`."""
        batch = padded(columns)
        with torch.no_grad():
            soft = (self.teacher(**batch).logits / self.temperature).softmax(dim=-1)
        loss = -(soft * F.log_softmax(self.student(batch, own) / self.temperature, dim=-1)).sum(dim=-1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()


def padded(columns: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Pad ids and mask to 128 tokens."""
    wide = {name: np.pad(values, ((0, 0), (0, LENGTH - values.shape[1]))) for name, values in columns.items()}
    return {name: torch.from_numpy(values) for name, values in wide.items()}
