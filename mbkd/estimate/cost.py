"""Cost of a system from its configuration: parameters, FLOPs of a step, memory per rank, disk of a run.

No weights are created: shapes come from models on torch's meta device. mbkd.model.flops counts FLOPs.

Letters: B rows, n tokens, N languages with a branch, K branch depth.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from mbkd.config import Config, Student, changed, paper, structures
from mbkd.data import hub
from mbkd.data.tasks import label_names
from mbkd.errors import UserError
from mbkd.model import backbones, flops
from mbkd.model.configuration import MBLMConfig
from mbkd.model.flops import Size
from mbkd.model.mblm import MBLMForSequenceClassification

# Mean bytes of a number kept by autograd (measured). Under autocast, residual streams and norms remain in 32 bit.
KEPT_BYTES = {"fp32": 4.0, "bf16": 3.2, "fp16": 3.2}
CHECKPOINTS = 3  # two are kept while a third is written
# Operations of a bf16 step (benchmarks.operations): of a layer, of an idle branch's layer and mixer, of the rest.
LAYER, IDLE_LAYER, REST = 123, 74, 76
TEACHER_LAYER = 17  # of a layer in a teacher's forward pass


def shape(path: str) -> PreTrainedConfig:
    """Configuration of an encoder; those of the paper's models are built in. Raises UserError if there is none."""
    if path in paper.SHAPES and not Path(path).exists():
        return AutoConfig.for_model(**paper.SHAPES[path])
    return backbones.configuration(path, hub.pinned(path))


def empty_student(config: Config) -> Any:
    """The student of a configuration on the current device, with random weights. Raises UserError."""
    return _empty(config.student, config.languages, config.train.max_length, len(label_names(config.task)))


def empty_teacher(config: Config, path: str) -> Any:
    """A classifier with a teacher's shape, on the current device, with random weights."""
    return _classifier(path, len(label_names(config.task)))


def student_size(config: Config) -> Size:
    """Size of a configuration's student. Raises UserError for a missing backbone."""
    return _student_size(config.student, config.languages, config.train.max_length, len(label_names(config.task)))


def teacher_sizes(config: Config) -> dict[str, list[Size]]:
    """Sizes of the teachers in use, by language; empty for hard labels."""
    if config.distill.signal == "labels":
        return {}
    classes = len(label_names(config.task))
    return {x: [_teacher_size(teacher.model, classes) for teacher in config.teachers[x]] for x in config.languages}


def student_flops(config: Config, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of one optimizer step of the student, forward and backward, for (B, n).

    whole: compute the last layer for all tokens, as the paper's models do.
    """
    return flops.of_step(student_size(config), config.student, rows, tokens, whole)


def operations(config: Config, online: bool) -> float:
    """Approximate number of operations that a bf16 step dispatches; a GPU's host launches them one by one.

    online: with the teachers' forward passes, as a mean over languages. A test compares the number with a count.
    """
    each = [sum(size.layers for size in sizes) for sizes in teacher_sizes(config).values()] if online else []
    idle = config.student.branch_depth * (len(config.languages) - 1)
    student = LAYER * student_size(config).layers + IDLE_LAYER * idle + REST
    return config.train.accumulation * (student + TEACHER_LAYER * sum(each) / max(len(each), 1))


def answer_flops(config: Config, rows: float, tokens: float) -> float:
    """FLOPs of the student's forward pass for (B, n) through all branches and mixers."""
    return flops.of_answer(student_size(config), config.student, rows, tokens)


def teacher_flops(config: Config, rows: float, tokens: float, whole: bool = False) -> float:
    """FLOPs of the teachers' forward passes for a batch, as a mean over languages; 0 for hard labels."""
    each = [sum(size.forward(rows, tokens, whole) for size in sizes) for sizes in teacher_sizes(config).values()]
    return sum(each) / len(each) if each else 0.0


def time_ratio(config: Config, rows: float, tokens: float, teacher: bool, whole: bool = False) -> float:
    """Predicted step time relative to the same backbone without branches, at equal FLOPs per second.

    teacher: whether the teacher runs in every step (distill.signal = online).
    """
    plain = changed(config, {"student": structures.PLAIN})
    asked = teacher_flops(config, rows, tokens, whole) if teacher else 0.0
    with_branches, without = (student_flops(x, rows, tokens, whole) for x in (config, plain))
    return (asked + with_branches) / (asked + without)


def memory(config: Config, precision: str, half: bool, ranks: int, tokens: float) -> dict[str, int]:
    """Memory of one rank during training in bytes, by content. Activations are an estimate.

    precision: of the student's computation; weights, gradients and moments are fp32. half: whether teachers compute in
    fp16. tokens: n of the widest batch.
    """
    student, size, train = config.student, student_size(config), config.train
    parts = ranks if train.zero_stage else 1
    gradients = 4 * size.parameters // (ranks if train.zero_stage == 2 else 1)
    if not train.zero_stage and train.idle_branches == "still" and (student.detach or student.mixers == "none"):
        # Linear maps of idle branches have no gradients; with ZeRO shards, DeepSpeed fills in zeros.
        idle = 0 if student.branch_rank else max(len(config.languages) - 1, 0) * student.branch_depth
        gradients -= 4 * idle * size.layer_weights
    casts = 0 if precision == "fp32" else 2 * (size.parameters - size.embeddings)  # 16-bit copies of weights
    if student.branch_rank:  # sums of base and difference of the trained branches
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
    """Bytes kept by a training step for its backward pass, in words of `word` bytes; an upper estimate.

    Each layer keeps 34 bytes per feature of a token and 5 per attention weight in half precision; dropout masks are
    2 and 1 of these (Korthikanti et al. 2022, "Reducing Activation Recomputation", Eq. 2). Each trained mixer keeps the
    states of all branches twice.
    """
    student, size = config.student, student_size(config)
    N, K = len(config.languages), student.branch_depth
    layer = size.width * (16 * word + 2) + size.heads * tokens * (2 * word + 1)
    mixed = K > 0 and student.mixers != "none"
    kept = size.layers + (0 if student.detach or not mixed else (N - 1) * K)
    # A last layer that computes only the first position keeps less.
    less = 0.5 * (1 - flops.last_layer(student, size, rows, tokens) / size.layer(rows, tokens))
    mixers = ((K if student.mixers == "all" else 1) if mixed else 0) * 2 * N * size.width * word
    return rows * tokens * ((kept - less) * layer + mixers)


def disk(config: Config, heldout_rows: int) -> dict[str, int]:
    """Bytes of a run directory: model and logits, which remain, and checkpoints, which are deleted at the end.

    heldout_rows: of all measured splits and languages.
    """
    size, classes = student_size(config), len(label_names(config.task))
    return {
        "finished": 4 * size.parameters + heldout_rows * (4 * classes + 8),
        "checkpoints": CHECKPOINTS * size.parameters * (4 + _state(config)),
    }


def _state(config: Config) -> int:
    """Bytes of optimizer state per parameter: Adam's moments and, with shards, DeepSpeed's copy of weights."""
    return 12 if config.train.zero_stage else 8


@functools.cache
def _student_size(student: Student, languages: tuple[str, ...], length: int, classes: int) -> Size:
    with torch.device("meta"):
        return _counted(flops.size(_empty(student, languages, length, classes)), student.backbone)


@functools.cache
def _teacher_size(path: str, classes: int) -> Size:
    with torch.device("meta"):
        return _counted(flops.plain_size(_classifier(path, classes)), path)


def _counted(size: Size | None, path: str) -> Size:
    if size is None:
        raise UserError(
            f"{path}: its cost cannot be estimated, because FLOPs are counted only for equal layers that each run once"
        )
    return size


def _empty(student: Student, languages: tuple[str, ...], length: int, classes: int) -> Any:
    if student.grow is not None:
        raise UserError("student.grow: the cost of growing a model cannot be estimated")
    if student.head == "own":
        return _classifier(student.backbone, classes)
    fields = student.model_dump(exclude={"backbone", "head", "grow"})
    branches = languages if student.branch_depth else ()
    config = MBLMConfig(shape(student.backbone).to_dict(), branches, mixer_length=length, num_labels=classes, **fields)
    return MBLMForSequenceClassification(config)


def _classifier(path: str, classes: int) -> Any:
    config = copy.deepcopy(shape(path))
    config.num_labels = classes
    model = AutoModelForSequenceClassification.from_config(config)
    backbones.narrow_classifier(model)
    return model
