"""A trained classifier on disk: where it lies, the model, its tokenizer, how many tokens it takes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from mbkd import result
from mbkd.data.readers import one_line
from mbkd.errors import UserError
from mbkd.model import positions
from mbkd.result import Result

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # of a user's or an organisation's model
# What a model's files raise that are damaged, that do not fit each other (RuntimeError: other shapes of weights;
# StrictDataclassError: other types of config.json's values).
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError, StrictDataclassError)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what goes wrong with a model's files into a UserError: `what`, and the first line of the reason."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{what} ({one_line(error)})") from None


def folder(path: Path | str) -> Path:
    """The model's folder, given it, a run directory or a hub id, whose files are fetched. Raises UserError."""
    if not Path(path).exists() and HUB_ID.fullmatch(str(path)):
        with refusing(f"{path}: no such folder here, and no model of this name on the hub"):
            path = snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"])
    path = Path(path)
    found = path / "model" if (path / "model").is_dir() else path
    if not (found / "config.json").is_file():
        if (path / result.FILE).is_file() and Result.read(path).role == "ensemble":
            make = "`mbkd ensemble RUN RUN --out FOLDER` makes one of its members"
            raise UserError(f"{path}: an ensemble's scores, without a model; {make}")
        raise UserError(f"{path}: neither a run directory nor a model's folder (no config.json)")
    return found


def load_configuration(path: Path) -> Any:
    """The configuration in a model's folder. Raises UserError if it cannot be read."""
    with refusing(f"{path}: cannot be loaded"):
        return AutoConfig.from_pretrained(path)


def load(path: Path) -> Any:
    """The classifier in a model's folder, in fp32 and in evaluation mode. Raises UserError if it cannot be loaded."""
    with refusing(f"{path}: cannot be loaded"):
        return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model with its tokenizer as a transformers folder. Raises UserError if the disk does not take it.

    The tokenizer is told the longest input that the model takes, where `truncation=True` cuts.
    """
    tokenizer.model_max_length = max_tokens(model.config, tokenizer)
    with refuse_unwritten(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def refuse_unwritten(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise of a disk that does not take a model's files into a UserError."""
    try:
        yield
    except Exception as error:  # OSError, SafetensorError, and the tokenizer library's bare Exception
        room = "if the disk is full, make room; then give the same command again"
        raise UserError(f"{folder}: the model cannot be written ({one_line(error)}); {room}") from None


def max_tokens(config: PreTrainedConfig, tokenizer: Any) -> int:
    """The longest input that a classifier was made for; of an MBLM what it was trained with, with or without mixers."""
    if config.model_type == "mbkd-ensemble":
        return min(max_tokens(member, tokenizer) for member in config.member_configs)
    made_for = config.mixer_length if config.model_type == "mblm" else tokenizer.model_max_length
    there = positions.of(config.to_dict())
    return int(made_for if there is None else min(there, made_for))


def takes_language(config: PreTrainedConfig) -> bool:
    """Whether a classifier may be told the language of a batch."""
    return config.model_type in ("mblm", "mbkd-ensemble")


def calibrate(model: Any, temperature: float | None) -> float | None:
    """Set what a student's or an ensemble's logits are divided by; None: nothing. Returns what it was before."""
    before: float | None = getattr(model.config, "calibration_temperature", None)
    if before != temperature:
        model.config.calibration_temperature = temperature
    return before


@contextmanager
def raw_logits(model: Any) -> Iterator[None]:
    """The model not calibrated, whatever it is otherwise: what is saved, distilled and averaged are raw logits."""
    before = calibrate(model, None)
    try:
        yield
    finally:
        calibrate(model, before)


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
