"""The fields of a configuration, frozen and validated, and its hash.

One `Config` is one training run. Omitted fields take the paper's values. docs/decisions.md explains the defaults
that the paper leaves open.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from mbkd.config import names, structures
from mbkd.errors import UserError

SPLITS = ("train", "dev", "test")


class Section(BaseModel):
    """A section of the configuration. Sections are frozen; unknown keys and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def language_key(language: str) -> str:
    """Return a language code in the form used for comparisons: pt-br for pt_BR."""
    return language.strip().lower().replace("_", "-")


class Columns(Section):
    """The columns of the user's own files, and the format of CSV and TSV files.

    header: whether the first line names the columns; without a header, their names are 1, 2, 3.
    quoted: whether quotes enclose fields or are part of the text; None detects this in the file.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    language: str | None = "language"
    id: str | None = None
    header: bool = True
    quoted: bool | None = None

    @model_validator(mode="after")
    def _label_is_not_the_text(self) -> Columns:
        if self.label in (self.text, self.text_pair):
            raise ValueError(f"column {self.label!r} is both the text and the label; name another column")
        return self


class Task(Section):
    """The classification task: its languages, labels and files.

    kind xnli, marc: `path` is a folder with the official files, or a hub id (facebook/xnli).
    kind own: `files` maps train, dev and test to a CSV, TSV, JSON, JSONL or parquet file. `{language}` in a
    file name stands for the language. If `path` is a hub id, `files` maps to the names of its splits.
    """

    kind: Literal["xnli", "marc", "own"]
    path: str | None = None
    files: dict[str, str] = {}
    columns: Columns = Columns()
    labels: tuple[str, ...] = ()
    ordinal: bool = False
    supervised: tuple[str, ...] = ("en", "fr", "zh")
    zero_shot: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1, description="use only the first rows of every split and language")

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_text(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        # Only types that keep their text are converted: YAML turns `yes` into True, and rewrites times of day.
        return tuple(str(label) if type(label) in (int, float, date) else label for label in value)

    @model_validator(mode="after")
    def _complete(self) -> Task:
        if not self.supervised:
            raise ValueError("supervised needs at least one language")
        seen = self.supervised + self.zero_shot
        keys = [language_key(x) for x in seen]
        if repeated := sorted({x for x in seen if keys.count(language_key(x)) > 1}):
            raise ValueError(f"language named twice: {', '.join(repeated)}")
        if unfit := [x for x in seen if "/" in x]:
            raise ValueError(
                f"language {unfit[0]!r}: must not contain a slash, because files are named after it; "
                "write zh-Hans, for example"
            )
        if self.kind != "own":
            if self.path is None:
                raise ValueError(f"path is required: a folder with the {self.kind.upper()} files, or a hub id")
            if self.files or self.labels:
                raise ValueError(f"files and labels are for kind 'own' only; {self.kind} has fixed ones")
            return self
        if unknown := sorted(set(self.files) - set(SPLITS)):
            raise ValueError(f"files has the unknown split {unknown[0]!r}; the splits are {', '.join(SPLITS)}")
        if "train" not in self.files:
            raise ValueError("files needs at least a 'train' entry")
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must list two or more different label names, in the order of the classes")
        return self

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages in the order of the tables: supervised languages first."""
        return self.supervised + self.zero_shot

    @property
    def pairs(self) -> bool:
        """Whether a row has two texts, as in XNLI and MARC."""
        return self.kind != "own" or self.columns.text_pair is not None


class Student(Section):
    """The student: a backbone, and the branches that make it an MBLM (Eq. 5-12).

    branch_depth K = 0 is the plain backbone. branch_position, mixers, heads, inference and detach are the paper's
    ablations; MBLMConfig describes them. head `linear` is dropout and a linear layer on the first position. head `own`
    is the backbone's own classification model, which has no branches.

    grow names the new language of a trained MBLM, whose folder is `backbone`. The model gets a branch for this
    language, and trains on it alone. `mbkd grow` copies the other fields from the trained model.
    """

    backbone: str
    branch_depth: int = Field(0, ge=0)
    branch_rank: int = Field(0, ge=0, description="rank of each branch's difference from shared layers; 0: copies")
    branch_position: Literal["bottom", "top"] = "bottom"
    mixers: Literal["all", "outer", "none"] = "all"
    heads: Literal["shared", "per_language"] = "shared"
    inference: Literal["all", "single"] = "all"
    detach: bool = True
    idle_dropout: bool = True
    head: Literal["linear", "own"] = "linear"
    grow: str | None = None

    @model_validator(mode="after")
    def _own_head_has_no_branches(self) -> Student:
        if self.head == "own" and self.branch_depth > 0:
            raise ValueError("head 'own' has no branches: set branch_depth to 0 or head to linear")
        return self

    @model_validator(mode="after")
    def _grows_among_branches(self) -> Student:
        if self.grow is not None and not self.branch_depth:
            raise ValueError("grow needs a model with branches: set branch_depth to the trained model's value, not 0")
        return self

    @model_validator(mode="after")
    def _is_a_structure(self) -> Student:
        try:
            structures.check(self.branch_position, self.mixers, self.heads, self.inference)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self


class Training(Section):
    """Training hyperparameters (paper, Experimental Setup; otherwise TextBrewer's MNLI example)."""

    lr: float = Field(2e-5, gt=0)
    epochs: float = Field(3, gt=0)
    batch_size: int = Field(32, ge=1, description="global batch, over all ranks and accumulation steps")
    accumulation: int = Field(1, ge=1)
    max_length: int = Field(128, ge=8)
    warmup: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    eps: float = Field(1e-8, gt=0)
    draw: Literal["uniform", "proportional", "shuffled"] = "uniform"
    draw_alpha: float = Field(1.0, ge=0, description="draw=proportional: probability ~ rows ** alpha")
    group_by_length: bool = True
    idle_branches: Literal["still", "drift"] = "still"
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deterministic: bool = Field(False, description="bitwise reproducible on a GPU, at some cost in speed")
    compile: bool = Field(False, description="compile the layers; pad each batch to one of a few widths")
    evaluate: Literal["epoch", "end"] = Field(
        "epoch", description="measure dev after every epoch, or only after the last step; the model is the same"
    )

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _stage_3_is_refused(cls, value: Any) -> Any:
        if str(value) == "3":
            raise ValueError(
                "ZeRO stage 3 applies stale gradients to branches without a gradient in a step; use 0, 1 or 2"
            )
        return int(value) if str(value) in {"0", "1", "2"} else value

    @model_validator(mode="after")
    def _divides(self) -> Training:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        return self


class Teacher(Section):
    """A teacher: a checkpoint to fine-tune with `mbkd teach`, or an already fine-tuned checkpoint."""

    model: str
    fine_tuned: bool = False
    weight: float = Field(1.0, gt=0, description="relative weight if a language has several teachers")


class HiddenPair(Section):
    """A student layer and the teacher layer that it learns from. Layers are counted from 1."""

    student: int = Field(ge=1)
    teacher: int = Field(ge=1)


class Distill(Section):
    """The training signal and the loss (Eq. 1-4).

    signal `labels` is MultiTrain: hard labels, no teacher. `online` runs the teachers in every step. `cache` runs each
    teacher once over all rows, and every run on the machine reads the cached logits.
    """

    signal: Literal["labels", "online", "cache"] = "online"
    temperature: float = Field(8.0, gt=0)
    temperatures: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="per language; overrides temperature"
    )
    tau_squared: bool = False
    hard_label_weight: float = Field(0.0, ge=0, le=1)
    hidden: tuple[HiddenPair, ...] = ()
    hidden_weight: float = Field(1.0, gt=0, description="weight of the hidden-state loss, if `hidden` is set")
    allow_chance_teachers: bool = False
    languages: tuple[str, ...] = Field((), description="languages to train on; empty: all supervised ones")

    @model_validator(mode="before")
    @classmethod
    def _without_placement(cls, value: Any) -> Any:
        """Drop the removed field `placement` of older configurations, which did not affect results."""
        if isinstance(value, dict) and "placement" in value:
            if value["placement"] != "device":
                raise ValueError(
                    f"placement = {value['placement']!r}: the field was removed; teachers stay on the device. "
                    "Delete placement, or set signal to 'cache' if the teachers do not fit on the device"
                )
            return {name: each for name, each in value.items() if name != "placement"}
        return value

    @model_validator(mode="after")
    def _hidden_needs_running_teachers(self) -> Distill:
        if self.hidden and self.signal != "online":
            raise ValueError(f"hidden needs signal 'online': {self.signal!r} gives no hidden states of the teachers")
        return self

    def temperature_of(self, language: str) -> float:
        """Return the temperature for a language's batches."""
        return self.temperatures.get(language, self.temperature)


class Config(Section):
    """One training run."""

    role: Literal["student", "teacher"] = "student"
    task: Task
    student: Student
    teachers: dict[str, tuple[Teacher, ...]] = {}  # in YAML a mapping or a list of mappings
    teaching: Training = Training()
    distill: Distill = Distill()
    train: Training = Training()
    seed: int = Field(1, ge=0)

    @field_validator("teachers", mode="before")
    @classmethod
    def _one_teacher_or_several(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {x: teacher if isinstance(teacher, (list, tuple)) else (teacher,) for x, teacher in value.items()}

    @field_serializer("teachers", mode="wrap")
    def _one_stays_a_mapping(self, value: Any, serialize: Any) -> Any:
        return {x: several[0] if len(several) == 1 else several for x, several in serialize(value).items()}

    @model_validator(mode="after")
    def _teachers_fit(self) -> Config:
        for language, teachers in self.teachers.items():
            models = [teacher.model for teacher in teachers]
            if not models:
                raise ValueError(f"teachers.{language}: the list is empty")
            if repeated := sorted({x for x in models if models.count(x) > 1}):
                raise ValueError(f"teachers.{language}: {repeated[0]} is named twice")
        if unknown := [x for x in self.distill.temperatures if x not in self.languages]:
            raise ValueError(
                f"distill.temperatures: {unknown[0]!r} is not a trained language ({', '.join(self.languages)})"
            )
        if self.distill.hidden and self.student.head == "own":
            raise ValueError("distill.hidden needs student.head = linear")
        return self

    @model_validator(mode="after")
    def _languages_fit(self) -> Config:
        if unknown := [x for x in self.distill.languages if x not in self.task.supervised]:
            raise ValueError(f"distill.languages: {unknown[0]!r} is not supervised ({', '.join(self.task.supervised)})")
        if (new := self.student.grow) is not None and new not in self.task.supervised:
            raise ValueError(f"student.grow: {new!r} is not supervised ({', '.join(self.task.supervised)})")
        if unknown := [x for x in self.teachers if x not in self.task.supervised]:
            if unknown[0] in self.task.zero_shot:
                raise ValueError(
                    f"teachers: {unknown[0]!r} is a zero-shot language; move it from task.zero_shot to "
                    "task.supervised, or remove its teacher"
                )
            raise ValueError(f"teachers: {unknown[0]!r} is not supervised ({', '.join(self.task.supervised)})")
        if self.distill.signal != "labels" and (missing := [x for x in self.languages if x not in self.teachers]):
            raise ValueError(
                f"teachers: no teacher for {', '.join(missing)}; add one, or train with distill.signal=labels"
            )
        return self

    @property
    def languages(self) -> tuple[str, ...]:
        """The trained languages in the task's order. Each has a branch."""
        if self.student.grow is not None:
            return (self.student.grow,)
        return tuple(x for x in self.task.supervised if not self.distill.languages or x in self.distill.languages)

    @property
    def system(self) -> str:
        """The system's name in the paper's tables."""
        if self.role == "teacher":
            return f"Teacher {self.languages[0]}"
        student = self.student
        structure = structures.name(
            student.branch_position, student.mixers, student.heads, student.inference, student.detach
        )
        rank = f", rank {student.branch_rank}" if student.branch_rank else ""
        if student.grow is not None:
            return (
                f"MBLM{structure}{rank} + {student.grow} ({'labels' if self.distill.signal == 'labels' else 'teacher'})"
            )
        name = ("Multi" if len(self.languages) > 1 else "Mono") + ("Train" if self.distill.signal == "labels" else "KD")
        return f"{name} + MBLM{structure}{rank}" if student.branch_depth else name

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits over all non-default values, without unused teachers."""
        taught = () if self.distill.signal == "labels" else self.languages
        return names.digest(names.hashed_values(self.model_dump(mode="json", exclude_defaults=True), taught))

    @property
    def first_hash(self) -> str | None:
        """The hash of the first schema, as in the names of older runs; None if a field is set that it lacks."""
        values, differing = self.model_dump(mode="json"), self.model_dump(mode="json", exclude_defaults=True)
        hashed = names.first(values, differing)
        return None if hashed is None else names.digest(hashed)

    @property
    def slug(self) -> str:
        """The system's name in the form used in directory names."""
        return re.sub(r"[^a-z0-9]+", "-", self.system.lower()).strip("-")

    @property
    def run_name(self) -> str:
        """The run directory's name: a readable part, and the hash, which makes the name unique."""
        return self._named(self.hash)

    @property
    def first_run_name(self) -> str | None:
        """The run directory's name in the first schema; None if a field is set that the first schema lacks."""
        return None if (found := self.first_hash) is None else self._named(found)

    def _named(self, found: str) -> str:
        return f"{self.task.kind}-{self.slug}-s{self.seed}-{found}"

    def teacher_run(self, language: str, index: int = 0) -> Config:
        """Return the run that fine-tunes a teacher: hard labels, its own head, one language."""
        return Config(
            role="teacher",
            task=self.task.model_copy(update={"supervised": (language,), "zero_shot": ()}),
            student=Student(backbone=self.teachers[language][index].model, head="own"),
            distill=Distill(signal="labels"),
            train=self.teaching,
            seed=1,  # the same teachers for all student seeds
        )

    def dump(self) -> str:
        """Return the resolved configuration as YAML. Parsing the YAML gives an equal `Config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
