"""An ensemble of classifiers as one transformers model: the mean of their raw logits (Table 6, Ens2).

Letters: B rows, n tokens, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from mbkd.data.tokens import load_tokenizer, tokenizer_fingerprint
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.model.configuration import EnsembleConfig, temperature_of
from mbkd.model.mblm import label_loss, refuse_unanswered


class EnsembleForSequenceClassification(PreTrainedModel):
    """An ensemble that holds all weights of its members."""

    config_class = EnsembleConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("EnsembleForSequenceClassification",)

    def __init__(self, config: EnsembleConfig, members: Sequence[PreTrainedModel] = ()):
        super().__init__(config)
        dtype = torch.get_default_dtype()  # instead of the dtypes in which the members were saved
        made = members or [
            AutoModelForSequenceClassification.from_config(each, dtype=dtype) for each in config.member_configs
        ]
        self.members = nn.ModuleList(made)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, language: str | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Compute fp32 logits (B, C) of a batch of token ids (B, n).

        language: as in MBLM's forward; of the members, only students and ensembles receive it.
        Raises ValueError if hidden states or attentions are requested.
        """
        refuse_unanswered(self.config, inputs)
        told = {"language": language}
        each = [
            member(input_ids=input_ids, **inputs, **(told if saved.takes_language(member.config) else {})).logits
            for member in self.members
        ]
        logits = mean_logits([x.float() for x in each])
        temperature = temperature_of(self.config, language)
        if temperature is not None and not self.training:
            logits = logits / temperature
        return SequenceClassifierOutput(loss=label_loss(self, logits, labels), logits=logits)


def mean_logits(values: Sequence[Any]) -> Any:
    """Return the mean of logits (B, C). Sequential addition gives numpy and torch the same rounding."""
    total = values[0]
    for other in values[1:]:
        total = total + other
    return total / len(values)


def save(
    paths: Sequence[Path],
    out: Path,
    temperature: float | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> None:
    """Write the models of several runs or folders as one model, with their tokenizer, to a folder.

    paths: runs or model folders with the same labels. temperature, temperatures: as in `saved.calibrate`; replace the
    members' own temperatures. Raises UserError for members with different tokenizers and for a full disk.
    """
    folders = [saved.folder(path) for path in paths]
    prints = [tokenizer_fingerprint(str(folder)) for folder in folders]
    if other := [str(x) for x, fingerprint in zip(folders, prints, strict=True) if fingerprint != prints[0]]:
        raise UserError(
            f"{other[0]} and {folders[0]} have different tokenizers; all members must have the same tokenizer"
        )
    members = [saved.load(folder) for folder in folders]
    for member in members:
        saved.calibrate(member, None)
    shared = {name: getattr(members[0].config, name) for name in ("id2label", "label2id")}
    precisions = {getattr(member.config, "train_precision", "auto") for member in members}
    shared["train_precision"] = precisions.pop() if len(precisions) == 1 else "auto"  # used for inference
    config = EnsembleConfig([member.config.to_dict() for member in members], **shared)
    ensemble = EnsembleForSequenceClassification(config, members)
    saved.calibrate(ensemble, temperature, temperatures)
    saved.save(ensemble, load_tokenizer(folders[0]), out)


AutoModelForSequenceClassification.register(EnsembleConfig, EnsembleForSequenceClassification, exist_ok=True)
