"""What a model computes in: its weights are fp32, its matrix products fp32, bf16 or fp16 by autocast (decision 31)."""

import math
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mbkd.errors import UserError

# Dense peaks in TFLOP/s by precision, from NVIDIA's data sheet of each GPU (half of what it says of sparse ones); fp32
# without TF32, which torch leaves off for matrix products. Parts of a GPU (MIG) and what else has another name are not
# here: an A10G or H100 NVL has peaks of its own.
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
DEVICES = {  # what torch calls them, after the maker's name, where it is another name
    "A100": r"A100[- ](SXM4|PCIE|\d+GB).*",
    "H100": r"H100 \d+GB HBM3",
    "H100-PCIe": "H100 PCIe",
    "V100": r"V100-SXM2-\d+GB",
}
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


def peak(device: str, kind: str) -> float:
    """FLOPs per second of a device at its peak, by the name that torch gives it; nan where it is not in PEAKS."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device)
    found = [peaks for each, peaks in PEAKS.items() if re.fullmatch(DEVICES.get(each, each), name)]
    return 1e12 * found[0].get(kind, math.nan) if found and "MIG" not in name else math.nan


def _supported(device: torch.device) -> set[str]:
    if device.type == "cpu":
        return {"fp32", "bf16"} | ({"fp16"} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else set())
    # A T4 or V100 has bf16 in software only, slower than fp32.
    emulated = device.type == "mps" or (
        device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return {"fp32", "fp16"} | (set() if emulated else {"bf16"})
