"""Claims about `mbkd data`: its measurements of rows, and its warnings about problems for training."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import transformers

from mbkd.config import Config
from mbkd.demo import toy
from mbkd.onboarding import languages
from mbkd.onboarding.quality import inspect

LABELS = ("bad", "good")


def rows(language: str, count: int, start: int = 0) -> list[dict[str, str]]:
    texts = islice(toy.unlabelled(language, start + count), start, None)
    return [{"text": f"{a} {i}", "label": LABELS[i % 2], "language": language} for i, (a, _) in enumerate(texts, start)]


@pytest.fixture
def good(world: Path, tmp_path: Path):
    """Return a function that writes splits as JSONL and inspects them. The default rows have no problems."""
    whole = {
        "train": rows("en", 120) + rows("fr", 120),
        "dev": [row for x in ("en", "fr", "de") for row in rows(x, 40, 200)],
    }

    def inspected(more: dict[str, Any] | None = None, task=None, columns=None, **changes: Any) -> dict[str, Any]:
        for split, each in (whole | changes).items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
        models = world / "models"
        values: dict[str, Any] = {
            "task": {
                "kind": "own", "labels": LABELS, "supervised": ["en", "fr"], "zero_shot": ["de"],
                "files": {x: str(tmp_path / f"{x}.jsonl") for x in (whole | changes)}, "columns": columns or {},
            } | (task or {}),
            "student": {"backbone": str(models / "teacher-en"), "branch_depth": 1},  # byte-level
            "teachers": {x: {"model": str(models / f"teacher-{x}")} for x in ("en", "fr")},
            "distill": {"signal": "labels"},
            "train": {"max_length": 400},
        }  # fmt: skip
        transformers.logging.set_verbosity_error()
        found = inspect(Config.model_validate(values | (more or {})))
        assert json.loads(json.dumps(found))["splits"]  # JSON types only
        return found

    inspected.whole = whole  # type: ignore[attr-defined]
    return inspected


def warnings_of(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["kind"], each["split"], each["language"]) for each in found["warnings"]}


def counts(found: dict[str, Any], split: str, language: str) -> dict[str, Any]:
    (each,) = (x for x in found["splits"] if (x["split"], x["language"]) == (split, language))
    return each


def test_good_rows_give_counts_and_no_warnings(good):
    found = good()
    assert warnings_of(found) == set() and found["problems"] == []
    assert [(x["split"], x["language"], x["rows"]) for x in found["splits"]] == [
        ("train", "en", 120), ("train", "fr", 120), ("dev", "en", 40), ("dev", "fr", 40), ("dev", "de", 40),
    ]  # fmt: skip
    assert counts(found, "train", "en")["labels"] == {"bad": 60, "good": 60}
    assert set(counts(found, "train", "en")["tokens"]) == {"student"}


def test_teachers_tokens_are_checked_in_their_own_language(good):
    found = good({"distill": {"signal": "online"}})
    assert set(counts(found, "train", "en")["tokens"]) == {"student", "teacher en"}
    assert set(counts(found, "dev", "de")["tokens"]) == {"student"}
    tokens = counts(found, "train", "fr")["tokens"]
    assert tokens["student"]["p50"] > tokens["teacher fr"]["p50"]  # bytes, and pieces of words


def test_lengths_and_truncated_tokens_equal_the_tokenizers(good, world: Path):
    short = {"train": {"max_length": 24}, "student": {"backbone": str(world / "models" / "student")}}
    found = counts(good(short), "dev", "de")["tokens"]["student"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "models" / "student")
    lengths = sorted(len(tokenizer(row["text"])["input_ids"]) for row in good.whole["dev"] if row["language"] == "de")
    assert found["p50"] == round((lengths[19] + lengths[20]) / 2)
    assert found["p99"] >= found["p90"] > found["p50"] > 24
    assert found["longer"] == sum(x > 24 for x in lengths) / 40
    assert found["cut"] == pytest.approx(sum(max(0, x - 24) for x in lengths) / sum(lengths))
    assert ("truncation", "dev", "de") in warnings_of(good(short))


def test_unknown_tokens_are_counted(good, world: Path):
    odd = [row | {"text": "ЖЗИ ЙКЛ"} for row in good.whole["train"][:60]]
    found = good({"student": {"backbone": str(world / "models" / "student")}}, train=good.whole["train"] + odd)
    assert 0 < counts(found, "train", "en")["tokens"]["student"]["unknown"] < 1
    assert ("unknown tokens", "train", "en") in warnings_of(found)
    assert counts(found, "train", "fr")["tokens"]["student"]["unknown"] < 0.01


def test_duplicates_leaks_and_contradictions_are_counted(good):
    train = good.whole["train"]
    found = good(
        train=[*train, train[0], train[1] | {"text": train[1]["text"].upper(), "label": "bad"}],
        dev=[*good.whole["dev"], train[5], train[6], train[130]],
    )
    assert (counts(found, "train", "en")["duplicates"], counts(found, "train", "en")["conflicts"]) == (2, 1)
    assert [counts(found, "dev", x)["also_in"] for x in ("en", "fr", "de")] == [
        {"train": 2},
        {"train": 1},
        {"train": 0},
    ]
    leaks = {("conflicting labels", "train", "en"), ("leakage", "dev", "en"), ("leakage", "dev", "fr")}
    assert warnings_of(found) == leaks


def test_two_rows_with_different_texts_are_not_constant(good):
    dev = [row for row in good.whole["dev"] if row["language"] != "de"]
    found = good(dev=dev + [row for row in good.whole["dev"] if row["language"] == "de"][:2])
    assert ("constant text", "dev", "de") not in warnings_of(found)


def test_small_and_missing_classes_few_rows_and_constant_text_give_warnings(good):
    train = [row | {"label": "bad" if i > 5 else "good"} for i, row in enumerate(rows("en", 90))]
    constant = [row | {"text": "one text"} for row in rows("fr", 60)] + rows("fr", 60)
    dev = [row for row in good.whole["dev"] if row["language"] != "de"]
    found = good(train=train + constant, dev=dev + [row | {"label": "bad"} for row in rows("de", 1)])
    assert {
        ("tiny class", "train", "en"), ("few rows", "train", "en"), ("constant text", "train", "fr"),
        ("label missing", "dev", "de"),
    } <= warnings_of(found)  # fmt: skip


def test_rows_in_another_language_give_a_warning(good):
    french = [row | {"language": "en"} for row in rows("fr", 80, 300)]
    found = good(train=good.whole["train"] + french)
    inspected = counts(found, "train", "en")["looks_like"]
    assert inspected["own"] == pytest.approx(0.6, abs=0.02)
    assert inspected["others"]["fr"] == pytest.approx(0.4, abs=0.02)
    assert warnings_of(found) == {("wrong language", "train", "en")}
    assert languages.looks_like(["a text in a language that has no name here"], "tlh") is None
    assert languages.looks_like(["short"], "en") is None


def test_rows_in_languages_of_neither_list_are_counted_and_named(good):
    odd = [row | {"language": x} for row, x in zip(rows("en", 4, 500), ("eng", "EN ", "", "eng"), strict=True)]
    found = good(train=good.whole["train"] + odd, dev=good.whole["dev"] + odd[:1])
    messages = {x["split"]: x["message"] for x in found["warnings"] if x["kind"] == "other languages"}
    assert messages["train"].endswith("2 rows of 'eng', 1 row of ''")
    assert messages["dev"].endswith("1 row of 'eng'")
    assert counts(found, "train", "en")["rows"] == 121  # `EN ` is en


def test_language_codes_of_any_kind_are_compared_with_the_detected_language(good):
    for code in ("fra_Latn", "french"):

        def renamed(each, code=code):
            return [row | {"language": code if row["language"] == "fr" else row["language"]} for row in each]

        task = {"kind": "own", "labels": LABELS, "supervised": ["en", code], "zero_shot": ["de"]}
        french = [row | {"language": "en"} for row in rows("fr", 80, 300)]
        found = good(
            {"teachers": {}}, train=renamed(good.whole["train"]) + french, dev=renamed(good.whole["dev"]), task=task
        )
        assert counts(found, "train", code)["looks_like"]["own"] == 1
        assert ("wrong language", "train", "en") in warnings_of(found)


def test_an_empty_second_text_is_counted(good):
    pairs = [row | {"more": "" if i < 7 else "x"} for i, row in enumerate(good.whole["train"])]
    dev = [row | {"more": "y"} for row in good.whole["dev"]]
    found = good({}, train=pairs, dev=dev, columns={"text_pair": "more"})
    assert counts(found, "train", "en")["empty"] == 7
    assert ("empty text", "train", "en") in warnings_of(found)
    assert ("empty text", "dev", "en") not in warnings_of(found)


def test_problems_that_prevent_training_are_collected_and_the_rest_is_shown(good):
    found = good(
        {"student": {"backbone": "/nowhere/at-all"}, "distill": {"signal": "online"}}, dev=good.whole["dev"][:80]
    )
    (problem,) = found["problems"]
    assert "no rows for language 'de'" in problem
    assert "no such folder" in found["tokenizers"]["student"]["problem"]
    assert set(counts(found, "dev", "en")["tokens"]) == {"teacher en"}
