"""Teachers: fine-tuned classifiers, held in inference engines and asked for logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from mbkd import distributed
from mbkd.data.classifiers import label_order
from mbkd.data.tokens import Tokens, tokenizer_fingerprint
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.model.backbones import narrow_classifier

import deepspeed  # isort: skip - mbkd.distributed keeps its import quiet


def load(path: str) -> Any:
    """The classifier at a folder or hub id, in fp32 on the CPU. Raises UserError if it is not one."""
    with saved.refusing(f"teacher {path}: not a sequence classifier"):
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        saved.calibrate(model, None)  # the students' temperature is for raw logits
        return model.eval()


def dtype() -> torch.dtype:
    """What teachers compute in on this device (decision 31)."""
    return torch.float16 if distributed.half_supported() else torch.float32


def inference_engine(model: nn.Module, dtype: torch.dtype, on_host: bool = False) -> Any:
    """A teacher in DeepSpeed's inference engine, on this rank's device, or with on_host in the CPU's memory.

    Kernel injection stays off: it knows two of the architectures, and gives wrong outputs on padded batches
    (DeepSpeed #1466, #2309, #3960).
    """
    return deepspeed.init_inference(model, dtype=dtype, replace_with_kernel_inject=False, keep_module_on_host=on_host)


class Teacher:
    """A classifier in its engine, for one language or several, its classes brought to the student's order.

    on_demand: its weights stay in the CPU's memory, and are on the device while it answers.
    Raises UserError for a folder that is no classifier, or one with other labels.
    """

    def __init__(self, path: str, labels: tuple[str, ...], ranks: distributed.Ranks, on_demand: bool = False):
        model = load(path)
        narrow_classifier(model)
        self.path, self.ranks, self.on_demand = path, ranks, on_demand
        self.labels: dict[int, str] = model.config.id2label
        self.order = label_order(self.labels, labels, path)
        self.precision = dtype()
        self.engine: Any = inference_engine(model, self.precision, on_host=on_demand)
        self._inside = 0  # how many `here` are open
        self.layers: tuple[int, ...] = ()  # whose states are kept, from 1
        self.states: list[Tensor] = []  # (B, d) of the last answer's first position, one for each of `layers`

    def compute_in(self, precision: torch.dtype) -> None:
        """Load the weights again where the engine has rounded them to another precision."""
        if precision != self.precision:
            model = load(self.path)
            narrow_classifier(model)
            self.precision = precision
            self.engine = inference_engine(model, precision, on_host=self.on_demand)

    def refuse_other_tokens(self, tokens: Tokens) -> None:
        """Raise UserError for token ids of another tokenizer."""
        if tokens.manifest["made_from"]["tokenizer"] != tokenizer_fingerprint(self.path):
            raise UserError(
                f"teacher {self.path}: the tokens in {tokens.folder} are not by its own tokenizer but by "
                f"{tokens.manifest['tokenizer']}; a teacher reads text through its own tokenizer only"
            )

    @contextmanager
    def here(self) -> Iterator[Any]:
        """The engine with its weights on the device."""
        if self.on_demand and not self._inside:
            self.engine.module.to(self.ranks.device)
        self._inside += 1
        try:
            yield self.engine
        finally:
            self._inside -= 1
            if self.on_demand and not self._inside:
                self.engine.module.to("cpu")

    def answer(self, batch: dict[str, np.ndarray]) -> Tensor:
        """The engine's output (B, C) for a batch of its own tokens, in fp32, its classes in its own order."""
        with self.here() as model, torch.inference_mode():
            out = model(**distributed.tensors(batch, self.ranks.device), output_hidden_states=bool(self.layers))
        # Clones outside of inference mode's bookkeeping, so that autograd may save them.
        self.states = [out.hidden_states[layer][:, 0].float().clone() for layer in self.layers]
        return out.logits.float().clone()

    def logits(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Logits (B, C) in fp32 for rows of its own tokens, classes in the student's order."""
        return self.answer(tokens.batch(rows))[:, self.order]
