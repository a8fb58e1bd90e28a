"""The paper's experiments: functions that return configurations, and their names."""

import difflib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from mbkd import config as configuration
from mbkd.config import Config, Student, Task, Teacher, Training, sib200
from mbkd.errors import UserError

BACKBONES = {"mbert": "google-bert/bert-base-multilingual-cased", "xlmr": "FacebookAI/xlm-roberta-base"}
TEACHERS = {
    "en": (Teacher(model="FacebookAI/roberta-large"),),
    "fr": (Teacher(model="almanach/camembert-large"),),
    "zh": (Teacher(model="hfl/chinese-roberta-wwm-ext-large"),),
}
# The models' architectures as transformers configurations, to estimate costs without a download.
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1}
SHAPES: dict[str, dict[str, Any]] = {
    BACKBONES["mbert"]: {"model_type": "bert", "vocab_size": 119547},
    BACKBONES["xlmr"]: {"model_type": "xlm-roberta", "vocab_size": 250002, **_ROBERTA},
    "FacebookAI/roberta-large": {"model_type": "roberta", "vocab_size": 50265, **_ROBERTA, **_LARGE},
    "almanach/camembert-large": {"model_type": "camembert", "vocab_size": 32005, **_ROBERTA, **_LARGE},
    "hfl/chinese-roberta-wwm-ext-large": {"model_type": "bert", "vocab_size": 21128, **_LARGE},
}
SYSTEMS = ("monokd", "multitrain", "multikd", "mblm")
# Table 5: the differences from the full MBLM. The run without mixers is evaluated in two ways:
# `mbkd evaluate RUN CONFIG --inference single` gives the row "(single)".
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-inner-mixers": {"mixers": "outer"},
    "no-mixers": {"mixers": "none"},
    "no-detach": {"detach": False},
    "top": {"branch_position": "top"},
    "multi-classifier": {"branch_position": "top", "heads": "per_language"},
}


def xnli() -> Task:
    """XNLI, languages in the paper's order (Table 3). Training text of fr and zh is machine-translated."""
    zero_shot = ("de", "es", "ru", "ar", "hi", "vi", "bg", "el", "sw", "th", "tr", "ur")
    return Task(kind="xnli", path="facebook/xnli", supervised=("en", "fr", "zh"), zero_shot=zero_shot)


def marc() -> Task:
    """MARC from a local copy, languages in the paper's order (Table 4). No official download exists."""
    return Task(kind="marc", path="data/marc", supervised=("en", "fr", "zh"), zero_shot=("de", "es", "ja"))


def base(task: Task, backbone: str) -> Config:
    """MultiKD + MBLM as the paper trains it. backbone: a hub id or a folder."""
    return Config(task=task, student=Student(backbone=backbone, branch_depth=4), teachers=TEACHERS)


def system(full: Config, name: str) -> Config:
    """Derive a system in SYSTEMS (Tables 3, 4, 7, 8) from MultiKD + MBLM. Raises UserError."""
    plain: dict[str, Any] = {"student": {"branch_depth": 0, "branch_rank": 0}}
    alone = full.task.supervised[:1]
    temperatures = {x: value for x, value in full.distill.temperatures.items() if x in alone}
    changes: dict[str, dict[str, Any]] = {
        "monokd": plain | {"distill": {"languages": alone, "temperatures": temperatures}},
        "multitrain": plain | {"distill": HARD_LABELS},
        "multikd": plain,
        "mblm": {},
    }
    return configuration.changed(full, changes[name])


def ablation(full: Config, name: str) -> Config:
    """Derive a row of Table 5, a name in ABLATIONS, from MultiKD + MBLM. Raises UserError."""
    return configuration.changed(full, {"student": ABLATIONS[name]})


TASKS = {"xnli": xnli, "marc": marc}
HARD_LABELS: dict[str, Any] = {"signal": "labels", "hidden": []}  # fields of `distill` without teachers


def toy(world: Path) -> Config:
    """The demo's teachers: fine-tuned on all labelled rows of the toy world in the folder `world`.

    Small models need larger learning rates than the paper's.
    """
    models = world / "models"
    small = Training(lr=8e-4, epochs=2)
    return Config(
        task=marc().model_copy(update={"path": str(world / "data")}),
        student=Student(backbone=str(models / "student"), branch_depth=1),
        teachers={x: (Teacher(model=str(models / f"teacher-{x}")),) for x in ("en", "fr", "zh")},
        teaching=small,
        train=small,
    )


def toy_students(teachers: Config, trained: dict[str, Path], rows: int) -> Config:
    """The demo's students: distilled with the first `rows` rows of each labelled language.

    trained: {language: model folder of its fine-tuned teacher}.
    """
    fine_tuned = {x: (Teacher(model=str(folder), fine_tuned=True),) for x, folder in trained.items()}
    task = teachers.task.model_copy(update={"limit": rows})
    return teachers.model_copy(update={"task": task, "teachers": fine_tuned})


def recipes() -> dict[str, Config]:
    """Return all named configurations: the paper's experiments, such as xnli-mbert-mblm, and sib200-e5."""
    found: dict[str, Config] = {}
    for (task, make), (backbone, path) in product(TASKS.items(), BACKBONES.items()):
        full = base(make(), path)
        found |= {f"{task}-{backbone}-{name}": system(full, name) for name in SYSTEMS}
    full = base(xnli(), BACKBONES["mbert"])
    found |= {f"xnli-mbert-mblm-{name}": ablation(full, name) for name in ABLATIONS}
    return found | {"sib200-e5": sib200.e5()}


def find(name: str, overrides: list[str]) -> Config:
    """Return the configuration of a YAML file or recipe, with `key=value` overrides. Raises UserError."""
    return configuration.parse(configuration.override(values(name), overrides), name)


def values(name: str) -> dict[str, Any]:
    """Return the values of a YAML file or recipe without validation. Raises UserError."""
    named = recipes()
    if name in named and not Path(name).exists():
        return named[name].model_dump(mode="json")
    if not Path(name).is_file() and not name.endswith((".yaml", ".yml")):
        near = difflib.get_close_matches(name, named, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: neither a file nor a recipe; {hint}`mbkd recipes` lists the names")
    return configuration.read_values(name)


def teacher_runs(config: Config) -> Iterator[Config]:
    """Yield the runs that fine-tune a configuration's teachers, except those that are already fine-tuned."""
    for language in config.languages:
        for index, teacher in enumerate(config.teachers.get(language, ())):
            if not teacher.fine_tuned:
                yield config.teacher_run(language, index)
