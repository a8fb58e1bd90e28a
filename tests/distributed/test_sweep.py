"""Claims about sweeps with Ray Tune, by a user's commands: protocols, kills, failures, two nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from mbkd.config import read
from tests.conftest import ENVIRONMENT, ROOT, run
from tuning.trial import Conditions, Job, TrialFailed, failure, work

PLAIN = ("distill.signal=labels", "student.branch_depth=0")  # MultiTrain, without teachers


def sweep(*arguments: str | Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """Run `python -m tuning.sweep ARGUMENTS` in a new process."""
    return run(sys.executable, "-m", "tuning.sweep", *arguments, timeout=timeout)


def progress(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of standard error without the warnings about runs at chance; 60 rows are too few to learn."""
    return [line for line in done.stderr.splitlines() if "no better than the most frequent class" not in line]


def record(runs: Path, experiment: str) -> dict:
    (file,) = (runs / "sweeps").glob(f"{experiment}-*.json")
    return json.loads(file.read_text())


def finished(runs: Path) -> set[str]:
    return {file.parent.name for file in runs.glob("*/result.json")}


def same_logits(a: Path, b: Path) -> bool:
    files = sorted(file.relative_to(a) for file in a.glob("*/logits/*.npy"))
    return bool(files) and all(np.array_equal(np.load(a / file), np.load(b / file)) for file in files)


def processes_of(runs: Path) -> list[psutil.Process]:
    """Return the ranks and commands that use a folder of runs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("mbkd" in part for part in process.info["cmdline"] or []) and str(runs) in process.info["cmdline"]:
            found.append(process)
    return found


def processes_exit(runs: Path, seconds: float = 120) -> bool:
    """Return whether all processes that use a folder of runs exit within `seconds`."""
    deadline = time.monotonic() + seconds
    while processes_of(runs) and time.monotonic() < deadline:
        time.sleep(0.5)
    return not processes_of(runs)


def test_a_sweep_searches_and_confirms_and_a_second_call_does_nothing(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    arguments = ("grid", toy_yaml, *PLAIN, "train.lr=[1e-3,1e-5]", "--protocol", "confirm")
    arguments = (*arguments, "--seeds", "2", "--runs", runs)
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    (group,) = record(runs, "grid")["groups"]
    assert len(finished(runs)) == 3
    assert [each["seeds"] for each in group["searched"]] == [[1], [1]]
    scores = [each["score"] for each in group["searched"]]
    assert group["chosen"]["train.lr"] == (1e-3 if scores[0] >= scores[1] else 1e-5)
    assert len(group["runs"]) == 2
    assert "python -m analysis.report" in done.stdout
    assert "n=2" in done.stdout
    before = {file: file.stat().st_mtime_ns for file in runs.glob("*/result.json")}
    again = sweep(*arguments)
    assert again.returncode == 0, again.stderr
    assert progress(again) == []  # without work, no process is started
    assert {file: file.stat().st_mtime_ns for file in runs.glob("*/result.json")} == before


def test_a_wrong_value_gives_one_message_before_anything_starts(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    for arguments, message in (
        (("grid", toy_yaml, "train.lr=[1e-3,-1]"), "train.lr = -1"),
        (("grid", toy_yaml), "nothing to try"),
        (("mian",), "no such experiment; choose one of main"),
        (("main", "--on", toy_yaml, "--protocol", "fixed", "train.lr=[1,2]"), "fixed takes single values only"),
        (("main", "--on", toy_yaml, "--protocol", "search"), "--range FIELD=LOW:HIGH must be given together"),
        (("main", "--on", "nowhere.yaml"), "nowhere.yaml"),
        (("main", "--on", toy_yaml, "--gpus-per-trial", "1.5"), "--gpus-per-trial 1.5: must be a whole number"),
    ):
        done = sweep(*arguments, "--runs", runs)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not runs.exists()


def test_a_trial_that_fits_on_no_machine_gives_one_message(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    arguments = ("grid", toy_yaml, "--protocol", "search", "--range", "train.lr=1e-4:1e-2", "--runs", runs)
    done = sweep(*arguments, "--cpus-per-trial", "4096")
    assert done.returncode == 2, done.stderr
    assert "a trial of 4096 cores and 0 GPUs fits on no machine; the largest has" in done.stderr
    assert "Traceback" not in done.stderr
    assert not runs.exists()


@pytest.fixture(scope="module")
def own_teachers(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same experiment with classifiers declared as fine-tuned teachers; zh's weights are not finite."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    values, folder = yaml.safe_load(toy_yaml.read_text()), tmp_path_factory.mktemp("teachers")
    for language, teacher in values["teachers"].items():
        names = dict(enumerate("12345"))
        model = AutoModelForSequenceClassification.from_pretrained(teacher["model"], id2label=names)
        if language == "zh":
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))
        model.save_pretrained(folder / language)
        AutoTokenizer.from_pretrained(teacher["model"]).save_pretrained(folder / language)
        teacher |= {"model": str(folder / language), "fine_tuned": True}
    (folder / "own.yaml").write_text(yaml.safe_dump(values))
    return folder / "own.yaml"


@pytest.mark.slow
def test_a_refused_teacher_stops_only_the_runs_that_use_it(own_teachers: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    done = sweep("main", "--on", own_teachers, "--protocol", "fixed", "--seeds", "1", "--runs", runs)
    assert done.returncode == 1, done.stderr
    groups = {group["system"]: group for group in record(runs, "main")["groups"]}
    assert [name for name, group in groups.items() if group["runs"]] == ["MonoKD", "MultiTrain"]
    for name in ("MultiKD", "MultiKD + MBLM"):
        (failed,) = groups[name]["failed"]
        assert "teacher of zh" in failed["reason"]


@pytest.mark.slow
def test_a_cache_built_by_the_second_attempt_is_not_a_failure(own_teachers: Path, tmp_path: Path):
    config = read(own_teachers, ["distill.signal=cache", "distill.languages=[en]", "student.branch_depth=0"])
    job, given = Job(config, "cache"), Conditions(tmp_path, tmp_path, 1, 1, 0, silence=0)
    with pytest.raises(TrialFailed, match="ended after too long without output"):
        work(job, given, lambda _: None)
    assert failure(job.home(tmp_path))["attempts"] == 1
    work(job, replace(given, silence=200), lambda _: None)
    assert list(tmp_path.glob("store/logits/en-*/logits.npy"))
    assert failure(job.home(tmp_path)) == {}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_experiment_runs_end_to_end_by_name(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    lists = ("train.lr=[1e-3,3e-3]", "train.epochs=[1,2]")
    small = ("--on", toy_yaml, "--runs", runs, "--seeds", "2")
    done = sweep("teachers", "--on", toy_yaml, "--runs", runs, "teaching.lr=[1e-3,3e-3]")
    assert done.returncode == 0, done.stderr
    (teachers,) = (runs / "sweeps").glob("teachers-marc-*.yaml")
    assert str(teachers) in done.stdout
    teaching = ("--teachers", teachers)
    done = sweep("main", *small, *teaching, *lists, timeout=2000)
    assert done.returncode == 0, done.stderr
    groups = record(runs, "main")["groups"]
    assert [group["system"] for group in groups] == ["MonoKD", "MultiTrain", "MultiKD", "MultiKD + MBLM"]
    assert all(len(each["runs"]) == 2 for group in groups for each in group["searched"])
    folded = list(runs.glob("marc-multikd-mblm-*-folded/result.json"))  # of the two seeds of the chosen configuration
    assert (len(finished(runs)), len(folded)) == (6 + 4 * 8 + 2, 2)
    assert "MultiKD + MBLM, K=1, folded (n=2)" in done.stdout
    for name in ("ablations", "efficiency", "depth"):
        extra = ("--protocol", "fixed") if name != "depth" else ("--depths", "0,1,2")
        done = sweep(name, *small, *teaching, *extra, timeout=1000)
        assert done.returncode == 0, done.stderr
        assert all(len(group["runs"]) == 2 for group in record(runs, name)["groups"]), name
    (pair,) = runs.glob("marc-ens2-*/result.json")
    assert len(json.loads(pair.read_text())["members"]) == 2
    (costs,) = runs.glob("efficiency-*.json")
    assert set(json.loads(costs.read_text())["systems"]) == {"Single", "Ens2", "MBLM"}
    systems = [group["system"] for group in record(runs, "ablations")["groups"]]
    assert systems[-1] == "MultiKD + MBLM - all mixers (single)"
    single = [json.loads(file.read_text()) for file in runs.glob("*single*/result.json")]
    for each in single:
        trained = json.loads((runs / each["trained_as"] / "result.json").read_text())
        assert each["averages"]["test"]["Z"] == trained["averages"]["test"]["Z"]
        assert each["train_seconds"] == trained["train_seconds"]


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_sweep_killed_three_times_completes_the_remaining_runs(toy_yaml: Path, tmp_path: Path):
    arguments = ("grid", toy_yaml, "train.lr=[1e-3,3e-3]", "--seeds", "2")
    assert sweep(*arguments, "--runs", tmp_path / "quiet", timeout=900).returncode == 0
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "tuning.sweep", *map(str, arguments), "--runs", str(runs)]
    for seconds in (14, 30, 40):
        driver = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done = sweep(*arguments, "--runs", runs, timeout=900)
    assert done.returncode == 0, done.stderr
    assert finished(runs) == finished(tmp_path / "quiet")
    assert same_logits(tmp_path / "quiet", runs)
    assert processes_exit(runs)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_failing_killed_and_hanging_trials_do_not_stop_the_others(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    # 1e30 makes the loss infinite. The second trial is killed below, the third is suspended, the fourth succeeds.
    arguments = ("grid", toy_yaml, *PLAIN, "train.lr=[1e30,1e-3,2e-3,3e-3]", "train.epochs=20")
    arguments = (*arguments, "--seeds", "1", "--retries", "1", "--hang-minutes", "0.5", "--runs", str(runs))
    command = [sys.executable, "-m", "tuning.sweep", *map(str, arguments)]
    driver = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    names = {}
    deadline = time.monotonic() + 900
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        for log in (runs / "sweeps" / "logs").glob("*.yaml"):
            text = log.read_text()
            names |= {lr: log.stem for lr in ("0.001", "0.002") if f"lr: {lr}\n" in text.split("\ntrain:")[-1]}
        for process in processes_of(runs):
            line = " ".join(process.cmdline()) if process.is_running() else ""
            if "mbkd.train.job" in line and "launcher" not in line:
                if names.get("0.001", "-") in line:
                    process.kill()
                elif names.get("0.002", "-") in line:
                    process.suspend()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 1, errors
    (group,) = record(runs, "grid")["groups"]
    reasons = {each["run"]: each["reason"] for each in group["failed"]}
    assert len(reasons) == 3
    assert "not finite" in " ".join(reasons.values())
    assert "ended after too long without output" in reasons[names["0.002"]]
    assert group["chosen"]["train.lr"] == 3e-3
    assert all(name in errors for name in reasons)
    killed = json.loads((runs / names["0.001"] / "failed.json").read_text())
    assert killed["attempts"] == 2
    assert killed["reason"].startswith("killed by signal 9")
    assert processes_exit(runs)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_two_nodes_of_a_cluster_share_the_trials_and_give_the_same_results(toy_yaml: Path, tmp_path: Path):
    arguments = ("grid", toy_yaml, *PLAIN, "train.lr=[1e-3,3e-3]", "--seeds", "2")
    assert sweep(*arguments, "--runs", tmp_path / "alone", timeout=900).returncode == 0
    runs = tmp_path / "runs"
    code = (
        "import subprocess, sys\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})\n"
        "cluster.add_node(num_cpus=1)\n"
        "cluster.wait_for_nodes()\n"
        "done = subprocess.run([sys.executable, '-m', 'tuning.sweep', *sys.argv[1:], '--address', cluster.address])\n"
        "cluster.shutdown()\n"
        "sys.exit(done.returncode)\n"
    )
    done = run(sys.executable, "-c", code, *arguments, "--runs", runs, timeout=900)
    assert done.returncode == 0, done.stderr
    nodes = record(runs, "grid")["nodes"]
    assert len(set(nodes.values())) == 2
    assert same_logits(tmp_path / "alone", runs)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_search_keeps_its_budget_and_resumes(toy_yaml: Path, tmp_path: Path):
    pytest.importorskip("optuna")
    runs = tmp_path / "runs"
    arguments = (
        "grid",
        toy_yaml,
        *PLAIN,
        "--protocol",
        "search",
        "--range",
        "train.lr=1e-4:1e-2",
    )
    arguments = (*arguments, "--seeds", "2", "--runs", runs)
    done = sweep(*arguments, "--budget", "2")
    assert done.returncode == 0, done.stderr
    (group,) = record(runs, "grid")["groups"]
    assert len(group["searched"]) == 2
    assert len(group["runs"]) == 2
    assert progress(sweep(*arguments, "--budget", "2")) == []


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_and_the_same_command_resumes(toy_yaml: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    arguments = (
        "grid",
        toy_yaml,
        *PLAIN,
        "train.lr=[1e-3,3e-3]",
        "--seeds",
        "1",
        "--runs",
        str(runs),
    )
    command = [sys.executable, "-m", "tuning.sweep", *map(str, arguments)]
    driver = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(runs.glob("*/config.yaml")):
        time.sleep(0.2)
        assert driver.poll() is None
    os.kill(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=200)
    assert driver.returncode == 130, errors
    assert "the same command resumes the sweep" in errors
    assert processes_exit(runs)
    assert sweep(*arguments).returncode == 0
    assert len(finished(runs)) == 2
