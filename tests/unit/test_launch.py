"""Ranks of one machine: watched to their end, none left behind, and none started where devices are missing."""

import signal
import subprocess
import sys

import pytest

from mbkd.errors import STOPPED, UserError
from mbkd.train import launch


def processes(*codes: str) -> list[subprocess.Popen[bytes]]:
    """A process for each piece of Python."""
    return [subprocess.Popen([sys.executable, "-S", "-c", f"import sys, time; {code}"]) for code in codes]


def test_all_ranks_that_end_well_end_the_job_well():
    assert launch._wait(processes("sys.exit(0)", "time.sleep(0.2)")) == 0


def test_the_first_rank_that_fails_takes_the_others_down_and_gives_the_code():
    ranks = processes("time.sleep(0.1); sys.exit(2)", "time.sleep(100)")
    assert launch._wait(ranks) == 2
    assert ranks[1].poll() == -signal.SIGTERM


def test_a_rank_that_was_killed_gives_its_signal():
    ranks = processes("time.sleep(100)")
    ranks[0].kill()
    assert launch._wait(ranks) == -signal.SIGKILL


def test_ranks_that_stop_for_a_signal_are_waited_for():
    ranks = processes(f"sys.exit({STOPPED})", f"time.sleep(0.5); sys.exit({STOPPED})")
    assert launch._wait(ranks) == STOPPED
    assert [rank.poll() for rank in ranks] == [STOPPED, STOPPED]


def test_fewer_visible_devices_than_ranks_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    launch._check_devices(2)
    with pytest.raises(UserError, match="names 2 devices only"):
        launch._check_devices(3)
