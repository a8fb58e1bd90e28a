"""Ranks, devices, and collective operations, with DeepSpeed's accelerator and process group only."""

import atexit
import ctypes
import functools
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# DeepSpeed warns about a missing GPU on import. `quiet` controls its later messages.
logging.disable(logging.WARNING)
import deepspeed  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402

logging.disable(logging.NOTSET)


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # the environment of a rank without a launcher


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the world size, and the device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0


def quiet() -> None:
    """Hide messages and warnings of DeepSpeed, torch and transformers. Errors are still shown."""
    import warnings

    import transformers

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"torch\.|deepspeed\.")


def start() -> Ranks:
    """Join the launcher's process group, or form a group of one rank without a launcher.

    Collective: all ranks must call.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    if "RANK" not in os.environ:  # no launcher
        os.environ.update(ALONE)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            # Each rank uses its share of the cores, because ranks would otherwise compete for them.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
        device = torch.device("cpu")
        # The shared-memory all-reduce serves tensor-parallel inference only; its first use compiles for 40 s.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _keep_memory()
    else:
        accelerator.set_device(local)
        device = torch.device(accelerator.device_name(local))
    if os.environ["WORLD_SIZE"] == "1" and not torch.distributed.is_initialized():
        # A local store instead of a TCP port, which another program could use.
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend(), store=store, rank=0, world_size=1)
        atexit.register(stop)  # after an error, too; with several ranks, the call could wait for a lost rank
    deepspeed.init_distributed(verbose=False)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _keep_memory() -> None:
    """Let the C library keep freed memory for the next step, as torch does with GPU memory.

    By default, every large block returns to the system, which zeroes its pages at the next allocation. This takes a
    tenth of a step or more (PERFORMANCE.md).
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc; the numbers are from its malloc.h
        library.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap, too
        library.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


def stop() -> None:
    """Leave the process group, to avoid a warning of torch at exit. Collective: all ranks must call."""
    _cpu_group.cache_clear()  # the next process group needs a new one
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # unlike torch's function, this also drops DeepSpeed's cached groups
    if "LOCAL_SIZE" not in os.environ and ALONE.items() <= os.environ.items():
        # `start` has set these variables. Jobs that a notebook starts later must not inherit them.
        for name in ALONE:
            os.environ.pop(name, None)


def half_supported() -> bool:
    """Whether the device supports fp16 (a CPU needs AVX512-FP16)."""
    return torch.float16 in get_accelerator().supported_dtypes()


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on the device. A GPU copies it asynchronously."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def deterministic(wanted: bool) -> None:
    """Make torch bitwise reproducible on a GPU, or as fast as possible if `wanted` is False.

    An operation without a deterministic implementation raises RuntimeError. A CPU is reproducible in both cases.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product runs
    torch.use_deterministic_algorithms(wanted)


def tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return a batch of arrays as tensors on the device, without the attention mask if no row is padded.

    The host checks the padding, because a check by the model would read the device and stall its queue.
    """
    mask = batch.get("attention_mask")
    left_out = {"attention_mask"} if mask is not None and mask.all() else set()
    return {name: to_device(values, device) for name, values in batch.items() if name not in left_out}


def backend() -> str:
    """Return the communication backend of the ranks."""
    return str(get_accelerator().communication_backend_name())


def synchronize() -> None:
    """Wait for the device, for correct time measurements."""
    get_accelerator().synchronize()


def device_name(ranks: Ranks) -> str:
    """Return the name of the device."""
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_name(ranks.device)
    return f"{ranks.device.type}, {torch.get_num_threads()} threads a rank"


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place. Collective: all ranks must call."""
    torch.distributed.all_reduce(tensor)
    return tensor


def all_gather_object(value: Any) -> list[Any]:
    """Gather a small object of every rank, by rank. Collective: all ranks must call.

    Communicates on the CPU, to avoid waiting for a GPU's queue.
    """
    if torch.distributed.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value, group=_cpu_group())
    return values


@functools.cache
def _cpu_group() -> Any:
    """Return the CPU process group: the default group if it uses gloo. Collective at its first call."""
    return None if torch.distributed.get_backend() == "gloo" else torch.distributed.new_group(backend="gloo")


def wait_for_all() -> None:
    """Wait until every rank calls this function. Collective: all ranks must call.

    One rank makes no call of NCCL, which would warn that it guesses the device.
    """
    if torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
