"""FLOPs of a student's training step and of a classifier's forward pass, counted from shapes.

Only matrix products count, as in torch's FlopCounterMode: a multiply-add is two FLOPs, and a backward pass is twice
the forward pass.

Letters: B rows, n tokens, d width, N languages with a branch, K branch depth, L layers, C classes.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from mbkd.config import Student
from mbkd.model import backbones
from mbkd.model.mblm import MBLMForSequenceClassification, encoder_layers


@dataclass(frozen=True)
class Size:
    """Quantities that determine the cost of a classifier.

    parameters, embeddings   all parameters, and the parameters of lookup tables
    layers, width, heads     L, d, and the number of attention heads
    layer_weights            weights of the linear maps of one layer, applied to every token
    key_value_weights        the part of layer_weights that computes keys and values
    head_weights             weights of linear maps outside the layers, applied to one position
    token_weights            weights of linear maps outside the layers, applied to every token (narrow word vectors)
    narrow                   whether the last layer computes the first position only
    attention                width of all heads together, usually d
    positions                DeBERTa's vectors of relative positions
    position_maps            (weights of one map, number of maps) applied to these vectors in a layer
    position_products        products of queries or keys with all these vectors, in a layer: "c2p", "p2c"
    convolution              weights of DeBERTa's convolution over tokens after the first layer
    difference               FLOPs to add the low-rank difference to the weights of one branch's layer
    branches                 N; 0 without branches
    """

    parameters: int
    embeddings: int
    layers: int
    width: int
    heads: int
    layer_weights: int
    key_value_weights: int
    head_weights: int
    token_weights: int
    narrow: bool
    attention: int
    positions: int = 0
    position_maps: tuple[int, int] = (0, 0)
    position_products: tuple[str, ...] = ()
    convolution: int = 0
    difference: int = 0
    branches: int = 0

    def layer(self, rows: float, tokens: float) -> float:
        """FLOPs of one layer's forward pass over (B, n): linear maps, attention, DeBERTa's position products."""
        each = 2 * self.layer_weights + 4 * tokens * self.attention
        each += 2 * len(self.position_products) * self.positions * self.attention
        return rows * tokens * each + 2 * self.positions * math.prod(self.position_maps)

    def last_layer(self, rows: float, tokens: float, whole: bool = False) -> float:
        """FLOPs of a last layer. Computes the first position only, unless `whole` is set or `narrow` is False."""
        if whole or not self.narrow:
            return self.layer(rows, tokens)
        key_value = self.key_value_weights  # keys and values cover all tokens
        found = rows * (2 * tokens * key_value + 2 * (self.layer_weights - key_value) + 4 * tokens * self.attention)
        # One query scores n positions; the scores by keys (p2c) are not a matrix product.
        products = 2 * rows * tokens * self.attention if "c2p" in self.position_products else 0
        return found + products + 2 * tokens * self.position_maps[0] * len(self.position_products)

    def outside(self, rows: float, tokens: float) -> float:
        """FLOPs outside the layers: widening of word vectors, convolution, head."""
        return 2 * rows * (tokens * (self.token_weights + self.convolution) + self.head_weights)

    def forward(self, rows: float, tokens: float, whole: bool = False) -> float:
        """FLOPs of a plain classifier's forward pass for (B, n), such as a teacher's."""
        layers = (self.layers - 1) * self.layer(rows, tokens) + self.last_layer(rows, tokens, whole)
        return layers + self.outside(rows, tokens)


def size(model: Any) -> Size | None:
    """Size of a student, an MBLM or a classifier with its backbone's head; None as `plain_size`."""
    return student_size(model) if isinstance(model, MBLMForSequenceClassification) else plain_size(model)


def plain_size(model: Any) -> Size | None:
    """Size of a classifier without branches, such as a teacher.

    None for a model with branches or members, and if the layers are not found or run more than once.
    """
    try:
        found = classifier_size(model)
    except (AttributeError, ValueError):
        return None
    return found if found.layers == getattr(model.config, "num_hidden_layers", None) else None


def student_size(model: MBLMForSequenceClassification) -> Size:
    """Size of an MBLM."""
    branches, rank = len(model.branches), model.config.branch_rank
    copies = 1 if rank else branches  # of the linear maps of branched layers
    own = model.base if rank else next(iter(model.branches), [])
    path = [*own, *model.shared]  # the layers that a token passes through
    found = _size(model, model.encoder.config, path, copies * model.config.branch_depth + len(model.shared))
    maps = found.position_maps if not getattr(model.encoder.config, "share_att_key", False) else (0, 0)
    difference = 2 * rank * (found.layer_weights + math.prod(maps))
    return replace(found, difference=difference, branches=branches)


def of_step(size: Size, student: Student, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of one optimizer step of the student, forward and backward, for (B, n).

    whole: compute the last layer for all tokens, as the paper's models do.
    """
    N, K = size.branches, student.branch_depth
    mixed, own_heads = K > 0 and student.mixers != "none", K > 0 and student.heads == "per_language"
    others = N - 1 if mixed else 0  # without mixers, a training batch passes through its own branch only
    mixer = _mixer(size, N, rows, tokens)
    own = (size.layers - 1) * size.layer(rows, tokens) + last_layer(student, size, rows, tokens, whole)
    layer = size.layer(rows, tokens) + size.difference
    # An idle branch (Eq. 8) and its mixer run forward only.
    idle = 1 if student.detach else 3
    # With a head per language, the last layer of other branches, and the mixer before it, are not read.
    inner = K - 1 if mixed and student.mixers == "all" else 0
    unread, unread_mixer = (1, min(inner, 1)) if own_heads else (0, 0)
    other = (idle * (K - unread) + unread) * layer + (idle * (inner - unread_mixer) + unread_mixer) * mixer
    other += idle * _convolution(student, size, rows, tokens)
    outer = 1 if mixed and not own_heads else 0
    if own_heads:
        size = replace(size, head_weights=size.head_weights // N)
    own += K * size.difference + (inner + outer) * mixer + size.outside(rows, tokens)
    return 3 * own + others * other


def of_answer(size: Size, student: Student, rows: float, tokens: float) -> float:
    """FLOPs of the student's forward pass for (B, n) through all branches and mixers."""
    N, K = size.branches, student.branch_depth
    layers = (size.layers - 1 + (N - 1) * K if K else size.layers - 1) * size.layer(rows, tokens)
    inner = (K - 1) * N if K and student.mixers == "all" else 0
    outer = 1 if K and student.mixers != "none" and student.heads == "shared" else 0
    branches = N * K * size.difference + max(N - 1, 0) * _convolution(student, size, rows, tokens)
    mixers = (inner + outer) * _mixer(size, N, rows, tokens)
    return layers + branches + last_layer(student, size, rows, tokens) + mixers + size.outside(rows, tokens)


def classifier_size(model: Any) -> Size:
    """Size of a classifier of any transformers architecture."""
    layers = encoder_layers(model)
    size = _size(model, model.config, layers, len(layers))
    if getattr(model.config, "classifier_pooling", None) == "late":  # EuroBERT's head reads every token
        size = replace(size, token_weights=size.token_weights + size.head_weights, head_weights=0)
    return replace(size, narrow=backbones.reads_first(model.config))


def _size(model: Any, config: PreTrainedConfig, path: list[nn.Module], layers: int) -> Size:
    """Count a model whose tokens pass through the layers of `path`, out of `layers` equal layers."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each, maps, products = _linear(path[0]), (0, 0), ()
    attention, positions, shared = head * config.num_attention_heads, 0, False
    if config.model_type == "deberta-v2" and getattr(config, "relative_attention", False):
        products = tuple(config.pos_att_type or ())
        spans = [getattr(config, name, -1) for name in ("position_buckets", "max_relative_positions")]
        positions = 2 * next((span for span in spans if span > 0), config.max_position_embeddings)
        shared = getattr(config, "share_att_key", False)
        maps = (config.hidden_size * attention, 2 if shared else len(products))
    own = 0 if not positions or shared else math.prod(maps)  # maps of positions are not applied to tokens
    tokens = sum(m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear) and "embed" in name)
    convolved = [m for m in model.modules() if isinstance(m, nn.Conv1d)]
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        embeddings=sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)),
        layers=len(path),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        layer_weights=each - own,
        key_value_weights=2
        * config.hidden_size
        * head
        * getattr(config, "num_key_value_heads", config.num_attention_heads),
        head_weights=_linear(model) - layers * each - tokens,
        token_weights=tokens,
        narrow=not (convolved and len(path) == 1),
        attention=attention,
        positions=positions,
        position_maps=maps,
        position_products=products,
        convolution=convolved[0].weight.numel() if convolved else 0,
    )


def _linear(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _mixer(size: Size, branches: int, rows: float, tokens: float) -> float:
    return 2 * branches * rows * tokens * size.width  # Eq. 10


def _convolution(student: Student, size: Size, rows: float, tokens: float) -> float:
    """FLOPs of the first layer's convolution in one branch, forward, if that layer is branched."""
    depth = student.branch_depth
    branched = depth > 0 and (student.branch_position == "bottom" or depth == size.layers)
    return 2 * rows * tokens * size.convolution if branched else 0.0


def last_layer(student: Student, size: Size, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of the last layer for a batch, forward; a branched last layer has a mixer after it."""
    depth, bottom = student.branch_depth, student.branch_position == "bottom"
    shared = depth == 0 or (bottom and depth < size.layers)
    return size.last_layer(rows, tokens, whole or not shared)
