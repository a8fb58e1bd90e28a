"""How a job starts and ends on one machine: the devices of its ranks, and errors of torch that a user can mend."""

import pytest
import torch

from mbkd.errors import UserError
from mbkd.train.job import mendable
from mbkd.train.launch import _devices


def test_ranks_take_the_visible_devices_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _devices(1) == ["3"]
    assert _devices(2) == ["3", "5"]
    with pytest.raises(UserError, match="names 2 devices only"):
        _devices(3)


@pytest.mark.parametrize("names", ["GPU-8932f937,GPU-73a4c2d1", "MIG-40f43250,MIG-a0c9b3f2"])
def test_devices_may_be_named_by_their_uuids(monkeypatch: pytest.MonkeyPatch, names: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert ",".join(_devices(2)) == names


@pytest.mark.parametrize("names", ["", "-1"])
def test_devices_that_are_hidden_stay_hidden(monkeypatch: pytest.MonkeyPatch, names: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert _devices(2) == ["-1", "-1"]


def test_memory_that_does_not_suffice_ends_in_what_to_change():
    with pytest.raises(RuntimeError) as of_the_system:
        torch.empty(2**60)
    of_a_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    for error in (of_the_system.value, of_a_gpu):
        assert "raise train.accumulation" in mendable(error)
    assert not mendable(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
