"""Devices of the ranks on one machine: those that CUDA_VISIBLE_DEVICES names, or the first ones."""

import pytest

from mbkd.errors import UserError
from mbkd.train.launch import _devices


def test_ranks_take_the_visible_devices_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _devices(2) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _devices(1) == [3]
    assert _devices(2) == [3, 5]
    with pytest.raises(UserError, match="names 2 devices only"):
        _devices(3)
