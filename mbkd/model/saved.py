"""A trained classifier on disk: its folder, model, tokenizer and maximum length."""

import re
from collections.abc import Iterator, Mapping
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
from mbkd.config import language_key
from mbkd.data.readers import one_line
from mbkd.errors import UserError
from mbkd.model import positions
from mbkd.result import Result

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # a user's or an organisation's model
# Errors of damaged or inconsistent model files. RuntimeError: shapes of weights; StrictDataclassError: types in
# config.json.
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError, StrictDataclassError)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn errors of a model's files into a UserError: `what`, and the first line of the reason."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{what} ({one_line(error)})") from None


def folder(path: Path | str) -> Path:
    """Folder of a model, from the folder, a run directory or a hub id (downloads files). Raises UserError."""
    if not Path(path).exists() and HUB_ID.fullmatch(str(path)):
        with refusing(f"{path}: neither a folder nor a model on the hub"):
            path = snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"])
    path = Path(path)
    found = path / "model" if (path / "model").is_dir() else path
    if not (found / "config.json").is_file():
        if (path / result.FILE).is_file() and Result.read(path).role == "ensemble":
            make = "create the model with `mbkd ensemble RUN RUN --out FOLDER`"
            raise UserError(f"{path}: an ensemble without a model; {make}")
        raise UserError(f"{path}: neither a run directory nor a model's folder (no config.json)")
    return found


def load_configuration(path: Path) -> Any:
    """Configuration in a model's folder. Raises UserError if unreadable."""
    with refusing(f"{path}: cannot be loaded"):
        return AutoConfig.from_pretrained(path)


def load(path: Path) -> Any:
    """Classifier in a model's folder, in fp32 and in evaluation mode. Raises UserError if unreadable."""
    with refusing(f"{path}: cannot be loaded"):
        return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model with its tokenizer as a transformers folder. Raises UserError if writing fails.

    The saved tokenizer truncates (`truncation=True`) at the model's maximum length.
    """
    tokenizer.model_max_length = max_tokens(model.config, tokenizer)
    with refuse_unwritten(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def refuse_unwritten(folder: Path) -> Iterator[None]:
    """Turn errors of writing a model's files into a UserError."""
    try:
        yield
    except Exception as error:  # OSError, SafetensorError, and the tokenizer library's bare Exception
        room = "if the disk is full, make room; then run the same command again"
        raise UserError(f"{folder}: the model cannot be written ({one_line(error)}); {room}") from None


def max_tokens(config: PreTrainedConfig, tokenizer: Any) -> int:
    """Maximum tokens of a classifier. An MBLM takes at most its training length, also without mixers."""
    if config.model_type == "mbkd-ensemble":
        return min(max_tokens(member, tokenizer) for member in config.member_configs)
    made_for = config.mixer_length if config.model_type == "mblm" else tokenizer.model_max_length
    there = positions.of(config.to_dict())
    return int(made_for if there is None else min(there, made_for))


def spelling(config: Any, language: str | None) -> str | None:
    """The spelling of a language in a model's branches and temperatures, such as pt_BR for pt-br.

    A language that the model does not know is returned unchanged.
    """
    if language is None:
        return None
    each = [config, *getattr(config, "member_configs", ())]  # an ensemble's members
    names = [name for one in each for name in getattr(one, "branch_languages", ())]
    names += getattr(config, "calibration_temperatures", {})
    return next((name for name in names if language_key(name) == language_key(language)), language)


def takes_language(config: PreTrainedConfig) -> bool:
    """Whether a classifier accepts the language of a batch."""
    return config.model_type in ("mblm", "mbkd-ensemble")


def calibrate(
    model: Any, temperature: float | None, temperatures: Mapping[str, float] | None = None
) -> tuple[float | None, dict[str, float]]:
    """Set the divisors of the logits of a student or ensemble; return the old ones.

    temperature: of rows without a language, and of languages that `temperatures` lacks. None: no division.
    temperatures: by language.
    """
    config, new = model.config, (temperature, dict(temperatures or {}))
    before = (getattr(config, "calibration_temperature", None), getattr(config, "calibration_temperatures", {}))
    if before != new:
        config.calibration_temperature, config.calibration_temperatures = new
    return before


@contextmanager
def raw_logits(model: Any) -> Iterator[None]:
    """Disable calibration temporarily: saved, distilled and averaged logits are raw."""
    before = calibrate(model, None)
    try:
        yield
    finally:
        calibrate(model, *before)


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
