"""Shared fixtures: one small world of reviews and encoders, and the commands of a user."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbkd.train.launch import free_port

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no process of a test waits for the hub
ROOT = Path(__file__).parents[1]
XNLI = ROOT.parent / "shared" / "data" / "xnli"

# One thread per process, because the threads of several processes would otherwise compete for two cores.
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "COLUMNS": "200",
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def full_disk(largest: int = 100) -> Iterator[None]:
    """Limit the size of this process's files in bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def run(
    *command: str | Path, timeout: float = 300, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with output as text; `environment` holds additional variables."""
    return subprocess.run(
        [str(x) for x in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=ENVIRONMENT | environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def mbkd(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `mbkd ARGUMENTS` in a new process."""
    return run(sys.executable, "-m", "mbkd", *arguments, timeout=timeout)


def deepspeed(ranks: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `deepspeed --num_gpus RANKS ARGUMENTS` on a free port, for tests in parallel."""
    return run("deepspeed", "--num_gpus", str(ranks), "--master_port", free_port(), *arguments)


def scalars(run: Path) -> list[tuple[str, int, float]]:
    """Return every number in a run's TensorBoard files, including duplicates: name, step, value."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(run.glob("tensorboard/events*")):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):  # a length of 8 bytes, 4 of its checksum, the event, 4 of its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            if len(data) < at + 12 + length:
                break  # a process was killed while writing
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few toy reviews (data/) and random encoders of 2 layers x 32 with their tokenizers (models/)."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        CamembertConfig,
        CamembertForMaskedLM,
        RobertaConfig,
        RobertaForMaskedLM,
        XLMRobertaConfig,
        XLMRobertaForMaskedLM,
    )

    from mbkd.demo import toy, toy_models

    folder = tmp_path_factory.mktemp("world")
    toy.write_reviews(folder / "data", train=60, dev=20, test=20)
    texts = {x: [part for pair in toy.unlabelled(x, 60) for part in pair] for x in ("en", "fr", "zh", "de", "es", "ja")}
    tokenizers = {
        "student": (toy_models.unigram(texts, 100), XLMRobertaConfig, XLMRobertaForMaskedLM),
        "teacher-en": (toy_models.byte_level_bpe(texts["en"], 400), RobertaConfig, RobertaForMaskedLM),
        "teacher-fr": (toy_models.unigram({"fr": texts["fr"]}, 200), CamembertConfig, CamembertForMaskedLM),
        "teacher-zh": (toy_models.word_piece(texts["zh"], 400), BertConfig, BertForMaskedLM),
    }
    for name, (tokenizer, config, model) in tokenizers.items():
        torch.manual_seed(0)
        made = model(
            config(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=130,
                pad_token_id=tokenizer.pad_token_id,
                type_vocab_size=2 if name == "teacher-zh" else 1,
            )
        )
        made.save_pretrained(folder / "models" / name)
        tokenizer.save_pretrained(folder / "models" / name)
    return folder


@pytest.fixture(scope="session")
def toy_yaml(world: Path) -> Path:
    """A configuration of MultiKD + MBLM on the small world, as a user's YAML file."""
    models = world / "models"
    values = {
        "task": {"kind": "marc", "path": str(world / "data"), "zero_shot": ["de", "es", "ja"]},
        "student": {"backbone": str(models / "student"), "branch_depth": 1},
        "teachers": {x: {"model": str(models / f"teacher-{x}")} for x in ("en", "fr", "zh")},
        "teaching": {"lr": 1e-3, "epochs": 2, "batch_size": 8},
        "distill": {"allow_chance_teachers": True},  # sixty rows are too few to learn
        "train": {"lr": 1e-3, "epochs": 1, "batch_size": 8},
    }
    file = world / "toy.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def random_student(folder: Path, world: Path, seed: int = 0, branch_depth: int = 1, **fields: Any) -> Path:
    """Write a student with three classes, two branches, random weights and random mixers; return its folder."""
    import torch
    from transformers import AutoTokenizer

    from mbkd.model.mblm import MBLMForSequenceClassification

    backbone, labels = world / "models" / "student", ("bad", "fair", "good")
    torch.manual_seed(seed)
    model = MBLMForSequenceClassification.from_pretrained(
        backbone,
        branch_languages=("en", "fr"),
        branch_depth=branch_depth,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        **fields,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one random student."""
    return random_student(tmp_path_factory.mktemp("student"), world)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser that keeps its error log."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking no-first-run"
    for switch in switches.split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
