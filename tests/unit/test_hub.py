"""Claims about requests to the hub: their number, and retries of a busy hub. A local hub counts the requests."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import run
from tests.hub import Hub, serving
from tests.unit.test_tasks import hub_folder

# A run's hub requests for its rows before the first step: twice, and then in a child process like a rank.
DATASET_REQUESTS = """
import subprocess, sys
from pathlib import Path
from mbkd import errors
from mbkd.config import Task
from mbkd.data import hub, tasks
hub.keep(Path(sys.argv[1]))
task = Task(kind="xnli", path="someone/xnli", supervised=("en", "fr"), zero_shot=("zh",))
for _ in range(2):
    for split in tasks.splits(task):
        for language in tasks.languages(task, split):
            print(split, language, tasks.fingerprint(task, split, language))
if len(sys.argv) == 2:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[0] or CODE, sys.argv[1], "child"]).returncode)
"""
DATASET_REQUESTS = f"CODE = {DATASET_REQUESTS!r}\n{DATASET_REQUESTS}".replace("sys.argv[0] or CODE", "CODE")


@pytest.fixture
def hub(tmp_path: Path):
    hub_folder(tmp_path / "repository", "en", "fr", "zh")
    with serving(Hub(tmp_path / "repository")) as served:
        yield served


def run_against(hub: Hub, folder: Path, code: str = DATASET_REQUESTS, home: str = "home"):
    """Run code against the hub; `home` is the cache folder of the hub's libraries."""
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HOME": str(folder / home)}
    return run(sys.executable, "-c", code, folder / "store", **online, HF_HUB_DISABLE_XET="1", timeout=60)


def dataset_requests(hub: Hub) -> list[str]:
    return [path for path in hub.requests if "someone/xnli" in path]


def test_a_process_requests_the_revision_once_and_its_children_do_not(hub: Hub, tmp_path: Path):
    first = run_against(hub, tmp_path)
    assert first.returncode == 0, first.stderr
    hub.requests.clear()
    second = run_against(hub, tmp_path, home="another machine's")
    assert second.returncode == 0, second.stderr
    assert dataset_requests(hub) == ["GET /api/datasets/someone/xnli"]
    assert second.stdout == first.stdout
    lines = second.stdout.splitlines()
    assert len(lines) == 4 * 5 and len(set(lines)) == 5  # two processes, twice each; zh has no training rows


def test_a_new_revision_is_another_dataset_and_the_last_revision_is_used_offline(hub: Hub, tmp_path: Path):
    before = run_against(hub, tmp_path).stdout
    hub.revision = "f" * 40
    after = run_against(hub, tmp_path).stdout
    assert after and not set(before.splitlines()) & set(after.splitlines())
    hub.url = "http://127.0.0.1:9"  # no server listens on this port
    assert run_against(hub, tmp_path, home="empty").stdout == after


@pytest.mark.parametrize("harm", ["damaged", "not writable"])
def test_a_harmed_store_of_facts_costs_requests_and_nothing_else(harm: str, hub: Hub, tmp_path: Path):
    before = run_against(hub, tmp_path).stdout
    (facts,) = (tmp_path / "store").glob("hub/*.json")
    if harm == "damaged":
        facts.write_text("{")
    else:
        shutil.rmtree(facts.parent)
        facts.parent.write_text("")
    after = run_against(hub, tmp_path)
    assert before and after.stdout == before, after.stderr


def test_a_request_to_a_busy_hub_is_retried(hub: Hub, tmp_path: Path):
    hub.busy = 3  # the client sends the first request itself, before any data set
    done = run_against(hub, tmp_path, DATASET_REQUESTS.replace("errors\n", "errors\nerrors.WAITS = (0.1, 0.2)\n", 2))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("429") == done.stderr.count("trying again in") == 2


def test_a_permanently_busy_hub_gives_a_separate_exit_code(hub: Hub, tmp_path: Path):
    hub.busy = 1000
    file = tmp_path / "config.yaml"
    backbone = tmp_path / "repository"
    file.write_text(f"task: {{kind: xnli, path: someone/xnli}}\nstudent: {{backbone: {backbone}}}\n", encoding="utf-8")
    code = f"""
import sys
from mbkd import cli, errors
errors.WAITS = (0.1, 0.2)
sys.argv = ["mbkd", "data", {str(file)!r}, "distill.signal=labels"]
cli.main()
"""
    done = run_against(hub, tmp_path, code)
    assert done.returncode == 69, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: someone/xnli: ") and "tried 3 times" in done.stderr
    assert done.stderr.count("trying again in") == 2
    hub.busy = 0
    assert run_against(hub, tmp_path, code).returncode == 0


# A run's hub requests for its models before the first step, and again in a child process.
MODEL_REQUESTS = """
import subprocess, sys
from pathlib import Path
from mbkd.data import offline
from mbkd.data.classifiers import cached_revision, configuration, fingerprint
from mbkd.data.tokens import load_tokenizer, tokenizer_fingerprint
model = "someone/model"
offline.if_unreachable([model])
print(configuration(model)["hidden_size"], fingerprint(model, Path(sys.argv[1])), cached_revision(model))
print(tokenizer_fingerprint(model), len(load_tokenizer(model)))
if len(sys.argv) == 2:
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", CODE, sys.argv[1], "child"], check=True)
"""
MODEL_REQUESTS = f"CODE = {MODEL_REQUESTS!r}\n{MODEL_REQUESTS}"
LOAD = "from mbkd.distill import teachers\nteachers.load(model)\n"


@pytest.fixture
def model_hub(world: Path):
    with serving(Hub(world / "models" / "teacher-en", "someone/model", kind="models")) as served:
        yield served


def test_a_models_revision_is_requested_once_and_shared_with_child_processes(model_hub: Hub, tmp_path: Path):
    first = run_against(model_hub, tmp_path, MODEL_REQUESTS + LOAD)
    assert first.returncode == 0, first.stderr
    newest = [x for x in model_hub.requests if "someone/model" in x and model_hub.revision not in x]
    assert newest == [f"{how} /someone/model/resolve/main/config.json" for how in ("HEAD", "GET")]
    fetched = [x for x in model_hub.requests if x.startswith("GET /someone/model/resolve/")]
    assert len(fetched) == len(set(fetched)) and fetched[-1].endswith(f"{model_hub.revision}/model.safetensors")
    lines = first.stdout.splitlines()
    assert lines[:2] == lines[2:] and lines[0].count(f"someone/model@{model_hub.revision}") == 2
    old, model_hub.revision = model_hub.revision, "f" * 40
    after = run_against(model_hub, tmp_path, MODEL_REQUESTS).stdout
    assert after == first.stdout.replace(old, "f" * 40)
    model_hub.url = "http://127.0.0.1:9"  # no server listens on this port
    assert run_against(model_hub, tmp_path, MODEL_REQUESTS).stdout == after
