"""What a system costs, counted from its configuration: parameters, FLOPs of a step, memory of a rank, disk of a run.

No weights are made: shapes are read off models on torch's meta device. FLOPs are those of matrix products, as torch's
FlopCounterMode counts them: a multiplication and an addition are two, a backward pass is two forward passes.

Letters: B rows, n tokens, d width, N languages with a branch, K branch depth, L layers, C classes.
"""

import copy
import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from mbkd.config import Config, Student, changed, paper, structures
from mbkd.data import hub
from mbkd.data.tasks import label_names
from mbkd.model import backbones
from mbkd.model.configuration import MBLMConfig
from mbkd.model.mblm import MBLMForSequenceClassification

# Bytes of a number that autograd keeps: by autocast some are in 16 bit, residual streams and norms are not (measured).
KEPT_BYTES = {"fp32": 4.0, "bf16": 3.2, "fp16": 3.2}
CHECKPOINTS = 3  # two are kept, and a third one is being written


@dataclass(frozen=True)
class Size:
    """What the cost of a classifier depends on.

    parameters, embeddings   all of them, and those in tables that are looked up
    layers, width, heads     L, d, and the attention's heads
    layer_weights            in the linear maps of one layer, through which every token goes
    key_value_weights        those of them that give keys and values
    head_weights             in the linear maps outside of the layers, through which one position goes
    token_weights            in those outside of the layers through which every token goes, as of narrow word vectors
    narrow                   whether its last layer computes only the first position where a head reads no other
    attention                width of all heads together, mostly d
    positions                DeBERTa's vectors of relative positions
    position_maps            (weights of one, how many) linear maps through which they go in a layer
    position_products        of queries or keys with all of them, in a layer: "c2p", "p2c"
    convolution              weights of the convolution over tokens behind the first layer, DeBERTa's
    difference               FLOPs that add its low-rank difference to the weights of one branch's layer
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

    def layer(self, rows: float, tokens: float) -> float:
        """FLOPs of one layer's forward pass over (B, n): its linear maps, the attention's products, DeBERTa's more."""
        each = 2 * self.layer_weights + 4 * tokens * self.attention
        each += 2 * len(self.position_products) * self.positions * self.attention
        return rows * tokens * each + 2 * self.positions * math.prod(self.position_maps)

    def last_layer(self, rows: float, tokens: float, whole: bool = False) -> float:
        """The same for a last layer whose first position alone is read; whole: it is computed for all tokens."""
        if whole or not self.narrow:
            return self.layer(rows, tokens)
        key_value = self.key_value_weights  # keys and values are of all tokens
        found = rows * (2 * tokens * key_value + 2 * (self.layer_weights - key_value) + 4 * tokens * self.attention)
        # One query looks at n positions; what keys say of them is no matrix product.
        products = 2 * rows * tokens * self.attention if "c2p" in self.position_products else 0
        return found + products + 2 * tokens * self.position_maps[0] * len(self.position_products)

    def outside(self, rows: float, tokens: float) -> float:
        """FLOPs of what is no layer: narrow word vectors made wide, a convolution, the head."""
        return 2 * rows * (tokens * (self.token_weights + self.convolution) + self.head_weights)

    def forward(self, rows: float, tokens: float, whole: bool = False) -> float:
        """FLOPs of a plain classifier's answer for (B, n), such as a teacher's."""
        layers = (self.layers - 1) * self.layer(rows, tokens) + self.last_layer(rows, tokens, whole)
        return layers + self.outside(rows, tokens)


def shape(path: str) -> PreTrainedConfig:
    """An encoder's configuration: of the paper's models without asking the hub. Raises UserError if there is none."""
    if path in paper.SHAPES and not Path(path).exists():
        return AutoConfig.for_model(**paper.SHAPES[path])
    return backbones.configuration(path, hub.pinned(path))


def empty_student(config: Config) -> Any:
    """The model that learns, on the current device and with random weights. Raises UserError."""
    return _empty(config.student, config.languages, config.train.max_length, len(label_names(config.task)))


def empty_teacher(config: Config, path: str) -> Any:
    """A classifier of a teacher's shape, likewise."""
    return _classifier(path, len(label_names(config.task)))


def student_size(config: Config) -> Size:
    """The size of the model that learns. Raises UserError for a backbone that is not there."""
    return _student_size(config.student, config.languages, config.train.max_length, len(label_names(config.task)))


def teacher_sizes(config: Config) -> dict[str, list[Size]]:
    """The sizes of the teachers that are asked, by language; none for hard labels."""
    if config.distill.signal == "labels":
        return {}
    classes = len(label_names(config.task))
    return {x: [_teacher_size(teacher.model, classes) for teacher in config.teachers[x]] for x in config.languages}


def student_flops(config: Config, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of one optimizer step of the student, forward and backward, on a batch of B rows padded to n tokens.

    whole: the last layer is computed for all tokens, as the paper's models do.
    """
    student, size = config.student, student_size(config)
    N, K = len(config.languages), student.branch_depth
    mixed, own_heads = K > 0 and student.mixers != "none", K > 0 and student.heads == "per_language"
    others = N - 1 if mixed else 0  # without mixers a batch in training goes through its own branch alone
    mixer = _mixer(size, N, rows, tokens)
    own = (size.layers - 1) * size.layer(rows, tokens) + _last(config, size, rows, tokens, whole)
    layer = size.layer(rows, tokens) + size.difference
    # A branch that does not learn on the batch (Eq. 8) is run forward only, and so is its mixer.
    idle = 1 if student.detach else 3
    # The last layer of another language's branch, and the mixer before it, lead to no head of this batch.
    inner = K - 1 if mixed and student.mixers == "all" else 0
    unread, unread_mixer = (1, min(inner, 1)) if own_heads else (0, 0)
    other = (idle * (K - unread) + unread) * layer + (idle * (inner - unread_mixer) + unread_mixer) * mixer
    other += idle * _convolution(config, size, rows, tokens)
    outer = 1 if mixed and not own_heads else 0
    if own_heads:
        size = replace(size, head_weights=size.head_weights // N)
    own += K * size.difference + (inner + outer) * mixer + size.outside(rows, tokens)
    return 3 * own + others * other


def answer_flops(config: Config, rows: float, tokens: float) -> float:
    """FLOPs of the student's answer for (B, n) where no branch is chosen: all run, and are mixed."""
    student, size = config.student, student_size(config)
    N, K = len(config.languages), student.branch_depth
    layers = (size.layers - 1 + (N - 1) * K if K else size.layers - 1) * size.layer(rows, tokens)
    inner = (K - 1) * N if K and student.mixers == "all" else 0
    outer = 1 if K and student.mixers != "none" and student.heads == "shared" else 0
    branches = N * K * size.difference + max(N - 1, 0) * _convolution(config, size, rows, tokens)
    mixers = (inner + outer) * _mixer(size, N, rows, tokens)
    return layers + branches + _last(config, size, rows, tokens) + mixers + size.outside(rows, tokens)


def teacher_flops(config: Config, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of the teachers' answers for a batch, the mean over languages; 0 for hard labels."""
    each = [sum(size.forward(rows, tokens, whole) for size in sizes) for sizes in teacher_sizes(config).values()]
    return sum(each) / len(each) if each else 0.0


def time_ratio(config: Config, rows: float, tokens: float, teacher: bool, whole: bool = False) -> float:
    """Predicted time of a step / that of the same backbone without branches, at equal FLOPs per second.

    teacher: whether it runs in every step, as with distill.signal = online, or its logits are read.
    """
    plain = changed(config, {"student": structures.PLAIN})
    asked = teacher_flops(config, rows, tokens, whole) if teacher else 0.0
    with_branches, without = (student_flops(x, rows, tokens, whole) for x in (config, plain))
    return (asked + with_branches) / (asked + without)


def _mixer(size: Size, branches: int, rows: float, tokens: float) -> float:
    return 2 * branches * rows * tokens * size.width  # Eq. 10


def _convolution(config: Config, size: Size, rows: float, tokens: float) -> float:
    """The forward pass of the first layer's convolution in one branch, where that layer branches."""
    depth = config.student.branch_depth
    branched = depth > 0 and (config.student.branch_position == "bottom" or depth == size.layers)
    return 2 * rows * tokens * size.convolution if branched else 0.0


def _last(config: Config, size: Size, rows: float, tokens: float, whole: bool = False) -> float:
    """The forward pass of the last layer that a batch goes through; one that branches has a mixer after it."""
    depth, bottom = config.student.branch_depth, config.student.branch_position == "bottom"
    shared = depth == 0 or (bottom and depth < size.layers)
    return size.last_layer(rows, tokens, whole or not shared)


def memory(config: Config, precision: str, half: bool, ranks: int, tokens: float) -> dict[str, int]:
    """Bytes that one rank needs while it trains, by what they hold; the activations are an estimate.

    precision: what the student computes in; its weights, gradients and moments are fp32. half: whether teachers compute
    in fp16; tokens: n of the widest batch.
    """
    student, size, train = config.student, student_size(config), config.train
    parts = ranks if train.zero_stage else 1
    gradients = 4 * size.parameters // (ranks if train.zero_stage == 2 else 1)
    if not train.zero_stage and train.idle_branches == "still" and (student.detach or student.mixers == "none"):
        # None are made for the linear maps of idle branches; over ZeRO's shards DeepSpeed fills zeros in.
        idle = 0 if student.branch_rank or student.grow else max(len(config.languages) - 1, 0) * student.branch_depth
        gradients -= 4 * idle * size.layer_weights
    casts = 0 if precision == "fp32" else 2 * (size.parameters - size.embeddings)  # weights in 16 bit, for a step
    if student.branch_rank:  # the sums of base and difference of the branches that learn
        casts += 4 * (1 if student.detach else len(config.languages)) * student.branch_depth * size.layer_weights
    rows = train.batch_size / (ranks * train.accumulation)
    sizes = teacher_sizes(config)
    # By folder or hub id: a teacher of several languages is loaded once.
    loaded = {t.model: s for x in sizes for t, s in zip(config.teachers[x], sizes[x], strict=True)}
    teachers = [each.parameters * (2 if half else 4) for each in loaded.values()]
    online = config.distill.signal == "online"
    return {
        "parameters": 4 * size.parameters,
        "gradients": gradients,
        "optimizer": size.parameters * _state(config) // parts,
        "activations": int(activations(config, KEPT_BYTES[precision], rows, tokens)) + casts,
        "teachers": sum(teachers) if online else 0,
    }


def activations(config: Config, word: float, rows: float, tokens: float) -> float:
    """Bytes that a training step keeps for its backward pass, in words of `word` bytes; an estimate from above.

    Per layer 34 bytes of a token's feature and 5 of an attention weight in half precision, of which 2 and 1 are
    dropout's masks (Korthikanti et al. 2022, "Reducing Activation Recomputation", Eq. 2); per mixer that learns the
    states of all branches, twice.
    """
    student, size = config.student, student_size(config)
    N, K = len(config.languages), student.branch_depth
    layer = size.width * (16 * word + 2) + size.heads * tokens * (2 * word + 1)
    mixed = K > 0 and student.mixers != "none"
    kept = size.layers + (0 if student.detach or not mixed else (N - 1) * K)
    less = 0.5 * (1 - _last(config, size, rows, tokens) / size.layer(rows, tokens))  # a last layer of one position
    mixers = ((K if student.mixers == "all" else 1) if mixed else 0) * 2 * N * size.width * word
    return rows * tokens * ((kept - less) * layer + mixers)


def disk(config: Config, heldout_rows: int) -> dict[str, int]:
    """Bytes of a run's directory: the model and logits that stay, and the checkpoints that go when it is finished.

    heldout_rows: of all splits and languages that are measured.
    """
    size, classes = student_size(config), len(label_names(config.task))
    return {
        "finished": 4 * size.parameters + heldout_rows * (4 * classes + 8),
        "checkpoints": CHECKPOINTS * size.parameters * (4 + _state(config)),
    }


def _state(config: Config) -> int:
    """Bytes of the optimizer's state for a parameter: Adam's moments, over shards DeepSpeed's copy of weights, too."""
    return 12 if config.train.zero_stage else 8


@functools.cache
def _student_size(student: Student, languages: tuple[str, ...], length: int, classes: int) -> Size:
    with torch.device("meta"):
        model = _empty(student, languages, length, classes)
    if student.head == "own":
        return _classifier_size(model)
    branches = len(model.branches)
    copies = 1 if student.branch_rank else branches  # of the branched layers' own linear maps
    own = model.base if student.branch_rank else next(iter(model.branches), [])
    path = [*own, *model.shared]  # the layers that a token goes through
    layers = copies * student.branch_depth + len(model.shared)
    size = _size(model, model.encoder.config, path, layers)
    maps = size.position_maps if not getattr(model.encoder.config, "share_att_key", False) else (0, 0)
    return replace(size, difference=2 * student.branch_rank * (size.layer_weights + math.prod(maps)))


@functools.cache
def _teacher_size(path: str, classes: int) -> Size:
    with torch.device("meta"):
        return _classifier_size(_classifier(path, classes))


def _classifier_size(model: Any) -> Size:
    """Any architecture of transformers: its layers are its longest list of modules."""
    layers = max((each for each in model.modules() if isinstance(each, nn.ModuleList)), key=len)
    size = _size(model, model.config, list(layers), len(layers))
    if getattr(model.config, "classifier_pooling", None) == "late":  # EuroBERT's head reads every token
        size = replace(size, token_weights=size.token_weights + size.head_weights, head_weights=0)
    return replace(size, narrow=backbones.reads_first(model.config))


def _size(model: Any, config: PreTrainedConfig, path: list[nn.Module], layers: int) -> Size:
    """Count a model whose tokens go through the layers of `path`, out of `layers` that are all alike."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each, maps, products = _linear(path[0]), (0, 0), ()
    attention, positions, shared = head * config.num_attention_heads, 0, False
    if config.model_type == "deberta-v2" and getattr(config, "relative_attention", False):
        products = tuple(config.pos_att_type or ())
        spans = [getattr(config, name, -1) for name in ("position_buckets", "max_relative_positions")]
        positions = 2 * next((span for span in spans if span > 0), config.max_position_embeddings)
        shared = getattr(config, "share_att_key", False)
        maps = (config.hidden_size * attention, 2 if shared else len(products))
    own = 0 if not positions or shared else math.prod(maps)  # maps of positions are none of tokens
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


def _empty(student: Student, languages: tuple[str, ...], length: int, classes: int) -> Any:
    if student.head == "own":
        return _classifier(student.backbone, classes)
    fields = student.model_dump(exclude={"backbone", "head"})
    branches = languages if student.branch_depth else ()
    config = MBLMConfig(shape(student.backbone).to_dict(), branches, mixer_length=length, num_labels=classes, **fields)
    return MBLMForSequenceClassification(config)


def _classifier(path: str, classes: int) -> Any:
    config = copy.deepcopy(shape(path))
    config.num_labels = classes
    model = AutoModelForSequenceClassification.from_config(config)
    backbones.narrow_classifier(model)
    return model
