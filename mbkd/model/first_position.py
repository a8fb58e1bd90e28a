"""The first position (B, 1, d) of what an encoder's last layer gives for states (B, n, d): heads read no other.

One query and one feed-forward row instead of n, so a sixth of the work; keys and values need all rows. The same numbers
up to the order of sums. One function for each way that transformers writes a layer; each takes that layer's arguments.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb


def _attend(
    query: Tensor, key: Tensor, value: Tensor, size: int, mask: Tensor | None, dropout: float, rotary: Any = None
) -> Tensor:
    """The attention's answer (B, 1, heads x size) of a query (B, 1, heads x size) to keys and values of all tokens.

    mask: (B or 1, heads or 1, n, n), what is added to the scores, or whether a key may be seen; rotary: cos and sin.
    """
    q, k, v = (rows.unflatten(-1, (-1, size)).transpose(1, 2) for rows in (query, key, value))  # (B, heads, n, size)
    if rotary is not None:
        _, k = apply_rotary_pos_emb(k, k, *rotary)  # position 0 turns by no angle, so the query stays
    mask = None if mask is None else mask[:, :, :1]
    found = F.scaled_dot_product_attention(q, k, v, mask, dropout, enable_gqa=k.shape[1] < q.shape[1])
    return found.transpose(1, 2).flatten(2)


def _rows(states: Tensor) -> Tensor:
    """The first position, (B, 1, d)."""
    return states[:, :1].contiguous()  # a view's bits would depend on its strides


def bert(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Of BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA."""
    attention, first = layer.attention.self, _rows(states)
    mixed = _attend(
        attention.query(first),
        attention.key(states),
        attention.value(states),
        attention.attention_head_size,
        attention_mask,
        attention.dropout.p if layer.training else 0.0,
    )
    first = layer.attention.output(mixed, first)
    return layer.output(layer.intermediate(first), first)


def rembert(*args: Any, **kwargs: Any) -> tuple[Tensor]:
    """Of RemBERT, whose layers answer with a tuple."""
    return (bert(*args, **kwargs),)


def xlm_roberta_xl(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Of XLM-R XL and XXL."""
    attention, normed = layer.attention.self, layer.attention.self_attn_layer_norm(states)
    mixed = _attend(
        attention.query(_rows(normed)),
        attention.key(normed),
        attention.value(normed),
        attention.attention_head_size,
        attention_mask,
        attention.dropout.p if layer.training else 0.0,
    )
    return layer.feed_forward_chunk(layer.attention.output(mixed, _rows(states)))


def mpnet(
    layer: Any, states: Tensor, attention_mask: Tensor | None = None, position_bias: Any = None, *_: Any, **__: Any
) -> tuple[Tensor]:
    """Of MPNet."""
    attention, first = layer.attention.attn, _rows(states)
    added = [x for x in (attention_mask, position_bias) if x is not None]
    mixed = _attend(
        attention.q(first),
        attention.k(states),
        attention.v(states),
        attention.attention_head_size,
        sum(added[1:], added[0]) if added else None,
        attention.dropout.p if layer.training else 0.0,
    )
    first = layer.attention.LayerNorm(layer.attention.dropout(attention.o(mixed)) + first)
    return (layer.output(layer.intermediate(first), first),)


def distilbert(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Of DistilBERT."""
    attention, first = layer.attention, _rows(states)
    mixed = _attend(
        attention.q_lin(first),
        attention.k_lin(states),
        attention.v_lin(states),
        attention.attention_head_size,
        attention_mask,
        attention.dropout.p if layer.training else 0.0,
    )
    first = layer.sa_layer_norm(attention.out_lin(mixed) + first)
    return layer.output_layer_norm(layer.ffn(first) + first)


def modernbert(
    layer: Any, states: Tensor, attention_mask: Tensor | None = None, position_embeddings: Any = None, **_: Any
) -> Tensor:
    """Of ModernBERT and mmBERT."""
    attention, normed = layer.attn, layer.attn_norm(states)
    width = attention.Wqkv.out_features // 3
    weights, bias = attention.Wqkv.weight, attention.Wqkv.bias
    halves = [None, None] if bias is None else [bias[:width], bias[width:]]
    key, value = F.linear(normed, weights[width:], halves[1]).chunk(2, dim=-1)
    mixed = _attend(
        F.linear(_rows(normed), weights[:width], halves[0]),
        key,
        value,
        attention.head_dim,
        attention_mask,
        attention.attention_dropout if layer.training else 0.0,
        position_embeddings,
    )
    first = _rows(states) + attention.out_drop(attention.Wo(mixed))
    return first + layer.mlp(layer.mlp_norm(first))


def eurobert(
    layer: Any, states: Tensor, attention_mask: Tensor | None = None, position_embeddings: Any = None, **_: Any
) -> Tensor:
    """Of EuroBERT."""
    attention, normed = layer.self_attn, layer.input_layernorm(states)
    mixed = _attend(
        attention.q_proj(_rows(normed)),
        attention.k_proj(normed),
        attention.v_proj(normed),
        attention.head_dim,
        attention_mask,
        attention.attention_dropout if layer.training else 0.0,
        position_embeddings,
    )
    first = _rows(states) + attention.o_proj(mixed)
    return first + layer.mlp(layer.post_attention_layernorm(first))


def deberta(
    layer: Any,
    states: Tensor,
    attention_mask: Any,
    *_: Any,
    relative_pos: Any = None,
    rel_embeddings: Any = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Of DeBERTa-v2 and v3: what the position vectors add to the scores of one query goes in with the mask."""
    attention, first = layer.attention.self, _rows(states)
    size, parts = attention.attention_head_size, 1 + len({"c2p", "p2c"} & set(attention.pos_att_type))
    query, key, value = attention.query_proj(first), attention.key_proj(states), attention.value_proj(states)
    allowed = attention_mask[:, :, :1].bool()  # (B, 1, 1, n)
    added = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, torch.finfo(query.dtype).min)
    if attention.relative_attention:
        vectors, span = attention.pos_dropout(rel_embeddings), attention.pos_ebd_size
        if relative_pos is None:
            relative_pos = build_relative_position(
                states, states, attention.position_buckets, attention.max_relative_positions
            )

        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (-1, size)).transpose(-2, -3)  # (.., heads, n, size)

        def among(steps: Tensor) -> Tensor:
            return vectors[(steps + span).clamp(0, 2 * span - 1)]  # (n, d): of each token, seen from the first

        own, shared = 1 / math.sqrt(size * parts), attention.share_att_key
        if "c2p" in attention.pos_att_type:
            project = attention.key_proj if shared else attention.pos_key_proj
            scores = heads(query) @ heads(project(among(relative_pos[0, 0]))).transpose(-1, -2)  # (B, heads, 1, n)
            added = added + own * scores
        if "p2c" in attention.pos_att_type:
            project = attention.query_proj if shared else attention.pos_query_proj
            scores = (heads(key) * heads(project(among(-relative_pos[0, :, 0])))).sum(-1).unsqueeze(2)
            added = added + own * scores
    query = query / math.sqrt(parts)  # SDPA divides by the root of a head's size alone
    mixed = _attend(query, key, value, size, added, attention.dropout.p if layer.training else 0.0)
    first = layer.attention.output(mixed, first)
    return layer.output(layer.intermediate(first), first), None
