"""Ranks, their devices, and sums over them: the ground on which a process of a job stands.

Of DeepSpeed only the accelerator and the process group are used here.
"""

import ctypes
import functools
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# DeepSpeed warns at import that there is no GPU; what it logs later follows `quiet`.
logging.disable(logging.WARNING)
import deepspeed  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402

logging.disable(logging.NOTSET)


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # of a rank without a launcher


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among the others, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0


def quiet() -> None:
    """Keep the chatter of DeepSpeed, torch and transformers off the screen; errors still show."""
    import warnings

    import transformers

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"torch\.|deepspeed\.")


def start() -> Ranks:
    """Join the process group that the launcher's environment describes; alone without a launcher.

    Collective: all ranks must call.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    if "RANK" not in os.environ:  # started by hand: one rank
        os.environ.update(ALONE)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            # Each rank takes its share of the cores, or the ranks of one machine fight for them.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
        device = torch.device("cpu")
        # The shared-memory all-reduce serves tensor-parallel inference only; its first use compiles for 40 s.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _keep_memory()
    else:
        accelerator.set_device(local)
        device = torch.device(accelerator.device_name(local))
    if (
        os.environ["WORLD_SIZE"] == "1" and not torch.distributed.is_initialized()
    ):  # nobody to meet: no port is taken, so none can be taken already
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend(), store=store, rank=0, world_size=1)
    deepspeed.init_distributed(verbose=False)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _keep_memory() -> None:
    """Let the C library keep what is freed for the next step; torch does the same with a GPU's memory.

    By default every large block goes back to the system, which fills it with zeros, page by page, when it is asked for
    again: a tenth of a step and more (PERFORMANCE.md).
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc; the numbers are from its malloc.h
        library.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap, too
        library.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


def stop() -> None:
    """Leave the process group, so that torch has nothing to warn of at exit. Collective: all ranks must call."""
    _cpu_group.cache_clear()  # the next process group has other ones
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()  # DeepSpeed's own: it forgets the groups that it keeps, too
    if "LOCAL_SIZE" not in os.environ and ALONE.items() <= os.environ.items():  # nothing is left in a notebook
        for name in ALONE:
            os.environ.pop(name, None)


def half_supported() -> bool:
    """Whether the device computes in fp16 (a CPU does with AVX512-FP16 only)."""
    return torch.float16 in get_accelerator().supported_dtypes()


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device; a GPU copies it while the host goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def deterministic(wanted: bool) -> None:
    """Let torch compute the same bits again from the same numbers, on a GPU too; False: as fast as it can.

    An operation without such a way raises RuntimeError. A CPU computes the same bits either way.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product runs
    torch.use_deterministic_algorithms(wanted)


def tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """A batch of arrays as tensors on the device, without the attention mask where nothing is padded.

    The host knows that; a model that has a mask may ask the device, which stops its queue of work.
    """
    mask = batch.get("attention_mask")
    left_out = {"attention_mask"} if mask is not None and mask.all() else set()
    return {name: to_device(values, device) for name, values in batch.items() if name not in left_out}


def backend() -> str:
    """What the ranks talk through."""
    return str(get_accelerator().communication_backend_name())


def synchronize() -> None:
    """Wait for the device, so that a clock read next tells the truth."""
    get_accelerator().synchronize()


def device_name(ranks: Ranks) -> str:
    """What the device calls itself."""
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_name(ranks.device)
    return f"{ranks.device.type}, {torch.get_num_threads()} threads a rank"


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of one tensor over all ranks, in place. Collective: all ranks must call."""
    torch.distributed.all_reduce(tensor)
    return tensor


def all_gather_object(value: Any) -> list[Any]:
    """A small object of every rank, by rank. Collective: all ranks must call.

    Talks on the CPU, so that a GPU's queue of work is not waited for.
    """
    if torch.distributed.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value, group=_cpu_group())
    return values


@functools.cache
def _cpu_group() -> Any:
    """The ranks' process group on the CPU: the default one where that is gloo already. Collective at its first call."""
    return None if torch.distributed.get_backend() == "gloo" else torch.distributed.new_group(backend="gloo")


def wait_for_all() -> None:
    """Return once every rank is here. Collective: all ranks must call."""
    torch.distributed.barrier()
