"""The text of a new configuration: facts of the rows, default values, suggested models, and comments."""

from pathlib import Path
from typing import Any

import yaml

from mbkd.onboarding.languages import base
from mbkd.onboarding.summary import Taken

BACKBONE = "FacebookAI/xlm-roberta-base"
# Encoders that fine-tune well. Their tokenizers need no other program, and return the model's segment ids.
TEACHERS = {
    "ar": "aubmindlab/bert-large-arabertv02",
    "de": "deepset/gbert-large",
    "en": "FacebookAI/roberta-large",
    "es": "dccuchile/bert-base-spanish-wwm-cased",
    "fi": "TurkuNLP/bert-base-finnish-cased-v1",
    "fr": "almanach/camembert-large",
    "hi": "google/muril-large-cased",
    "it": "dbmdz/bert-base-italian-xxl-cased",
    "ko": "klue/roberta-large",
    "nl": "DTAI-KULeuven/robbert-2023-dutch-large",
    "pl": "sdadas/polish-roberta-large-v2",
    "pt": "neuralmind/bert-large-portuguese-cased",
    "ru": "ai-forever/ruBert-large",
    "sv": "KB/bert-base-swedish-cased",
    "tr": "dbmdz/bert-base-turkish-cased",
    "zh": "hfl/chinese-roberta-wwm-ext-large",
}
MULTILINGUAL_TEACHER = "FacebookAI/xlm-roberta-large"


def text(given: str, out: Path, kind: str, path: str | None, taken: Taken, backbone: str, teachers: bool) -> str:
    """Return a configuration in YAML, with comments."""
    supervised = taken.supervised
    named = {x: name for x, name in taken.columns.items() if name is not None or x == "language"}
    train = ", ".join(f"{x} {rows:,}" for x, rows in taken.training_rows().items())
    measured = ", ".join(f"{x} {rows:,}" for x, rows in taken.measured_rows().items()) or "none"
    depth = _depth(backbone) if len(supervised) > 1 else 0
    mappings = "\n".join(
        f"  {_yaml(x)}: {{model: {_yaml(TEACHERS.get(base(x), MULTILINGUAL_TEACHER))}}}" for x in supervised
    )
    if teachers:
        signal, listed = "online", f"teachers:\n{mappings}"
    else:
        signal = "labels"
        listed = "# teachers:" + f"\n{mappings}".replace("\n", "\n# ")
    where = f"\n  path: {_yaml(path)}" if path else ""
    kinds = "CSV, TSV, JSON, JSONL or parquet; {language} in a name means the language"
    rows_are = f"""\
  files: {_yaml(taken.files)}  # {"the hub's split names" if path else kinds}
  columns: {_yaml(named)}
  labels: {_yaml(taken.labels)}  # in the order of the classes
  ordinal: {_yaml(taken.ordinal)}  # true: ordered steps of a scale; evaluation adds the mean absolute error
"""
    if kind != "own":
        rows_are = ""  # XNLI and MARC have fixed columns and labels
    return f"""\
# Written by `mbkd init {given}`. Next: mbkd data {out}{", mbkd teach" if teachers else ""}, mbkd train.
# Change any value here, or for one run on the command line: mbkd train {out} train.lr=3e-5
task:
  kind: {kind}{where}
{rows_are}  supervised: {_yaml(supervised)}  # trained on; rows: {train}
  zero_shot: {_yaml(taken.zero_shot)}  # evaluated only; rows: {measured}
student:
  backbone: {_yaml(backbone)}  # hub id or folder of a multilingual encoder
  branch_depth: {depth}  # number of layers with a branch per supervised language; 0: plain encoder
# A monolingual encoder per language. `mbkd teach` fine-tunes it, unless fine_tuned: true marks a classifier.
{listed}
teaching: {{lr: 1e-5, epochs: 3}}
distill:
  signal: {signal}  # online: teachers run in every step; cache: they run once; labels: hard labels, no teachers
train: {{lr: 2e-5, epochs: 5, batch_size: 32, max_length: 128}}
seed: 1
"""


def step_cost(backbone: str, languages: int) -> float:
    """Return the FLOPs of a training step with branches, divided by those of the plain encoder.

    One branch runs forward and backward; the other branches run only forward.
    """
    layers, depth = _layers(backbone), _depth(backbone)
    return (3 * (layers - depth) + depth * (languages + 2)) / (3 * layers)


def _depth(backbone: str) -> int:
    """Return a third of the layers, as in the paper (4 of 12)."""
    return max(1, _layers(backbone) // 3)


def _layers(backbone: str) -> int:
    """Return the number of layers of a local backbone; 12 for other backbones."""
    try:
        values = yaml.safe_load((Path(backbone) / "config.json").read_text(encoding="utf-8"))  # JSON is YAML
        return int(values["num_hidden_layers"])
    except (OSError, ValueError, KeyError):
        return 12


def _yaml(value: Any) -> str:
    """Return a value as one line of YAML."""
    shown = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return str(shown).removesuffix("...\n").strip()
