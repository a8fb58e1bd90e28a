"""Teachers: fine-tuned classifiers in inference engines."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from mbkd import distributed
from mbkd.data import hub
from mbkd.data.classifiers import label_order
from mbkd.data.tokens import Tokens, tokenizer_fingerprint
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.model.backbones import narrow_classifier

import deepspeed  # isort: skip - mbkd.distributed keeps its import quiet


class TeacherSignal(NamedTuple):
    """Output of teachers for a batch: logits, and the states of the layers that a student matches.

    logits  (B, C) fp32
    states  by teacher and layer: state of the first position (B, teacher's width) in fp32; None if not requested
    """

    logits: Tensor
    states: tuple[tuple[Tensor, ...], ...] | None = None


def load(path: str) -> Any:
    """Load the classifier at a folder or hub id, in fp32 on the CPU. Raises UserError for any other model."""
    with saved.refusing(f"teacher {path}: not a sequence classifier"):
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, **hub.pinned(path))
        saved.calibrate(model, None)  # the temperature of distillation applies to raw logits
        return model.eval()


def dtype() -> torch.dtype:
    """Precision of teachers on this device (decision 31)."""
    return torch.float16 if distributed.half_supported() else torch.float32


def inference_engine(model: nn.Module, dtype: torch.dtype) -> Any:
    """A teacher in DeepSpeed's inference engine, on this rank's device.

    Kernel injection is off: it supports two of the architectures, and returns wrong outputs for padded batches
    (DeepSpeed #1466, #2309, #3960).
    """
    return deepspeed.init_inference(model, dtype=dtype, replace_with_kernel_inject=False)


class Teacher:
    """A classifier in its engine, for one or several languages, with classes mapped to the student's order.

    Raises UserError for a folder without a classifier, or for other labels.
    """

    def __init__(self, path: str, labels: tuple[str, ...], ranks: distributed.Ranks):
        model = load(path)
        narrow_classifier(model)
        self.path, self.ranks = path, ranks
        self.labels: dict[int, str] = model.config.id2label
        self.order = label_order(self.labels, labels, path)
        self.precision = dtype()
        self.engine: Any = inference_engine(model, self.precision)

    def compute_in_fp32(self) -> None:
        """Switch to fp32 for all languages. Loads the weights again, because the engine may have rounded them."""
        if self.precision != torch.float32:
            model = load(self.path)
            narrow_classifier(model)
            self.precision = torch.float32
            self.engine = inference_engine(model, self.precision)

    def refuse_other_tokens(self, tokens: Tokens) -> None:
        """Raise UserError for token ids of another tokenizer."""
        if tokens.manifest["made_from"]["tokenizer"] != tokenizer_fingerprint(self.path):
            raise UserError(
                f"teacher {self.path}: the tokens in {tokens.folder} come from the tokenizer "
                f"{tokens.manifest['tokenizer']}; a teacher needs the tokens of its own tokenizer"
            )

    def answer(self, batch: dict[str, np.ndarray], layers: tuple[int, ...] = ()) -> TeacherSignal:
        """Output of the engine for a batch of the teacher's tokens, in the teacher's order of classes.

        layers: layers whose states are returned, counted from 1.
        """
        with torch.inference_mode():
            out = self.engine(**distributed.tensors(batch, self.ranks.device), output_hidden_states=bool(layers))
        # Clones outside inference mode, so that autograd can save the tensors.
        states = tuple(out.hidden_states[layer][:, 0].float().clone() for layer in layers)
        return TeacherSignal(out.logits.float().clone(), (states,) if layers else None)

    def signal(self, tokens: Tokens, rows: np.ndarray, layers: tuple[int, ...] = ()) -> TeacherSignal:
        """Output for rows of the teacher's tokens, in the student's order of classes."""
        answer = self.answer(tokens.batch(rows), layers)
        return answer._replace(logits=answer.logits[:, self.order])
