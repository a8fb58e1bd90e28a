"""The model card: a README.md with the model's use, origin and scores."""

from pathlib import Path
from typing import Any

import yaml

from mbkd.config import Config
from mbkd.errors import UserError
from mbkd.files import write_whole
from mbkd.result import Result, temperatures

LICENCE = "unknown"  # the publisher decides: backbone, teachers and data restrict the licence


def write(folder: Path, config: Config, result: Result) -> None:
    """Write README.md into a model's folder, from the run's configuration and the content of its result.json.

    Raises UserError for a full disk.
    """
    write_whole(folder / "README.md", text(config, result).encode())


def text(config: Config, result: Result) -> str:
    """The card in Markdown, with the hub's metadata on top."""
    scores = [("accuracy x100", result.accuracy, result.averages)]
    if result.mae:
        scores.append(("mean absolute error x100", result.mae, result.mae_averages))
    parts = [
        f"---\n{yaml.safe_dump(_metadata(config), sort_keys=False, allow_unicode=True)}---",
        f"# {_name(config, result)}: {config.task.kind} in {len(config.task.languages)} languages",
        f"A text classifier with the labels {', '.join(result.labels)}, made with mbkd. It needs no language id.",
        "## Use",
        _usage(config, result),
        "## Origin",
        _origin(config, result),
        "## Scores",
        *(_table(title, each, means) for title, each, means in scores),
        "## Configuration",
        f"```yaml\n{yaml.safe_dump(_public(config.model_dump(mode='json')), sort_keys=False, allow_unicode=True)}```",
    ]
    return "\n\n".join(parts) + "\n"


def with_licence(card: str, licence: str) -> str:
    """The card with this licence in its metadata. Raises UserError for a card without metadata."""
    try:
        before, metadata, rest = card.split("---\n", 2)
        values = yaml.safe_load(metadata) | {"license": licence}
    except (ValueError, TypeError, yaml.YAMLError):
        raise UserError("README.md: the licence needs metadata between two lines of --- at the top") from None
    return f"{before}---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n{rest}"


def _metadata(config: Config) -> dict[str, Any]:
    """Metadata of the hub: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    values: dict[str, Any] = {
        "license": LICENCE,
        "language": list(config.task.languages),
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["cross-lingual", "knowledge-distillation", *(["mblm"] if config.student.head == "linear" else [])],
    }
    if not Path(config.student.backbone).exists():
        values["base_model"] = config.student.backbone
    if config.task.path and not Path(config.task.path).exists():
        values["datasets"] = [config.task.path]
    return values


def _name(config: Config, result: Result) -> str:
    """Name of the system; of an ensemble also the members' system and seeds."""
    if result.role != "ensemble":
        return result.system
    return f"{result.system} of {config.system}, seeds {', '.join(map(str, result.seeds))}"


def _usage(config: Config, result: Result) -> str:
    lines = ["from transformers import pipeline", "", 'classify = pipeline("text-classification", "THIS_MODEL")']
    pair = config.task.kind != "own" or config.task.columns.text_pair is not None
    lines.append('classify({"text": "...", "text_pair": "..."})' if pair else 'classify("...")')
    if config.student.head == "linear" or result.role == "ensemble":
        lines.insert(0, "import mbkd  # pip install mbkd; makes the model known to transformers")
    return "\n".join(["```python", *lines, "```"])


def _origin(config: Config, result: Result) -> str:
    student, distill = config.student, config.distill
    # A grown model has labels in all its supervised languages; this run trained the last one.
    labelled = config.task.supervised if student.grow else config.languages
    branches = result.branches
    teachers = [f"{_public(t.model)} ({x})" for x in config.languages for t in config.teachers.get(x, ())]
    rows = {
        "task": config.task.kind,
        "data": _public(config.task.path) or ", ".join(_public(file) for file in config.task.files.values()),
        "languages with labels": ", ".join(labelled),
        "zero-shot languages": ", ".join(x for x in config.task.languages if x not in labelled) or "none",
        "grown from" if student.grow else "backbone": _public(student.backbone),
        "branches": f"{student.branch_depth} layers for each of {', '.join(branches)}" if branches else "none",
        **({"folded from": f"{config.system}, {result.folded_from}"} if result.folded_from else {}),
        "probabilities": _calibrated(result.calibration),
        "teachers": "none: hard labels" if distill.signal == "labels" else ", ".join(teachers),
        "parameters": f"{result.parameters:,}",
        "longest input": f"{config.train.max_length} tokens",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _calibrated(found: dict[str, Any]) -> str:
    """Calibration of the model, in words."""
    if found.get("temperature") is None:
        return "not calibrated: probabilities do not tell how often the label is correct"
    return f"calibrated on dev rows of {', '.join(found['fitted_on'])} ({temperatures(found)})"


def _table(title: str, each: dict[str, Any], means: dict[str, Any]) -> str:
    """Scores by split, with languages and then averages as columns."""
    languages = list(next(iter(each.values()), {}))
    lines = [
        " | ".join(["", title, *languages, *(f"AVG({x})" for x in "SZA"), ""]).strip(),
        " | ".join(["", *["---"] * (len(languages) + 4), ""]).strip(),
    ]
    for split, scores in each.items():
        values = [*(scores[x] for x in languages), *(means[split].get(x) for x in "SZA")]
        cells = ["-" if x is None else f"{100 * x:.2f}" for x in values]
        lines.append(" | ".join(["", split, *cells, ""]).strip())
    return "\n".join(lines)


def _public(value: Any) -> Any:
    """The value without local folders: of an absolute path, only the last part remains."""
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_public(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
