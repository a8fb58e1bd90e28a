"""Claims about jobs on one machine: the devices of ranks, and errors of torch that a user can fix."""

import errno
import json
import sys
import urllib.error
from email.message import Message
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from mbkd.config import changed, paper
from mbkd.errors import UserError, is_transient, lost_rank
from mbkd.train.job import of_torch
from mbkd.train.launch import _devices, share
from tests.conftest import run


def test_ranks_use_the_visible_devices_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _devices(1) == ["3"]
    assert _devices(2) == ["3", "5"]
    with pytest.raises(UserError, match="names only 2 devices"):
        _devices(3)


@pytest.mark.parametrize("names", ["GPU-8932f937,GPU-73a4c2d1", "MIG-40f43250,MIG-a0c9b3f2"])
def test_devices_may_be_named_by_their_uuids(monkeypatch: pytest.MonkeyPatch, names: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert ",".join(_devices(2)) == names


@pytest.mark.parametrize("names", ["", "-1"])
def test_devices_that_are_hidden_stay_hidden(monkeypatch: pytest.MonkeyPatch, names: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert _devices(2) == ["-1", "-1"]


def test_insufficient_memory_gives_a_message_with_the_options_to_change():
    with pytest.raises(RuntimeError) as of_the_system:
        torch.empty(2**60)
    alone = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    for error in (of_the_system.value, alone):
        assert isinstance(of_torch(error), UserError) and "raise train.accumulation" in str(of_torch(error))
    assert not of_torch(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))


def test_gpu_memory_held_by_another_process_is_a_transient_error():
    message = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 9.12 MiB is "
        "free. Process 4711 has 61.50 GiB memory in use. Including non-PyTorch memory, this process has 17.59 GiB "
        "memory in use. Of the allocated memory 17.1 GiB is allocated by PyTorch."
    )
    found = of_torch(torch.OutOfMemoryError(message))
    assert is_transient(found) and "process 4711 has 61.50 GiB" in str(found)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
        (urllib.error.HTTPError("https://hub", 503, "Service Unavailable", Message(), None), True),
        (urllib.error.HTTPError("https://hub", 404, "Not Found", Message(), None), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (UserError("train.lr = 0"), False),
    ],
)
def test_an_error_caused_by_a_transient_error_is_transient(error: Exception, passes: bool):
    def named() -> None:
        try:
            raise error
        except Exception as reason:
            raise UserError(f"a file cannot be read ({reason})") from None

    with pytest.raises(UserError) as raised:
        named()
    assert is_transient(error) == is_transient(raised.value) == passes


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:51716",
        "NCCL error in: ProcessGroupNCCL.cpp:3356, remote process exited or there was a network error, NCCL version "
        "2.27.5 ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.",
        "NCCL communicator was aborted on rank 0.",
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE) ran",
    ],
)
def test_a_lost_rank_is_recognised_by_messages_of_gloo_and_nccl(message: str):
    assert lost_rank(RuntimeError(message))
    assert not lost_rank(ValueError(message)) and not lost_rank(RuntimeError("out of memory"))


def test_one_rank_uses_no_port_and_no_barrier():
    code = """
import psutil, torch
from mbkd import distributed
torch.distributed.barrier = None
for _ in range(2):  # a process may leave and join again
    ranks = distributed.start()
    assert ranks.world == 1 and distributed.all_gather_object(7) == [7]
    distributed.wait_for_all()
    print([x for x in psutil.Process().net_connections("inet") if x.status == "LISTEN" and x.laddr.port == 29500])
    print(sorted({"MASTER_PORT", "MASTER_ADDR"} & set(__import__("os").environ)))
    distributed.stop()
"""
    done = run(sys.executable, "-c", code)
    assert done.stdout.split() == ["[]"] * 4, done.stdout + done.stderr


def test_a_failed_job_of_one_rank_leaves_its_process_group(toy_yaml: Path, tmp_path: Path):
    """NCCL otherwise warns at exit, below the error message."""
    code = """
import atexit
import sys
import torch
from unittest.mock import patch
atexit.register(lambda: print(torch.distributed.is_initialized()))  # runs after the handlers of the job
from mbkd.errors import UserError
from mbkd.train import job
with patch("mbkd.train.run.run", side_effect=UserError("a reason")):
    job.main(sys.argv[1:])
"""
    done = run(sys.executable, "-c", code, toy_yaml, "--runs", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "False\n", "error: a reason\n")


def test_a_missing_gloo_interface_is_reported_by_the_job_and_by_doctor(toy_yaml: Path, tmp_path: Path):
    job = run(sys.executable, "-m", "mbkd.train.job", toy_yaml, "--runs", tmp_path, GLOO_SOCKET_IFNAME="eth77")
    doctor = run(sys.executable, "-m", "mbkd", "doctor", "--json", GLOO_SOCKET_IFNAME="eth77")
    assert (job.returncode, doctor.returncode) == (2, 1), job.stderr + doctor.stderr
    assert "GLOO_SOCKET_IFNAME=eth77" in job.stderr and "Traceback" not in job.stderr
    (found,) = [x for x in json.loads(doctor.stdout) if x["what"] == "gloo's interface"]
    for message in (job.stderr, found["problem"]):
        assert "no such interface; available: lo 127.0.0.1" in message


def test_the_cost_of_several_ranks_is_reported_before_they_start(tmp_path: Path):
    BertConfig(hidden_size=768, num_hidden_layers=12).save_pretrained(tmp_path)
    config = changed(paper.recipes()["xnli-mbert-mblm"], {"student": {"backbone": str(tmp_path)}})
    message = share(config, 8)
    assert (
        "each computes 4 of the 32 rows of a step" in message
        and "0.34 GB" in message
        and "one rank is faster" in message
    )
    assert "faster" not in share(changed(config, {"train": {"batch_size": 512}}), 8)


def test_teachers_train_in_parallel_if_each_has_a_device(toy_yaml: Path, tmp_path: Path):
    code = (
        "import sys, subprocess\n"
        "from mbkd import cli\n"
        "from mbkd.train import launch\n"
        "launch.devices = lambda: 2\n"
        "start = subprocess.Popen\n"
        "def started(command, **more):\n"
        "    if '--part' in command:\n"
        "        print('job', command[-1], more['env']['CUDA_VISIBLE_DEVICES'], file=sys.stderr)\n"
        "    return start(command, **more)\n"
        "subprocess.Popen = started\n"
        "cli.main()\n"
    )
    done = run(sys.executable, "-c", code, "teach", toy_yaml, "--runs", tmp_path, "--json", CUDA_VISIBLE_DEVICES="5,6")
    assert done.returncode == 0, done.stderr
    assert [x for x in done.stderr.splitlines() if x.startswith("job")] == ["job 0/2 5", "job 1/2 6"]
    assert sorted(x["system"] for x in json.loads(done.stdout)) == ["Teacher en", "Teacher fr", "Teacher zh"]
