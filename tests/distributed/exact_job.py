"""Twenty steps of a tiny MBLM under DeepSpeed on every rank, for each setting given; run through the launcher.

usage: exact_job.py OUT.npz stage,precision,accumulation[,drift] ...
Each step checks that what is idle stays bitwise still, its moments too. Rank 0 saves the parameters of every setting.
"""

import sys

import numpy as np
import torch
from transformers import BertConfig

from mbkd import distributed
from mbkd.config import Training
from mbkd.data.batches import micro_batch
from mbkd.distill.losses import distillation_loss
from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification
from mbkd.train.engine import training_engine
from mbkd.train.optim import BranchAdamW, language_of, parameter_groups

LANGUAGES = ["en", "fr", "zh"]
BATCH, STEPS, LR, DECAY, CLIP = 32, 20, 1e-3, 0.01, 1.0
# Where gradients are as small as eps, AdamW turns the last bit of a sum into a step: eps stands above that here.
EPS, TEMPERATURE = 1e-5, 2.0


def model() -> MBLMForSequenceClassification:
    """The student before the first step: two branched layers of three, no dropout."""
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = MBLMConfig(backbone.to_dict(), LANGUAGES, 2, mixer_length=32, num_labels=3)
    return MBLMForSequenceClassification(config)


def batch(step: int) -> tuple[str, torch.Tensor, torch.Tensor]:
    """Language, token ids (B, n) and teacher logits (B, C) of a step; zh is not seen in the first ten."""
    draw = torch.Generator().manual_seed(step)
    language = LANGUAGES[int(torch.randint(2 if step < 10 else 3, (), generator=draw))]
    return language, torch.randint(1, 50, (BATCH, 12), generator=draw), torch.randn(BATCH, 3, generator=draw) * 5


def train(
    stage: int, precision: str, accumulation: int, drift: bool, ranks: distributed.Ranks
) -> dict[str, np.ndarray]:
    student = model()
    optimizer = BranchAdamW(parameter_groups(student, LANGUAGES, DECAY), lr=LR, eps=EPS)
    settings = Training(
        batch_size=BATCH,
        accumulation=accumulation,
        zero_stage=stage,
        precision=precision,
        clip=CLIP,
        lr=LR,
        idle_branches="drift" if drift else "still",
    )
    engine = training_engine(student, optimizer, settings, ranks)
    engine.train()
    for step in range(STEPS):
        language, ids, teacher = batch(step)
        optimizer.active = None if drift else language
        before = {n: p.detach().clone() for n, p in student.named_parameters()}
        moments = _moments(optimizer, language)
        for index in range(accumulation):
            rows = micro_batch(np.arange(BATCH), ranks.rank, ranks.world, accumulation, index)
            x, y = ids[rows].to(ranks.device), teacher[rows].to(ranks.device)
            engine.backward(distillation_loss(engine(x, language=language).logits, y, TEMPERATURE))
            words = student.encoder.embeddings.word_embeddings.weight.grad
            assert words is None or words.is_sparse == (stage == 0 and precision == "fp32")
            if stage == 0 and precision == "fp32" and not drift:
                made = [n for n, p in student.named_parameters() if language_of(n, LANGUAGES) not in (None, language)
                        and p.grad is not None]  # fmt: skip
                assert not made, f"step {step} ({language}): gradients were made for what is idle: {made}"
            engine.step()
        if not drift:
            for name, parameter in student.named_parameters():
                if language_of(name, LANGUAGES) not in (None, language):
                    assert torch.equal(parameter, before[name]), f"step {step} ({language}): {name} moved"
            for old, new in zip(moments, _moments(optimizer, language), strict=True):
                assert torch.equal(old, new), f"step {step} ({language}): an idle moment moved"
    return {n: p.detach().float().cpu().numpy() for n, p in student.named_parameters()}


def _moments(optimizer: BranchAdamW, active: str) -> list[torch.Tensor]:
    """Copies of the moments of the idle languages' groups."""
    idle = [g for g in optimizer.param_groups if g["language"] not in (None, active)]
    states = [optimizer.state[p] for g in idle for p in g["params"] if p in optimizer.state]
    return [state[key].clone() for state in states for key in sorted(state) if torch.is_tensor(state[key])]


def reference() -> dict[str, np.ndarray]:
    """The same steps by plain torch: AdamW that skips what has no gradient, one process, the whole batch."""
    student = model().train()
    groups = [
        {"params": [p for p in student.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in student.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, eps=EPS)
    for step in range(STEPS):
        language, ids, teacher = batch(step)
        optimizer.zero_grad(set_to_none=True)
        distillation_loss(student(ids, language=language).logits, teacher, TEMPERATURE).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
    return {n: p.detach().numpy() for n, p in student.named_parameters()}


if __name__ == "__main__":
    distributed.quiet()
    here = distributed.start()
    out, *wanted = sys.argv[1:]
    found = {}
    for setting in wanted:
        stage, precision, accumulation, *rest = setting.split(",")
        parameters = train(int(stage), precision, int(accumulation), bool(rest), here)
        found |= {f"{setting}/{name}": values for name, values in parameters.items()}
    if here.first:
        np.savez(out, **found)
    distributed.stop()
