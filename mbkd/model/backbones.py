"""What MBLM needs of a pre-trained encoder: embeddings, a list of layers, how a layer is called, a final norm.

One small class per family. A new family is a new class here and one line in `FAMILIES`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from mbkd.errors import UserError
from mbkd.model import saved

Layer = Callable[[nn.Module, Tensor], Tensor]


class BertLike:
    """BERT, RoBERTa, XLM-R, CamemBERT: learned positions, post-norm layers, no final norm."""

    dropout = "hidden_dropout_prob"

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        """The encoder's layers, which it does not keep; nor does it keep a pooler."""
        layers, encoder.encoder.layer, encoder.pooler = encoder.encoder.layer, nn.ModuleList(), None
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """H_0 of Eq. 5, (B, n, d); segment ids are the feature f."""
        return encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor) -> Layer:
        """How to run one layer on states like `hidden` (B, n, d), masked by `mask` (B, n)."""
        attention_mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=mask)
        return lambda block, states: block(states, attention_mask)

    @staticmethod
    def narrow(last: Any) -> None:
        """Let the encoder's last layer give its first position alone, (B, 1, d): heads read no other."""
        last.forward = partial(_first_position, last)

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        """What the encoder does after its last layer."""
        return hidden


class DistilBert(BertLike):
    """DistilBERT: no segment ids, its layers under `transformer`."""

    dropout = "dropout"

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        layers, encoder.transformer.layer = encoder.transformer.layer, nn.ModuleList()
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        return encoder.embeddings(input_ids)

    @staticmethod
    def narrow(last: Any) -> None:
        pass  # its layers are built otherwise: the last one runs whole


class ModernBert(BertLike):
    """ModernBERT, mmBERT: rotary positions, local and global layers, pre-norm with a final norm."""

    dropout = "classifier_dropout"

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        layers, encoder.layers = encoder.layers, nn.ModuleList()
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        return encoder.embeddings(input_ids=input_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor) -> Layer:
        arguments: dict[str, Any] = {"config": encoder.config, "inputs_embeds": hidden, "attention_mask": mask}
        masks = {
            "full_attention": create_bidirectional_mask(**arguments),
            "sliding_attention": create_bidirectional_sliding_window_mask(**arguments),
        }
        positions = hidden.new_ones(hidden.shape[1]).long().cumsum(0).sub(1).unsqueeze(0)
        rotary = {kind: encoder.rotary_emb(hidden, positions, kind) for kind in set(encoder.config.layer_types)}
        return lambda block, states: block(
            states,
            attention_mask=masks[block.attention_type],
            position_embeddings=rotary[block.attention_type],
        )

    @staticmethod
    def narrow(last: Any) -> None:
        pass  # as DistilBERT's

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        return encoder.final_norm(hidden)


def _first_position(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The first position (B, 1, d) of what a layer like BERT's gives for states (B, n, d).

    One query and one feed-forward row instead of n, so a sixth of the work; keys and values need all rows. The same
    numbers up to the order of sums.
    """
    attention, first = layer.attention.self, states[:, :1].contiguous()  # a view's bits would depend on its strides
    query, key, value = (
        rows.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)  # (B, heads, 1 or n, d / heads)
        for rows in (attention.query(first), attention.key(states), attention.value(states))
    )
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    mixed = F.scaled_dot_product_attention(query, key, value, mask, attention.dropout.p if layer.training else 0.0)
    first = layer.attention.output(mixed.transpose(1, 2).flatten(2), first)
    return layer.output(layer.intermediate(first), first)


FAMILIES: dict[str, type[BertLike]] = {
    "bert": BertLike,
    "camembert": BertLike,
    "roberta": BertLike,
    "xlm-roberta": BertLike,
    "distilbert": DistilBert,
    "modernbert": ModernBert,
}


def family(config: PreTrainedConfig) -> type[BertLike]:
    """The family of an encoder's configuration. Raises UserError for one that does not fit."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"a backbone of type {config.model_type!r} cannot carry branches; those that can: {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


def narrows(config: PreTrainedConfig) -> bool:
    """Whether the last layer of such an encoder can give its first position alone."""
    return FAMILIES.get(config.model_type) is BertLike


def narrow_classifier(model: Any) -> None:
    """`narrow` the last layer of a whole classifier, where its own head is known to read the first position only."""
    if narrows(model.config):
        BertLike.narrow(model.base_model.encoder.layer[-1])


def empty(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder with random weights, attention through SDPA."""
    return AutoModel.from_config(config, attn_implementation="sdpa")


def configuration(path: str, where: dict[str, Any]) -> PreTrainedConfig:
    """The configuration at a hub id or folder; `where`: revision, token, ... Raises UserError if there is none."""
    with saved.refusing(no_encoder(path)):
        return AutoConfig.from_pretrained(path, **where)


def load(path: str, where: dict[str, Any]) -> PreTrainedModel:
    """The pre-trained encoder at a hub id or folder, in fp32; `where` as above. Raises UserError if it is not one."""
    family(configuration(path, where))
    with saved.refusing(no_encoder(path)):
        return AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa", **where)


def no_encoder(path: str) -> str:
    """What is said of a hub id or folder from which no encoder comes, before the reason."""
    return f"{path}: no pre-trained encoder could be loaded from here"
