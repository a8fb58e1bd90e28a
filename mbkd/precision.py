"""What a model computes in: its weights are fp32, its matrix products fp32, bf16 or fp16 by autocast (decision 31)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mbkd.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(wanted: str, device: torch.device) -> str:
    """The precision of a configuration's `train.precision` on a device: fp32, bf16 or fp16.

    auto: fp32 on a CPU, elsewhere bf16 where the device has it, else fp16. Raises UserError for what it does not have.
    """
    there = _supported(device)
    if wanted == "auto":
        return "fp32" if device.type == "cpu" else "bf16" if "bf16" in there else "fp16"
    if wanted not in there:
        raise UserError(f"train.precision = {wanted}: this device does not support it; use auto")
    return wanted


def of_model(config: Any, device: torch.device) -> str:
    """The precision in which a saved model answers: the one of its training, or `auto` where the device lacks it.

    config: the model's transformers configuration.
    """
    trained = getattr(config, "train_precision", "auto")
    return choose(trained if trained in _supported(device) else "auto", device)


def autocast(kind: str, device: torch.device) -> AbstractContextManager[Any]:
    """Within this context matrix products are computed in the precision `kind`; the caller computes losses in fp32."""
    return nullcontext() if kind == "fp32" else torch.autocast(device.type, DTYPES[kind])


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within `autocast`: what is computed here keeps the precision of its arguments."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def _supported(device: torch.device) -> set[str]:
    if device.type == "cpu":
        return {"fp32", "bf16"} | ({"fp16"} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else set())
    # A T4 or V100 has bf16 in software only, slower than fp32.
    emulated = device.type == "mps" or (
        device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return {"fp32", "fp16"} | (set() if emulated else {"bf16"})
