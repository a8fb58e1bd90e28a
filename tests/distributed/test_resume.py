"""Claims about stopped runs: they resume to the result of an uninterrupted run, and every fault is named."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from mbkd import distributed
from mbkd.train.checkpoint import Schedule
from mbkd.train.launch import free_port
from tests.conftest import ENVIRONMENT, ROOT, deepspeed, mbkd, run, scalars

STEPS_BETWEEN = 7
EPOCHS = 5
STEPS = 21 * EPOCHS


@pytest.fixture(scope="module")
def config(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MultiTrain + MBLM for about a hundred quick steps."""
    values = {
        "task": {"kind": "marc", "path": str(world / "data"), "zero_shot": ["de"]},
        "student": {"backbone": str(world / "models" / "student"), "branch_depth": 2},
        "distill": {"signal": "labels"},
        "train": {"lr": 1e-3, "epochs": EPOCHS, "batch_size": 8},
    }
    file = tmp_path_factory.mktemp("resume") / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def command(config: Path, runs: Path, *more: str, ranks: int = 1) -> list[str]:
    return [
        *(sys.executable, "-m", "mbkd", "train", str(config), *more, "--runs", str(runs)),
        *("--ranks", str(ranks), "--checkpoint-steps", str(STEPS_BETWEEN)),
    ]


def start(config: Path, runs: Path, *more: str, ranks: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(config, runs, *more, ranks=ranks),
        env=ENVIRONMENT,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_everything(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the command, the launcher and every rank at once, as in a power loss."""
    below = tree(process)
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(below, timeout=20)
    process.communicate()


def step_reached(runs: Path) -> int:
    steps = [int(p.name.removeprefix("step-")) for p in runs.glob("*/checkpoints/step-*")]
    return max(steps, default=0)


def wait_for_step(runs: Path, step: int, process: subprocess.Popen[str]) -> None:
    while step_reached(runs) < step and process.poll() is None:
        time.sleep(0.002)


def outcome(runs: Path) -> dict[str, object]:
    """Return the result of a run: the bytes of model and logits, and all numbers except times."""
    (directory,) = (p.parent for p in runs.glob("*/result.json"))
    result = json.loads((directory / "result.json").read_text())
    for timed in ("train_seconds", "step_seconds"):
        del result[timed]
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for timed in ("sequences_per_second", "step_seconds", "gflop_per_second"):
            line.pop(timed, None)
    points = Counter((name, step) for name, step, _ in scalars(directory))
    assert set(points.values()) == {1}  # TensorBoard has no step twice, independent of the number of kills
    assert {step for _, step in points} <= {line["step"] for line in lines}
    files = [directory / "model" / "model.safetensors", *sorted(directory.glob("logits/*"))]
    return {"result": result, "metrics": lines} | {f.name: f.read_bytes() for f in files}


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, f"{name} differs from the uninterrupted run"


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    runs = tmp_path_factory.mktemp("uninterrupted")
    done = run(*command(config, runs))
    assert done.returncode == 0, done.stderr
    assert not list(runs.glob("*/checkpoints"))  # a finished run needs no checkpoint
    return outcome(runs)


def interrupted(config: Path, runs: Path, kills: int) -> dict[str, object]:
    """Return the outcome of a run that is killed at random times, half of them while writing a checkpoint."""
    chance = random.Random(kills)
    for step in sorted(chance.sample(range(1, STEPS - 10), kills)):
        process = start(config, runs)
        wait_for_step(runs, step // STEPS_BETWEEN * STEPS_BETWEEN, process)
        if chance.random() < 0.5:
            while process.poll() is None and not list(runs.glob("*/checkpoints/.step-*.part")):
                time.sleep(0.0005)
            time.sleep(chance.random() * 0.01)
        else:
            time.sleep(chance.random() * 0.1)
        kill_everything(process)
    done = run(*command(config, runs))
    assert done.returncode == 0, done.stderr
    return outcome(runs)


def test_a_run_killed_three_times_equals_an_uninterrupted_run(config: Path, uninterrupted, tmp_path: Path):
    assert_same(interrupted(config, tmp_path, 3), uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_twenty_times_equals_an_uninterrupted_run(config: Path, uninterrupted, tmp_path: Path):
    assert_same(interrupted(config, tmp_path, 20), uninterrupted)


def test_sigterm_writes_a_checkpoint_and_exits_with_the_documented_code(config: Path, uninterrupted, tmp_path: Path):
    process = start(config, tmp_path)
    wait_for_step(tmp_path, 14, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped after step" in errors
    assert step_reached(tmp_path) > 0
    done = run(*command(config, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    assert_same(outcome(tmp_path), uninterrupted)


def test_checkpoints_follow_the_clock_if_no_steps_are_given(config: Path, tmp_path: Path):
    def started(runs: Path, *more: str) -> subprocess.Popen[str]:
        by_time = command(config, runs, "train.epochs=40")[:-2]
        return subprocess.Popen([*by_time, *more], env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)

    quick = started(tmp_path / "quick", "--checkpoint-minutes", "0")
    wait_for_step(tmp_path / "quick", 1, quick)
    assert step_reached(tmp_path / "quick") == 20  # checks are one metrics record apart, not one step
    kill_everything(quick)

    process = started(tmp_path / "default")
    lines = tmp_path / "default"
    while process.poll() is None and sum(x.read_text().count("dev") for x in lines.glob("*/metrics.jsonl")) < 3:
        time.sleep(0.01)
    assert step_reached(tmp_path / "default") == 0  # three epochs take less than ten minutes
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode == 75 and step_reached(tmp_path / "default") > 60


@pytest.mark.parametrize("epoch", [100, 5000, 7000])
def test_checkpoints_take_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch, epoch: int):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    schedule, took, spent = Schedule(minutes=10.0, written=0.0, epoch=0.0), 30.0, 0.0
    distributed.start()
    try:
        while now[0] < 24 * 3600:
            now[0] += 20.0
            if schedule.due(1, epoch_ends=now[0] % epoch < 20):
                now[0], spent = now[0] + took, spent + took
                schedule.wrote(took)
    finally:
        distributed.stop()
    assert 0.004 < spent / now[0] < 0.01
    assert Schedule(minutes=10.0, steps=3).at(6) and not Schedule(minutes=10.0, steps=3).at(7)


def test_ctrl_c_leaves_no_orphan(config: Path, tmp_path: Path):
    process = start(config, tmp_path, ranks=2)
    wait_for_step(tmp_path, 7, process)
    below = tree(process)
    assert len(below) >= 4  # the command, the launcher, the ranks
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent exits")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_command_leaves_no_orphan(config: Path, tmp_path: Path, ranks: int):
    process = start(config, tmp_path, ranks=ranks)
    wait_for_step(tmp_path, 7, process)
    below = tree(process)
    assert len(below) >= 2
    process.kill()  # as Ray ends the processes of a worker
    _, alive = psutil.wait_procs(below, timeout=30)
    process.communicate()
    assert alive == []
    assert step_reached(tmp_path) < STEPS
    assert not list(tmp_path.glob("*/result.json"))


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(config: Path, uninterrupted, tmp_path: Path):
    process = start(config, tmp_path)
    wait_for_step(tmp_path, 28, process)
    kill_everything(process)
    newest = max(tmp_path.glob("*/checkpoints/step-*"))
    file = max(newest.rglob("*.pt"), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # one bit
    file.write_bytes(data)
    done = run(*command(config, tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{file.name} is damaged" in done.stderr
    assert newest.name in done.stderr
    assert_same(outcome(tmp_path), uninterrupted)


def test_a_checkpoint_of_other_versions_or_precision_is_refused_and_fresh_starts_over(config: Path, tmp_path: Path):
    process = start(config, tmp_path)
    wait_for_step(tmp_path, 7, process)
    kill_everything(process)
    manifests = list(tmp_path.glob("*/checkpoints/step-*/manifest.json"))
    others = {"version of torch": "1.13.0", "precision": "bf16"}
    for manifest in manifests:
        values = json.loads(manifest.read_text())
        assert all(values["made_from"][what] != was for what, was in others.items())
        values["made_from"] |= others
        manifest.write_text(json.dumps(values))
    done = run(*command(config, tmp_path))
    assert done.returncode == 2
    for what, was in others.items():
        assert f"{what}: was '{was}'" in done.stderr
    assert "--fresh" in done.stderr
    assert run(*command(config, tmp_path), "--fresh").returncode == 0


def test_a_second_process_on_a_run_is_refused(config: Path, tmp_path: Path):
    long = "train.epochs=500"  # still active when the second process starts
    process = start(config, tmp_path, long)
    wait_for_step(tmp_path, 7, process)
    second = run(*command(config, tmp_path, long))
    fresh = run(*command(config, tmp_path, long), "--fresh")
    kill_everything(process)
    for done in (second, fresh):
        assert done.returncode == 2
        assert "another process is working on this run" in done.stderr


def test_a_killed_rank_ends_the_job_with_the_reason(config: Path, tmp_path: Path):
    process = start(config, tmp_path, ranks=2)
    wait_for_step(tmp_path, 7, process)
    ranks = [p for p in tree(process) if "mbkd.train.job" in p.cmdline() and not p.children()]
    assert len(ranks) == 2
    ranks[1].kill()
    died = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - died < 30  # a documented bound, not a measured speed
    assert process.returncode not in (0, 75)
    assert "signal 9" in errors
    assert "Traceback" not in errors
    assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_loss_that_is_not_finite_stops_the_run_with_step_language_and_rows(config: Path, tmp_path: Path):
    done = run(*command(config, tmp_path, "train.lr=1e30"))
    assert done.returncode == 2, done.stderr
    assert "step " in done.stderr and "language " in done.stderr
    assert "not finite" in done.stderr
    assert "_0" in done.stderr  # an id of the toy's rows
    assert "Traceback" not in done.stderr


def test_an_unwritable_folder_is_named(config: Path):
    done = mbkd("train", config, "--runs", "/dev/null/runs")
    assert done.returncode == 2
    assert "/dev/null/runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_named_and_the_previous_checkpoint_is_kept(config: Path, uninterrupted, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk)
    if mounted.returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    try:
        process = start(config, disk)
        wait_for_step(disk, 7, process)
        kill_everything(process)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(free - 50_000))
        done = run(*command(config, disk))
        assert done.returncode == 2, done.stderr
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert step_reached(disk) > 0
        (disk / "filler").unlink()
        done = run(*command(config, disk))
        assert done.returncode == 0, done.stderr
        assert "resuming after step" in done.stderr
        assert_same(outcome(disk), uninterrupted)
    finally:
        run("umount", disk)


def test_ranks_that_disagree_on_the_plan_stop_before_the_first_step(config: Path, tmp_path: Path):
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "from mbkd.train.job import main\n"
        "main([*sys.argv[1:], f'seed={os.environ[\"RANK\"]}'])\n"  # each rank draws other languages
    )
    done = deepspeed(2, "--no_local_rank", script, config, "--runs", tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the ranks disagree on the steps' languages or rows (rank 0: " in done.stderr


def test_a_port_of_another_job_is_named(config: Path, tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        done = run(sys.executable, "-m", "mbkd.train.job", config, "--runs", tmp_path, **address)
    assert done.returncode == 69, done.stderr
    assert f"cannot connect at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_taken_after_its_choice_is_replaced(config: Path, tmp_path: Path):
    script = tmp_path / "command.py"
    script.write_text(
        "import socket, sys\n"
        "from mbkd import cli\n"
        "from mbkd.train import launch\n"
        "free_port, taken = launch.free_port, []\n"
        "def first_a_taken_one():\n"
        "    if not taken:\n"
        "        taken.append(socket.create_server(('127.0.0.1', 0)))\n"
        "        return str(taken[0].getsockname()[1])\n"
        "    return free_port()\n"
        "launch.free_port = first_a_taken_one\n"
        "cli.main()\n"
    )
    done = run(sys.executable, script, *command(config, tmp_path, "train.epochs=0.1", ranks=2)[3:])
    assert done.returncode == 0, done.stderr
    assert "the port is in use" in done.stderr and "trying again in" in done.stderr


def test_two_nodes_started_by_hand_give_the_result_of_one_node(config: Path, tmp_path: Path):
    short = "train.epochs=1"
    one = run(*command(config, tmp_path / "one", short, ranks=2))
    assert one.returncode == 0, one.stderr
    hosts = tmp_path / "hostfile"
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    common = ["deepspeed", "--hostfile", str(hosts), "--no_ssh", "--master_addr", "127.0.0.1"]
    common += ["--master_port", free_port()]
    nodes = [
        subprocess.Popen(
            [*common, "--node_rank", str(node), "launchers/distill.py", str(config), short,
             "--runs", str(tmp_path / "two"), "--checkpoint-steps", str(STEPS_BETWEEN)],
            env=ENVIRONMENT | {"LOCAL_SIZE": "2"}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for node in (0, 1)
    ]  # fmt: skip
    for node in nodes:
        output, _ = node.communicate(timeout=240)
        assert node.returncode == 0, output
    assert_same(outcome(tmp_path / "two"), outcome(tmp_path / "one"))


def test_another_number_of_ranks_resumes_at_stage_0_and_is_refused_at_stage_1(config: Path, tmp_path: Path):
    for stage, code in (("0", 0), ("1", 2)):
        runs = tmp_path / stage
        process = start(config, runs, f"train.zero_stage={stage}", ranks=2)
        wait_for_step(runs, 7, process)
        kill_everything(process)
        done = run(*command(config, runs, f"train.zero_stage={stage}"))
        assert done.returncode == code, done.stderr
        assert ("resuming after step" if code == 0 else "ranks: was 2, is 1") in done.stderr
