"""MultiKD's training loop from the paper in plain torch (Eq. 1-4, decisions 7-16), and a run to test it.

Softmax, losses, learning rate, clipping and AdamW are written out. The model and the plan of languages and rows come
from mbkd. `Trainer` must reach the same parameters.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig

from mbkd import distributed, precision
from mbkd.config import Config, parse
from mbkd.data.batches import Plan
from mbkd.distill import signals
from mbkd.inputs import Inputs
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.train.checkpoint import Schedule
from mbkd.train.engine import training_engine
from mbkd.train.optim import parameter_groups
from mbkd.train.trainer import Trainer

LANGUAGES, CLASSES, ROWS, BATCH = ("en", "fr", "zh"), 3, 64, 8
# For gradients as small as eps, AdamW turns rounding errors of sums into steps, so eps is larger here.
TRAIN = {"batch_size": BATCH, "epochs": 0.5, "lr": 1e-2, "warmup": 0.25, "weight_decay": 0.3, "clip": 0.02,
         "eps": 1e-5, "max_length": 16, "precision": "fp32", "group_by_length": False}  # fmt: skip
DISTILL = {"hard_label_weight": 0.3, "temperatures": {"fr": 4.0}}


class Rows:
    """Random rows of one language with the columns of a token store. The first token determines the label."""

    def __init__(self, language: str):
        draw = np.random.default_rng(LANGUAGES.index(language))
        self.lengths = draw.integers(4, 13, ROWS)
        self.ids = draw.integers(5, 50, (ROWS, 12))
        self.labels = self.ids[:, 0] % CLASSES
        self.row_ids = [f"{language}-{row}" for row in range(ROWS)]
        self.fingerprint = language
        self.teacher = (4 * np.eye(CLASSES)[self.labels] + draw.normal(size=(ROWS, CLASSES))).astype(np.float32)

    def __len__(self) -> int:
        return ROWS

    def batch(self, rows: np.ndarray, width: int | None = None) -> dict[str, np.ndarray]:
        mask = (np.arange(width or self.lengths[rows].max()) < self.lengths[rows][:, None]).astype(np.int64)
        return {
            "input_ids": np.pad(self.ids[rows], ((0, 0), (0, 4)))[:, : mask.shape[1]] * mask,
            "attention_mask": mask,
        }


def configuration(
    folder: Path, train: dict[str, Any] | None = None, distill: dict[str, Any] | None = None, branch_rank: int = 0
) -> Config:
    """Return twelve steps of MultiKD on three languages; `train` and `distill` override fields of these sections."""
    backbone = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                          intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=0.0,
                          attention_probs_dropout_prob=0.0, initializer_range=0.2)  # fmt: skip
    backbone.save_pretrained(folder)
    values = {
        "task": {"kind": "own", "files": {"train": "none.csv"}, "labels": ["a", "b", "c"], "supervised": LANGUAGES},
        "student": {"backbone": str(folder), "branch_depth": 2, "branch_rank": branch_rank},
        "teachers": {x: {"model": f"teacher-{x}"} for x in LANGUAGES},
        "train": TRAIN | (train or {}),
        "distill": DISTILL | (distill or {}),
    }
    return parse(values, "test")


def student(config: Config) -> Any:
    """Return the student before its first step."""
    from mbkd.estimate import cost

    torch.manual_seed(config.seed)
    return cost.empty_student(config)


def plan(config: Config) -> Plan:
    train = config.train
    return Plan({x: Rows(x).lengths for x in config.languages}, train.batch_size, epochs=train.epochs, seed=config.seed,
                draw=train.draw, alpha=train.draw_alpha, group_by_length=train.group_by_length)  # fmt: skip


def trainer(config: Config, ranks: distributed.Ranks, directory: Path = Path()) -> Trainer:
    """Return mbkd's trainer of the same run before its first step."""
    rows: dict[str, Any] = {x: Rows(x) for x in config.languages}
    model = student(config)
    groups = parameter_groups(model, list(model.config.branch_languages), config.train.weight_decay)
    engine, optimizer = training_engine(model, groups, config.train, ranks)
    engine.train()

    def teacher(language: str) -> signals.TeacherFunction:
        return lambda chosen: signals.TeacherSignal(torch.from_numpy(rows[language].teacher[chosen]).to(ranks.device))

    averaged = signals.averaged({x: [(1.0, teacher(x))] for x in config.languages})
    source = signals.TeacherSource(signals.hard_labels if config.distill.signal == "labels" else averaged)
    inputs = Inputs(rows, {}, {}, config.task.labels, False)
    return Trainer(config, directory, inputs, plan(config), source, engine, optimizer, ranks, Schedule())


def parameters(model: MBLMForSequenceClassification) -> dict[str, Tensor]:
    return {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}


def train(config: Config, **mistakes: Any) -> dict[str, Tensor]:
    """Return the parameters after the paper's loop; `mistakes` select errors of a wrong loop."""
    model, steps, train, distill = student(config).train(), plan(config), config.train, config.distill
    names = {p: name for name, p in model.named_parameters()}
    first = {p: torch.zeros_like(p) for p in names}
    second, count = {p: torch.zeros_like(p) for p in names}, dict.fromkeys(names, 0)
    kind = precision.choose(train.precision, torch.device("cpu"))
    for step in range(steps.steps):
        language, chosen = steps.language(step), steps.rows(step)
        rows = Rows(mistakes.get("teacher_of", {}).get(language, language))
        batch = {name: torch.from_numpy(values) for name, values in Rows(language).batch(chosen).items()}
        with precision.autocast(kind, torch.device("cpu")):
            logits = model(**batch, language=language).logits
        labels = torch.from_numpy(Rows(language).labels[chosen])
        hard = -logits.float().log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
        tau = mistakes.get("temperature", distill.temperatures.get(language, distill.temperature))
        targets = (torch.from_numpy(rows.teacher[chosen]) / tau).exp()
        targets /= targets.sum(dim=1, keepdim=True)  # Eq. 1
        soft = -(targets * (logits.float() / tau).log_softmax(dim=1)).sum(dim=1).mean()  # Eq. 2, 3
        if distill.tau_squared != mistakes.get("tau_squared", False):
            soft = tau**2 * soft
        weight = mistakes.get("hard_label_weight", distill.hard_label_weight)
        loss = hard if distill.signal == "labels" else (1 - weight) * soft + weight * hard
        given = torch.autograd.grad(loss, list(names), allow_unused=True)
        gradients = {p: g for p, g in zip(names, given, strict=True) if g is not None}  # Eq. 8
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        warm = int(train.warmup * steps.steps)
        lr = train.lr * (step / warm if step < warm else (steps.steps - step) / (steps.steps - warm))
        lr = mistakes.get("lr", lr)
        with torch.no_grad():
            if "idle_branches" in mistakes:
                gradients = {p: gradients.get(p, torch.zeros_like(p)) for p in names}
            for p, gradient in gradients.items():  # AdamW (Loshchilov and Hutter), betas 0.9 and 0.999
                g = gradient * min(1.0, mistakes.get("clip", train.clip) / (float(norm) + 1e-6))
                count[p] += 1
                first[p] = 0.9 * first[p] + 0.1 * g
                second[p] = 0.999 * second[p] + 0.001 * g * g
                decay = mistakes.get("weight_decay", train.weight_decay) if p.ndim > 1 else 0.0
                mean, square = first[p] / (1 - 0.9 ** count[p]), second[p] / (1 - 0.999 ** count[p])
                p.sub_(lr * decay * p + lr * mean / (square.sqrt() + train.eps))
    return parameters(model)


def relative_distance(config: Config, found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the distance between two trained models, relative to the second model's total update."""
    start = parameters(student(config))
    distance = sum(float((found[n] - expected[n]).square().sum()) for n in expected)
    update = sum(float((expected[n] - start[n]).square().sum()) for n in expected)
    return (distance / update) ** 0.5


MISTAKES: dict[str, dict[str, Any]] = {
    "untrained": {"lr": 0.0},
    "constant learning rate": {"lr": TRAIN["lr"]},
    "temperature 1": {"temperature": 1.0},
    "tau squared": {"tau_squared": True},
    "no hard labels": {"hard_label_weight": 0.0},
    "idle branches drift": {"idle_branches": "drift"},
    "no weight decay": {"weight_decay": 0.0},
    "no clipping": {"clip": 1e9},
    "another language's teacher": {"teacher_of": {"en": "fr", "fr": "zh", "zh": "en"}},
}
