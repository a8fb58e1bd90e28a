"""Precision of models: fp32 weights; matrix products in fp32, bf16 or fp16 (decision 31)."""

import math
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mbkd.errors import UserError

# Dense peaks in TFLOP/s by precision, from NVIDIA's data sheet of each GPU (half of the sparse peak). fp32 is without
# TF32, which torch disables for matrix products. Other models, such as A10G and H100 NVL, and parts of a GPU (MIG)
# have other peaks and are not listed.
PEAKS: dict[str, dict[str, float]] = {
    "A100": {"bf16": 312, "fp16": 312, "fp32": 19.5},
    "A10": {"bf16": 125, "fp16": 125, "fp32": 31.2},
    "A30": {"bf16": 165, "fp16": 165, "fp32": 10.3},
    "H100": {"bf16": 989, "fp16": 989, "fp32": 67},  # SXM
    "H100-PCIe": {"bf16": 756, "fp16": 756, "fp32": 51},
    "H200": {"bf16": 989, "fp16": 989, "fp32": 67},  # SXM
    "L4": {"bf16": 121, "fp16": 121, "fp32": 30.3},
    "L40S": {"bf16": 362, "fp16": 362, "fp32": 91.6},
    "T4": {"fp16": 65, "fp32": 8.1},
    "V100": {"fp16": 125, "fp32": 15.7},  # SXM2
}
DEVICES = {  # key of PEAKS -> pattern of the name in torch without the vendor, if this name is not the key
    "A100": r"A100[- ](SXM4|PCIE|\d+GB).*",
    "H100": r"H100 \d+GB HBM3",
    "H100-PCIe": "H100 PCIe",
    "V100": r"V100-SXM2-\d+GB",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(wanted: str, device: torch.device) -> str:
    """Return the precision for a configuration's `train.precision` on a device: fp32, bf16 or fp16.

    auto is fp32 on a CPU; on other devices it is bf16 if supported, otherwise fp16. Raises UserError for a precision
    that the device does not support.
    """
    there = _supported(device)
    if wanted == "auto":
        return "fp32" if device.type == "cpu" else "bf16" if "bf16" in there else "fp16"
    if wanted not in there:
        raise UserError(f"train.precision = {wanted}: this device does not support it; use auto")
    return wanted


def of_model(config: Any, device: torch.device) -> str:
    """Return a saved model's precision: that of its training, or `auto` if the device does not support it.

    config: the model's transformers configuration.
    """
    trained = getattr(config, "train_precision", "auto")
    return choose(trained if trained in _supported(device) else "auto", device)


def autocast(kind: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context with matrix products in the precision `kind`. The caller computes losses in fp32."""
    return nullcontext() if kind == "fp32" else torch.autocast(device.type, DTYPES[kind])


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context within `autocast` in which operations keep the precision of their arguments."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def peak(device: str, kind: str) -> float:
    """Return a device's peak in FLOP/s, by its name in torch; nan if the device is not in PEAKS."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device)
    found = [peaks for each, peaks in PEAKS.items() if re.fullmatch(DEVICES.get(each, each), name)]
    return 1e12 * found[0].get(kind, math.nan) if found and "MIG" not in name else math.nan


def _supported(device: torch.device) -> set[str]:
    if device.type == "cpu":
        return {"fp32", "bf16"} | ({"fp16"} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else set())
    # T4 and V100 emulate bf16 in software, which is slower than fp32.
    emulated = device.type == "mps" or (
        device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return {"fp32", "fp16"} | (set() if emulated else {"bf16"})
