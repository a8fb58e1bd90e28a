"""A trained classifier on disk: where it lies, the model, its tokenizer, how many tokens it takes."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from mbkd.errors import UserError


def folder(path: Path) -> Path:
    """The model's folder, given it or a run directory. Raises UserError if there is none."""
    found = path / "model" if (path / "model").is_dir() else path
    if not (found / "config.json").is_file():
        result = path / "result.json"
        if result.is_file() and json.loads(result.read_text(encoding="utf-8")).get("role") == "ensemble":
            make = "`mbkd export RUN RUN --ensemble --out FOLDER` makes one of its members"
            raise UserError(f"{path}: an ensemble's scores, without a model; {make}")
        raise UserError(f"{path}: neither a run directory nor a model's folder (no config.json)")
    return found


def load(path: Path) -> Any:
    """The classifier in a model's folder, in fp32 and in evaluation mode. Raises UserError if it cannot be loaded."""
    try:
        return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be loaded ({str(error).strip().splitlines()[0]})") from None


def load_tokenizer(path: Path) -> Any:
    """The tokenizer beside a model. Raises UserError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer beside the model ({str(error).strip().splitlines()[0]})") from None


def max_tokens(config: PreTrainedConfig, tokenizer: Any) -> int:
    """The longest input that a classifier was made for; of an MBLM what it was trained with, with or without mixers."""
    if config.model_type == "mbkd-ensemble":
        return min(max_tokens(member, tokenizer) for member in config.member_configs)
    if config.model_type == "mblm":
        return int(config.mixer_length)
    positions = config.max_position_embeddings
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):  # they count from the padding's id on
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length))


def takes_language(config: PreTrainedConfig) -> bool:
    """Whether a classifier may be told the language of a batch."""
    return config.model_type in ("mblm", "mbkd-ensemble")


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
