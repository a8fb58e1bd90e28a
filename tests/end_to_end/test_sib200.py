"""Claims about the recipe `sib200-e5`, with folders in the hub's layout at the paths of the hub ids."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mbkd.config import paper, sib200
from mbkd.demo import toy
from tests.conftest import run

LANGUAGES = {"eng_Latn": "en", "fra_Latn": "fr", "zho_Hans": "zh", "deu_Latn": "de"}
ROWS = {"train": 21, "dev": 14, "test": 14}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A folder with Davlan/sib200 and two tiny encoders."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "Davlan" / "sib200"
    lines = ["---", "configs:"]
    for code, language in LANGUAGES.items():
        lines += [f"- config_name: {code}", "  data_files:"]
        (repository / "data" / code).mkdir(parents=True)
        texts = iter(toy.unlabelled(language, sum(ROWS.values())))
        for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
            file = repository / "data" / code / f"{name}.tsv"
            rows = [f"{i}\t{sib200.LABELS[i % 7]}\t{next(texts)[0]}" for i in range(ROWS[name])]
            file.write_text("\n".join(["index_id\tcategory\ttext", *rows, ""]), encoding="utf-8")
            lines += [f"  - split: {split}", f"    path: data/{code}/{name}.tsv"]
    (repository / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    (folder / "intfloat").mkdir()
    for name in ("multilingual-e5-small", "multilingual-e5-base"):
        (folder / "intfloat" / name).symlink_to(world / "models" / "student")
    return folder


def test_the_recipe_has_every_language_of_the_data_set_once():
    task = paper.recipes()["sib200-e5"].task
    assert len(task.languages) == len(set(sib200.LANGUAGES)) == 205
    assert task.supervised == sib200.SUPERVISED


def mbkd(hub: Path, command: str, *words: str) -> Any:
    """Run `mbkd COMMAND sib200-e5 --json` in that folder with small settings; K is 1 for encoders of two layers."""
    small = ["task.zero_shot=[deu_Latn]", "student.branch_depth=1", "distill.allow_chance_teachers=true"]
    small += [f"{section}.{value}" for section in ("train", "teaching") for value in ("epochs=1", "batch_size=7")]
    done = run(sys.executable, "-m", "mbkd", command, "sib200-e5", *small, *words, "--json", cwd=hub)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_recipe_reads_the_hubs_layout_by_name(hub: Path):
    found = mbkd(hub, "data")
    assert not found["problems"]
    read = {(x["split"], x["language"]): x["rows"] for x in found["splits"]}
    every = {(split, code): count for split, count in ROWS.items() for code in LANGUAGES}
    del every["train", "deu_Latn"]
    assert read == every


def test_the_recipe_trains_on_labels_only(hub: Path):
    result = mbkd(hub, "train", "distill.signal=labels", "--ranks", "1")
    assert result["system"] == "MultiTrain + MBLM"
    assert set(result["accuracy"]["test"]) == set(LANGUAGES)


@pytest.mark.slow
def test_the_recipe_trains_teachers_caches_logits_and_trains_the_student(hub: Path):
    assert len(mbkd(hub, "teach", "--ranks", "1")) == 3
    result = mbkd(hub, "train", "--ranks", "1")
    assert result["system"] == "MultiKD + MBLM"
    assert result["step_seconds"]["teacher"] == "cache"
