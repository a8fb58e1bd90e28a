"""First position (B, 1, d) of the output of an encoder's last layer for states (B, n, d).

Heads read no other position. One query and one feed-forward row instead of n take a sixth of the work; keys and values
still need all tokens. Results are equal up to the order of sums. Each layer type of transformers has one function with
the arguments of that layer.
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
    """Attention output (B, 1, heads x size) of a query (B, 1, heads x size) to keys and values of all tokens.

    mask: (B or 1, heads or 1, n, n), additive or boolean (True: visible). rotary: cos and sin.
    """
    q, k, v = (rows.unflatten(-1, (-1, size)).transpose(1, 2) for rows in (query, key, value))  # (B, heads, n, size)
    if rotary is not None:
        _, k = apply_rotary_pos_emb(k, k, *rotary)  # position 0 has rotation angle 0, so the query does not change
    mask = None if mask is None else mask[:, :, :1]
    found = F.scaled_dot_product_attention(q, k, v, mask, dropout, enable_gqa=k.shape[1] < q.shape[1])
    return found.transpose(1, 2).flatten(2)


def _rows(states: Tensor) -> Tensor:
    """The first position, (B, 1, d)."""
    return states[:, :1].contiguous()  # results on a view would depend on its strides


def bert(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The layer of BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA."""
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
    """The layer of RemBERT, which returns a tuple."""
    return (bert(*args, **kwargs),)


def xlm_roberta_xl(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The layer of XLM-R XL and XXL."""
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
    """The layer of MPNet."""
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
    """The layer of DistilBERT."""
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
    """The layer of ModernBERT and mmBERT."""
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
    """The layer of EuroBERT."""
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
    """The layer of DeBERTa-v2 and v3. Position scores of the query are added through the mask."""
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
            return vectors[(steps + span).clamp(0, 2 * span - 1)]  # (n, d): relative to the first token

        own, shared = 1 / math.sqrt(size * parts), attention.share_att_key
        if "c2p" in attention.pos_att_type:
            project = attention.key_proj if shared else attention.pos_key_proj
            scores = heads(query) @ heads(project(among(relative_pos[0, 0]))).transpose(-1, -2)  # (B, heads, 1, n)
            added = added + own * scores
        if "p2c" in attention.pos_att_type:
            project = attention.query_proj if shared else attention.pos_query_proj
            scores = (heads(key) * heads(project(among(-relative_pos[0, :, 0])))).sum(-1).unsqueeze(2)
            added = added + own * scores
    query = query / math.sqrt(parts)  # SDPA divides by the square root of the head size only
    mixed = _attend(query, key, value, size, added, attention.dropout.p if layer.training else 0.0)
    first = layer.attention.output(mixed, first)
    return layer.output(layer.intermediate(first), first), None
