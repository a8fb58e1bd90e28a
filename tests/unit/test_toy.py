"""Claims about the toy task: text, labels, tokenizers and encoders."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from mbkd.demo import toy, toy_models
from mbkd.demo.lexicon import LANGUAGES, PATTERNS

COLUMNS = [
    "review_id",
    "product_id",
    "reviewer_id",
    "stars",
    "review_body",
    "review_title",
    "language",
    "product_category",
]
MODELS = {"student": "xlm-roberta", "teacher-en": "roberta", "teacher-fr": "camembert", "teacher-zh": "bert"}
SENTENCES = {
    "student": "Obwohl der Griff gut ist, ist der Deckel schrecklich.",
    "teacher-en": "Although the handle is good, the lid is terrible.",
    "teacher-fr": "Même si la poignée est bonne, le couvercle est affreux.",
    "teacher-zh": "虽然把手很好，但是盖子糟透了。",
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Build the same world with minimal work."""
    patch.setattr(toy_models, "SIZES", {"train": 10, "dev": 5, "test": 5})
    patch.setattr(toy_models, "TEXTS", 200)
    patch.setattr(toy_models, "PARALLEL", 200)
    patch.setattr(toy_models, "STEPS", {"student": 2, "teacher": 1})
    patch.setattr(toy_models, "WIDTH", {"student": 16, "teacher": 16})


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        toy_models.build(folder, progress=quiet)
    return folder


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mbkd.demo import toy;"
        "toy.write_reviews(Path(sys.argv[1]), train=20, dev=10, test=10, seed=int(sys.argv[2]))"
    )
    for name, seed in (
        ("one", 3),
        ("two", 3),
        ("other", 4),
    ):  # separate processes, because hash() differs between processes
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), str(seed)], check=True)
    assert bytes_below(tmp_path / "one") == bytes_below(tmp_path / "two")
    assert bytes_below(tmp_path / "one") != bytes_below(tmp_path / "other")


def test_reviews_have_marcs_layout_and_balanced_stars(tmp_path: Path) -> None:
    toy.write_reviews(tmp_path, train=25, dev=10, test=5)
    names = {f"dataset_{lang}_train.json" for lang in toy.SUPERVISED}
    names |= {f"dataset_{lang}_{split}.json" for lang in LANGUAGES for split in ("dev", "test")}
    assert {path.name for path in tmp_path.iterdir()} == names
    ids = []
    for name in sorted(names):
        rows = [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        _, language, split = name.removesuffix(".json").split("_")
        assert len(rows) == {"train": 25, "dev": 10, "test": 5}[split]
        assert all(list(row) == COLUMNS and row["language"] == language for row in rows)
        assert Counter(row["stars"] for row in rows) == dict.fromkeys(range(1, 6), len(rows) // 5)
        assert all(row["review_body"] and row["review_title"] for row in rows)
        ids += [row["review_id"] for row in rows]
    assert len(set(ids)) == len(ids)


def test_unbalanced_numbers_of_stars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 5"):
        toy.write_reviews(tmp_path, train=12, dev=5, test=5)


def test_splits_languages_and_pretraining_text_are_independent_draws() -> None:
    drawn = {(lang, split): [m for m, _ in toy.reviews(lang, split, 50)] for lang in LANGUAGES for split in toy.SPLITS}
    firsts = [meanings[0] for meanings in drawn.values()]
    assert len(set(firsts)) == len(firsts)
    seen = {row["review_body"] for _, row in toy.reviews("en", "test", 200)}
    assert len(seen & {body for body, _ in toy.unlabelled("en", 200)}) < 10  # a short sentence may occur twice


def test_every_language_has_every_pattern_and_fills_every_slot() -> None:
    assert all(set(patterns) == set(LANGUAGES) for patterns in PATTERNS.values())
    for row in toy.parallel(400, frames=(2,)):
        assert list(row) == list(LANGUAGES)
        for language, text in row.items():
            assert not set("{}|;/_") & set(text), text
            assert "  " not in text
            assert text == text.strip()
            assert text[-1] == ("。" if language in ("zh", "ja") else "."), text


def test_german_puts_the_verb_last_and_japanese_marks_the_topic() -> None:
    row = next(r for r in toy.parallel(300) if r["de"].startswith("Obwohl ") and " ist, ist " in r["de"])
    assert "Although" in row["en"] or "although" in row["en"] or "but" in row["en"] or "even" in row["en"].lower()
    assert "は" in row["ja"]
    assert " " not in row["zh"]


def test_a_bag_of_words_is_clearly_below_the_best_possible_accuracy() -> None:
    for language, analyzer in (("en", "word"), ("zh", "char")):
        train = [row for _, row in toy.reviews(language, "train", 3000)]
        dev = list(toy.reviews(language, "dev", 1000))
        best = sum(toy.best_guess(meaning) == row["stars"] for meaning, row in dev) / len(dev)
        assert 0.70 < best < 0.83
        scores = []
        for longest in (1, 2):
            words = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, longest), min_df=2, sublinear_tf=True)
            text = [f"{row['review_body']} {row['review_title']}" for row in train]
            model = LogisticRegression(max_iter=300).fit(words.fit_transform(text), [row["stars"] for row in train])
            text = [f"{row['review_body']} {row['review_title']}" for _, row in dev]
            scores.append(model.score(words.transform(text), [row["stars"] for _, row in dev]))
        assert 0.25 < scores[0] < best - 0.20
        assert scores[1] < best - 0.12


def test_a_title_alone_is_weak_evidence() -> None:
    train = [row for _, row in toy.reviews("en", "train", 2000)]
    dev = [row for _, row in toy.reviews("en", "dev", 500)]
    words = TfidfVectorizer()
    fitted = words.fit_transform([row["review_title"] for row in train])
    model = LogisticRegression(max_iter=300).fit(fitted, [row["stars"] for row in train])
    score = model.score(words.transform([row["review_title"] for row in dev]), [row["stars"] for row in dev])
    assert score < 0.36


@pytest.mark.parametrize("name", MODELS)
def test_every_tokenizer_round_trips_a_pair_with_its_special_tokens(world: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "models" / name)
    start, end, between = ("[CLS]", "[SEP]", 1) if name == "teacher-zh" else ("<s>", "</s>", 2)
    text = SENTENCES[name]
    ids = tokenizer(text, text)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0] == start
    assert tokens[-1] == end
    assert tokens.count(start) == 1
    assert tokens.count(end) == 1 + between
    assert tokenizer.unk_token not in tokens
    one = tokens.index(end)
    assert tokens[1:one] == tokens[one + between : -1]
    back = tokenizer.decode(ids[1:one]).strip().replace(" ", "").replace("，", ",")
    assert back == text.replace(" ", "").replace("，", ",")
    assert tokenizer.pad_token_id == AutoModel.from_pretrained(world / "models" / name).config.pad_token_id


@pytest.mark.parametrize("name", MODELS)
def test_a_long_pair_is_truncated_longest_first_to_128(world: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "models" / name)
    assert tokenizer.model_max_length == 128
    short = tokenizer(SENTENCES[name], add_special_tokens=False)["input_ids"]
    cut = tokenizer(SENTENCES[name] * 40, SENTENCES[name], truncation="longest_first", max_length=128)["input_ids"]
    assert len(cut) == 128
    assert cut[-1 - len(short) : -1] == short  # the short text is complete


def test_chinese_bert_tokenizer_gives_segment_ids(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "models" / "teacher-zh")
    pair = tokenizer("质量很好。", "Velmo很差")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"])[1:5] == ["质", "量", "很", "好"]
    assert tokenizer.tokenize("VELMO") == tokenizer.tokenize("velmo")
    assert pair["token_type_ids"] == [0] * 7 + [1] * (len(pair["input_ids"]) - 7)
    for name in ("student", "teacher-en", "teacher-fr"):
        assert "token_type_ids" not in AutoTokenizer.from_pretrained(world / "models" / name)("a", "b")


@pytest.mark.parametrize("name", MODELS)
def test_every_encoder_has_another_architecture_and_accepts_128_tokens(world: Path, name: str) -> None:
    folder = world / "models" / name
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == MODELS[name]
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.num_hidden_layers == (4 if name == "student" else 2)
    inputs = tokenizer([SENTENCES[name] * 40], truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (1, 128, len(tokenizer))
    assert torch.isfinite(logits).all()


def test_a_world_is_reproducible_and_a_complete_world_is_not_rebuilt(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    toy_models.build(tmp_path, progress=quiet)
    first = bytes_below(tmp_path)
    assert first == bytes_below(world)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    toy_models.build(tmp_path, progress=pytest.fail)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("left", [None, "", '{"format": 0}'])
def test_an_unfinished_world_is_rebuilt(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str | None
) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(toy_models, "build_teacher", lambda *_: None)  # the student is sufficient
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_en_train.json").write_text("half a row")
    if left is not None:
        (tmp_path / "world.json").write_text(left)
    toy_models.build(tmp_path, progress=quiet)
    assert (tmp_path / "world.json").read_bytes() == (world / "world.json").read_bytes()
    name = Path("data/dataset_en_train.json")
    assert (tmp_path / name).read_bytes() == (world / name).read_bytes()


def test_vectors_of_translations_are_closer_than_those_of_other_words() -> None:
    texts = {lang: [body for body, _ in toy.unlabelled(lang, 300)] for lang in ("en", "de")}
    tokenizer = toy_models.unigram(texts, 700)
    rows = toy.parallel(2000)
    ids = [{lang: tokenizer(row[lang], add_special_tokens=False)["input_ids"] for lang in texts} for row in rows]
    vectors = torch.nn.functional.normalize(toy_models.aligned_vectors(ids, len(tokenizer), 48, seed=0))

    def near(a: str, b: str) -> float:
        one, two = tokenizer.convert_tokens_to_ids(["▁" + a, "▁" + b])
        return float(vectors[one] @ vectors[two])

    for en, de, other in (
        ("battery", "Akku", "Stoff"),
        ("terrible", "furchtbar", "perfekt"),
        ("desk", "Schreibtisch", "Zelt"),
    ):
        assert near(en, de) > 0.5 > near(en, other)
