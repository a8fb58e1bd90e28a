"""Claims about the output of `mbkd mixers`: the weights that the model uses, and their mean and spread."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from mbkd.config import paper
from mbkd.data.tokens import open_store
from mbkd.errors import UserError
from mbkd.evaluate import heat_map, mixers
from mbkd.model.mblm import MBLMForSequenceClassification

LANGUAGES = ("en", "fr", "zh")


def student(world, folder, **fields):
    torch.manual_seed(0)
    backbone = world / "models" / "student"
    fields = {"branch_depth": 2, "branch_languages": LANGUAGES, "num_labels": 5, **fields}
    model = MBLMForSequenceClassification.from_pretrained(backbone, **fields)
    with torch.no_grad():
        for parameter in model.branches.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    return model.eval()


@pytest.fixture
def config(world, tmp_path):
    values = {
        "task": {"kind": "marc", "path": str(world / "data"), "zero_shot": ["de", "es", "ja"]},
        "student": {"backbone": str(world / "models" / "student"), "branch_depth": 2},
        "distill": {"signal": "labels"},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return paper.find(str(tmp_path / "toy.yaml"), [])


def test_mean_and_spread_cover_all_values_for_any_batches():
    torch.manual_seed(0)
    whole = torch.rand(3, 11, 7)
    weights = mixers.Weights()
    for part in whole.split([4, 6, 1], dim=1):
        weights.add("outer", part)
    for branch, (mean, std) in enumerate(weights.summary()["outer"]):
        assert mean == pytest.approx(whole[branch].mean().item(), abs=1e-6)
        assert std == pytest.approx(whole[branch].std(unbiased=False).item(), abs=1e-6)


def test_the_reported_weights_are_those_of_the_models_mixers(world, tmp_path, config):
    """Compute the weights of every mixer from its input states, in one language."""
    model = student(world, tmp_path)
    with torch.no_grad():
        for vector in (model.outer, *(v for each in model.inner for v in each)):
            vector.normal_()
    model.save_pretrained(tmp_path)
    found = mixers.measure(tmp_path, config, "test", tmp_path)
    mine = {row["mixer"]: {} for row in found["rows"]}
    for row in found["rows"]:
        if row["language"] == "de":
            mine[row["mixer"]][row["branch"]] = (row["mean"], row["std"])
    assert list(mine) == ["inner 1, en", "inner 1, fr", "inner 1, zh", "outer"]

    tokens = open_store(tmp_path / "store", config.task, "test", "de", str(tmp_path), 128)
    batch = {name: torch.from_numpy(x) for name, x in tokens.batch(np.arange(len(tokens))).items()}
    states = {}  # (branch, layer) -> (B, n, d)
    for i, branch in enumerate(model.branches):
        for depth, layer in enumerate(branch):
            layer.register_forward_hook(lambda *call, at=(i, depth): states.__setitem__(at, call[2]))
    with torch.no_grad():
        model(**batch)
    vectors = [(0, each[0]) for each in model.inner] + [(1, model.outer)]
    for name, (depth, vector) in zip(mine, vectors, strict=True):
        tokens_in = batch["attention_mask"].unsqueeze(-1)  # (B, n, 1)
        v = vector[: tokens_in.shape[1]].unsqueeze(-1)  # (n, 1)
        scores = torch.stack([(v * tokens_in * states[i, depth]).sum(dim=1) for i in range(3)])  # Eq. 10: (N, B, d)
        weights = scores.exp() / scores.exp().sum(dim=0)  # Eq. 11
        for i, language in enumerate(LANGUAGES):
            expected = (weights[i].mean().item(), weights[i].std(unbiased=False).item())
            assert mine[name][language] == pytest.approx(expected, abs=1e-6)


def test_shares_sum_to_one_and_are_even_before_training(world, tmp_path, config):
    student(world, tmp_path).save_pretrained(tmp_path)
    found = mixers.measure(tmp_path, config, "dev", tmp_path)
    assert {row["language"] for row in found["rows"]} == {"en", "fr", "zh", "de", "es", "ja"}
    assert len(found["rows"]) == 6 * 4 * 3
    for row in found["rows"]:
        assert row["mean"] == pytest.approx(1 / 3, abs=1e-6)
        assert row["std"] == pytest.approx(0, abs=1e-6)
    for ending in ("json", "csv", "txt"):
        file = tmp_path / f"weights.{ending}"
        if ending == "txt":
            with pytest.raises(UserError, match=r"\.json or \.csv"):
                mixers.write(found, file)
        else:
            mixers.write(found, file)
    assert json.loads((tmp_path / "weights.json").read_text()) == found
    with (tmp_path / "weights.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(found["rows"])
    pytest.importorskip("matplotlib")
    heat_map.write(heat_map.draw(found), tmp_path / "weights.png")
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_mixers_is_refused(world, tmp_path, config):
    student(world, tmp_path, mixers="none").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no mixers"):
        mixers.measure(tmp_path, config, "dev", tmp_path)
