"""Families of pre-trained encoders: embeddings, layers, the call of a layer, and the final norm.

Each family is one small class and one line in `FAMILIES`. Attention uses SDPA where the family supports it, which is
transformers' default.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from mbkd.errors import UserError
from mbkd.model import first_position, saved

Layer = Callable[[nn.Module, Tensor], Tensor]


class BertLike:
    """BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA: learned positions, post-norm layers, no final norm."""

    dropout = "hidden_dropout_prob"
    # Computes the family's last layer for the first position only.
    narrowed: Callable[..., Any] = staticmethod(first_position.bert)

    @staticmethod
    def layers(encoder: Any) -> nn.ModuleList:
        """The encoder's layers."""
        return encoder.encoder.layer

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        """Remove the layers, and a pooler if any, from the encoder; return the layers."""
        layers, encoder.encoder.layer, encoder.pooler = encoder.encoder.layer, nn.ModuleList(), None
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        """Embeddings H_0 of Eq. 5, (B, n, d). Segment ids are the feature f."""
        return encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        """A function that runs one layer on states like `hidden` (B, n, d). mask: (B, n); None without padding."""
        attention_mask = _attention_mask(create_bidirectional_mask, encoder, hidden, mask)
        return lambda block, states: block(states, attention_mask)

    @classmethod
    def narrow(cls, last: Any) -> None:
        """Make the last layer return its first position only, (B, 1, d): heads read no other position."""
        last.forward = partial(cls.narrowed, last)

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        """Operations of the encoder after its last layer."""
        return hidden


class Electra(BertLike):
    """ELECTRA: BERT's layers; word vectors may be narrower than the layers."""

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        found = encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        return encoder.embeddings_project(found) if hasattr(encoder, "embeddings_project") else found


class RemBert(BertLike):
    """RemBERT: narrow word vectors, widened by one linear map."""

    narrowed = staticmethod(first_position.rembert)

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        found = encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        return encoder.encoder.embedding_hidden_mapping_in(found)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        run = BertLike.layer(encoder, hidden, mask)
        return lambda block, states: run(block, states)[0]


class XLMRobertaXL(BertLike):
    """XLM-R XL and XXL: pre-norm layers with a final norm."""

    narrowed = staticmethod(first_position.xlm_roberta_xl)

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        return encoder.encoder.LayerNorm(hidden)


class MPNet(BertLike):
    """MPNet: BERT's layers with a bias of relative positions shared by all layers; no segment ids."""

    narrowed = staticmethod(first_position.mpnet)

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        return encoder.embeddings(input_ids=input_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        attention_mask = _attention_mask(create_bidirectional_mask, encoder, hidden, mask)
        bias = encoder.encoder.compute_position_bias(hidden)
        return lambda block, states: block(states, attention_mask, bias)[0]


class DebertaV2(BertLike):
    """DeBERTa-v2, v3 and mDeBERTa: attention to content and relative positions; layers share position vectors."""

    narrowed = staticmethod(first_position.deberta)

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        layers = BertLike.take_layers(encoder)
        # A convolution, if any, belongs to the first layer, so each branch has its copy.
        layers[0].conv, encoder.encoder.conv = encoder.encoder.conv, None
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        return encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, mask=mask)

    @classmethod
    def narrow(cls, last: Any) -> None:
        if getattr(last, "conv", None) is None:  # with one layer, the convolution reads all positions
            super().narrow(last)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.long) if mask is None else mask
        shared = {
            "attention_mask": encoder.encoder.get_attention_mask(mask),
            "relative_pos": encoder.encoder.get_rel_pos(hidden),
            "rel_embeddings": encoder.encoder.get_rel_embedding(),
        }

        def run(block: Any, states: Tensor) -> Tensor:
            found = block(states, **shared)[0]
            conv = getattr(getattr(block, "base", block), "conv", None)  # low-rank branches use the base's
            return found if conv is None else conv(states, found, mask)

        return run


class DistilBert(BertLike):
    """DistilBERT: no segment ids; layers under `transformer`."""

    dropout = "dropout"
    narrowed = staticmethod(first_position.distilbert)

    @staticmethod
    def layers(encoder: Any) -> nn.ModuleList:
        return encoder.transformer.layer

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        layers, encoder.transformer.layer = encoder.transformer.layer, nn.ModuleList()
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        return encoder.embeddings(input_ids)


class ModernBert(BertLike):
    """ModernBERT, mmBERT: rotary positions, local and global layers, pre-norm with a final norm."""

    dropout = "classifier_dropout"
    narrowed = staticmethod(first_position.modernbert)

    @staticmethod
    def layers(encoder: Any) -> nn.ModuleList:
        return encoder.layers

    @staticmethod
    def take_layers(encoder: Any) -> nn.ModuleList:
        layers, encoder.layers = encoder.layers, nn.ModuleList()
        return layers

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        return encoder.embeddings(input_ids=input_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        masks = {
            "full_attention": _attention_mask(create_bidirectional_mask, encoder, hidden, mask),
            "sliding_attention": _attention_mask(create_bidirectional_sliding_window_mask, encoder, hidden, mask),
        }
        positions = _positions(hidden)
        rotary = {kind: encoder.rotary_emb(hidden, positions, kind) for kind in set(encoder.config.layer_types)}
        return lambda block, states: block(
            states,
            attention_mask=masks[block.attention_type],
            position_embeddings=rotary[block.attention_type],
        )

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        return encoder.final_norm(hidden)


class EuroBert(ModernBert):
    """EuroBERT: rotary positions, pre-norm layers with a final norm; dropout in attention only."""

    dropout = "attention_dropout"
    narrowed = staticmethod(first_position.eurobert)

    @staticmethod
    def embed(encoder: Any, input_ids: Tensor, token_type_ids: Tensor | None, mask: Tensor) -> Tensor:
        return encoder.embed_tokens(input_ids)

    @staticmethod
    def layer(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Layer:
        attention_mask = _attention_mask(create_bidirectional_mask, encoder, hidden, mask)
        rotary = encoder.rotary_emb(hidden, _positions(hidden))
        return lambda block, states: block(states, attention_mask=attention_mask, position_embeddings=rotary)

    @staticmethod
    def finish(encoder: Any, hidden: Tensor) -> Tensor:
        return encoder.norm(hidden)


def _attention_mask(create: Callable[..., Any], encoder: Any, hidden: Tensor, mask: Tensor | None) -> Any:
    """Attention mask of an encoder for a mask (B, n), created by a function of transformers.

    Callers pass a mask only with padding, so transformers' check for padding, which reads the device, is skipped.
    """
    skip = mask is None
    return create(encoder.config, inputs_embeds=hidden, attention_mask=mask, allow_is_bidirectional_skip=skip)


def _positions(hidden: Tensor) -> Tensor:
    """Positions 0, 1, ... (1, n) of states (B, n, d)."""
    return hidden.new_ones(hidden.shape[1]).long().cumsum(0).sub(1).unsqueeze(0)


FAMILIES: dict[str, type[BertLike]] = {
    "bert": BertLike,
    "camembert": BertLike,
    "deberta-v2": DebertaV2,
    "distilbert": DistilBert,
    "electra": Electra,
    "eurobert": EuroBert,
    "modernbert": ModernBert,
    "mpnet": MPNet,
    "rembert": RemBert,
    "roberta": BertLike,
    "xlm-roberta": BertLike,
    "xlm-roberta-xl": XLMRobertaXL,
}


def family(config: PreTrainedConfig) -> type[BertLike]:
    """Family of an encoder's configuration. Raises UserError for unsupported encoders."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"a backbone of type {config.model_type!r} is not supported; supported: {', '.join(FAMILIES)}. "
            "A student without branches can be any classifier of transformers: student.head=own student.branch_depth=0"
        )
    return FAMILIES[config.model_type]


def reads_first(config: PreTrainedConfig) -> bool:
    """Whether the head of a transformers classifier with this configuration reads the first position only."""
    if config.model_type not in FAMILIES:
        return False
    pooling = getattr(config, "classifier_pooling", None)  # of ModernBERT ("cls") and EuroBERT ("bos")
    conv = config.num_hidden_layers == 1 and getattr(config, "conv_kernel_size", 0)  # DeBERTa's follows its first layer
    return pooling in (None, "cls", "bos") and not conv


def narrow_classifier(model: Any) -> None:
    """Narrow the last layer of a whole classifier, if its head reads the first position only."""
    if reads_first(model.config):
        kind = FAMILIES[model.config.model_type]
        kind.narrow(kind.layers(model.base_model)[-1])


def empty(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with random weights in torch's default dtype, which is that of the surrounding model."""
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


def configuration(path: str, where: dict[str, Any]) -> PreTrainedConfig:
    """Configuration at a hub id or folder. where: revision, token, ... Raises UserError without a configuration."""
    with saved.refusing(no_encoder(path)):
        return AutoConfig.from_pretrained(path, **where)


def load(path: str, where: dict[str, Any]) -> PreTrainedModel:
    """Pre-trained encoder at a hub id or folder, in fp32; `where` as above. Raises UserError for other models."""
    family(configuration(path, where))
    with saved.refusing(no_encoder(path)):
        return AutoModel.from_pretrained(path, dtype=torch.float32, **where)


def no_encoder(path: str) -> str:
    """Start of the message for a hub id or folder without an encoder."""
    return f"{path}: no pre-trained encoder could be loaded"
