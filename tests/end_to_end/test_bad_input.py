"""Claims about a user's mistakes: one clear message on standard error, exit code 2, no partial files."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import mbkd

ROWS = [("good, works", "pos"), ("bad, broke", "neg"), ("fine for me", "pos"), ("no, never", "neg")]


@pytest.fixture
def own(world: Path, tmp_path: Path) -> dict:
    """A valid configuration of the user's own rows (en and fr labelled, de not), and its CSV files."""
    for split in ("train", "dev"):
        lines = ["text,label,language,id"]
        for language in ("en", "fr", "de"):
            lines += [f'"{text}",{label},{language},{language}{i}' for i, (text, label) in enumerate(ROWS)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return {
        "task": {
            "kind": "own",
            "files": {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")},
            "columns": {"id": "id"},
            "labels": ["neg", "pos"],
            "supervised": ["en", "fr"],
            "zero_shot": ["de"],
        },
        "student": {"backbone": str(world / "models" / "student"), "branch_depth": 1},
        "distill": {"signal": "labels"},
        "train": {"lr": 1e-3, "epochs": 1, "batch_size": 2},
    }


def refused(config: dict | str, tmp_path: Path, *expected: str, command: str = "train") -> None:
    """Assert that the command exits with code 2 and one message with the expected parts, and leaves no run."""
    file = tmp_path / "config.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    done = mbkd(command, file, "--runs", tmp_path / "runs")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    progress, _, message = done.stderr.partition("error: ")
    assert all("/" in line for line in progress.splitlines()), progress  # "tokens, ...  0/4  started" on a slow machine
    assert "error: " not in message
    for part in expected:
        assert part in message
    left = [p.name for p in (tmp_path / "runs").glob("*") if p.name != "store"]
    assert left == []
    assert not list(tmp_path.glob("runs/store/tokens/*.part"))


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_valid_configuration_trains(own: dict, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(own))
    done = mbkd("train", file, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    result = json.loads((Path(done.stdout.split()[-1]) / "result.json").read_text())
    assert result["system"] == "MultiTrain + MBLM"
    assert set(result["accuracy"]) == {"dev"}
    assert result["mae"] == {}


def test_a_missing_data_file_is_named(own: dict, tmp_path: Path):
    (tmp_path / "dev.csv").unlink()
    refused(own, tmp_path, "dev.csv")


def test_a_missing_column_is_named_with_the_existing_columns(own: dict, tmp_path: Path):
    rewrite(tmp_path / "train.csv", "label", "lable")
    refused(own, tmp_path, "train.csv", "'label'", "lable")


def test_an_unknown_label_is_named_with_its_line(own: dict, tmp_path: Path):
    rewrite(tmp_path / "train.csv", '"bad, broke",neg,fr', '"bad, broke",negg,fr')
    refused(own, tmp_path, "train.csv", "negg", "7")


def test_an_empty_text_is_named_with_its_line(own: dict, tmp_path: Path):
    rewrite(tmp_path / "train.csv", '"bad, broke"', '""')
    refused(own, tmp_path, "train.csv", "3")


def test_an_unpaired_surrogate_is_named_with_its_line(own: dict, tmp_path: Path):
    file = tmp_path / "train.jsonl"
    rows = [{"text": text, "label": label, "language": x} for x in ("en", "fr") for text, label in ROWS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows).replace("broke", r"br\ud83d", 1))
    own["task"]["files"]["train"] = str(file)
    own["task"]["columns"] = {}
    refused(own, tmp_path, "train.jsonl, line 2", "half of a character")


def test_labels_that_yaml_reads_as_booleans_are_refused_with_the_fix(own: dict, tmp_path: Path):
    text = yaml.safe_dump(own)
    assert "  - neg\n  - pos\n" in text
    refused(text.replace("  - neg\n  - pos\n", "  - no\n  - yes\n"), tmp_path, "task.labels.0", "add quotes")


def test_infinite_epochs_are_refused(own: dict, tmp_path: Path):
    own["train"]["epochs"] = float("inf")
    refused(own, tmp_path, "train.epochs", "finite")


def test_a_language_without_rows_is_named(own: dict, tmp_path: Path):
    own["task"]["zero_shot"] = ["de", "sw"]
    refused(own, tmp_path, "sw", "dev.csv")


def test_a_duplicated_id_is_named(own: dict, tmp_path: Path):
    rewrite(tmp_path / "train.csv", "en1", "en0")
    refused(own, tmp_path, "train.csv", "en0")


def test_a_constant_label_column_is_refused(own: dict, tmp_path: Path):
    (tmp_path / "dev.csv").write_text((tmp_path / "dev.csv").read_text().replace(",neg,", ",pos,"))
    refused(own, tmp_path, "dev.csv", "pos")


def test_invalid_yaml_is_named_with_its_line(tmp_path: Path):
    refused("task: {kind: own\nstudent: [", tmp_path, "config.yaml:")


def test_an_unknown_field_is_named_with_the_nearest_field(own: dict, tmp_path: Path):
    own["train"]["epoch"] = 3
    refused(own, tmp_path, "train.epoch", "'epochs'")


def test_zero_stage_3_is_refused_with_the_reason(own: dict, tmp_path: Path):
    own["train"]["zero_stage"] = 3
    refused(own, tmp_path, "train.zero_stage", "stale")


def test_a_folder_without_a_backbone_is_named(own: dict, tmp_path: Path):
    own["student"]["backbone"] = str(tmp_path)
    refused(own, tmp_path, str(tmp_path))


def test_a_backbone_with_a_tokenizer_but_no_model_is_named(own: dict, world: Path, tmp_path: Path):
    folder = tmp_path / "half"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((world / "models" / "student" / name).read_bytes())
    own["student"]["backbone"] = str(folder)
    refused(own, tmp_path, str(folder))


def test_more_branch_layers_than_the_backbone_has_are_refused(own: dict, tmp_path: Path):
    own["student"]["branch_depth"] = 3
    refused(own, tmp_path, "branch_depth", "3", "2 layers")


def test_an_indivisible_batch_is_refused(own: dict, tmp_path: Path):
    own["train"]["batch_size"] = 3
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(own))
    done = mbkd("train", file, "--runs", tmp_path / "runs", "--ranks", "2")
    assert done.returncode == 2
    assert "2 ranks" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_evaluate_refuses_a_folder_without_a_model(own: dict, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(own))
    done = mbkd("evaluate", tmp_path, file, "--split", "dev", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "config.json" in done.stderr


def test_a_name_that_is_neither_file_nor_recipe_is_refused(tmp_path: Path):
    done = mbkd("train", "xnli-mbert-mlbm", "--runs", tmp_path)
    assert done.returncode == 2
    assert "xnli-mbert-mblm" in done.stderr  # the nearest name


def test_rows_beyond_the_backbones_positions_are_refused(own: dict, tmp_path: Path):
    own["train"]["max_length"] = 129
    refused(own, tmp_path, "train.max_length = 129", "student takes 128 tokens", "128 at most")
