"""Tokenizers and small pre-trained encoders, built from the toy's text in about a minute.

Builds three monolingual teachers and one multilingual student backbone. Their architectures differ, as in the paper.
The student's token vectors start from a factorised token x parallel-sentence matrix, with the languages' directions
projected out. Without this start, a backbone this small does not align its languages. MLM and TLM follow.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CamembertConfig,
    CamembertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from mbkd.demo import toy
from mbkd.demo.lexicon import LANGUAGES
from mbkd.files import write_json
from mbkd.model import saved

FORMAT = 2  # increase when the output of `build` changes
MAX_LENGTH = 128
SIZES = {"train": 12000, "dev": 500, "test": 1000}
LAYERS = {"student": 4, "teacher": 2}
WIDTH = {"student": 96, "teacher": 128}
TEXTS = 2500  # unlabelled reviews per language
PARALLEL = 6000  # short texts in all six languages
STEPS = {"student": 450, "teacher": 120}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LONGEST_PIECE = {"zh": 4, "ja": 5}  # in languages without spaces, longer pieces would be whole phrases
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


# ---------------------------------------------------------------------------------------------------- tokenizers


def _pair_template(tokenizer: Tokenizer, start: str, end: str, pair: str) -> processors.TemplateProcessing:
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    return processors.TemplateProcessing(single=f"{start} $A {end}", pair=pair, special_tokens=ids)


def _wrap(tokenizer: Tokenizer, bert: bool = False) -> PreTrainedTokenizerFast:
    if bert:
        tokenizer.post_processor = _pair_template(tokenizer, "[CLS]", "[SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, pad_token="[PAD]", unk_token="[UNK]",
            cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )  # fmt: skip
    tokenizer.post_processor = _pair_template(tokenizer, "<s>", "</s>", "<s> $A </s> </s> $B </s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def byte_level_bpe(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, as in RoBERTa. Case and spaces are kept; no byte is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def unigram(texts: dict[str, list[str]], size: int) -> PreTrainedTokenizerFast:
    """Build a unigram tokenizer with marks for spaces, as in CamemBERT and XLM-R.

    texts: {language: texts}; size: pieces per language. The vocabulary is the union of one BPE vocabulary per
    language. A piece's weight is its frequency averaged over the languages, to keep whole pieces in every language.
    The library's Unigram trainer takes ten times as long, and its vocabulary differs between processes.
    """
    normalizer = normalizers.NFKC()
    splits = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex("[.,:、。]"), "isolated"),
            pre_tokenizers.Split("'", "merged_with_previous"),
        ]
    )
    share: Counter[str] = Counter()
    for language, lines in texts.items():
        bpe = Tokenizer(models.BPE())
        bpe.normalizer, bpe.pre_tokenizer = normalizer, splits
        longest = LONGEST_PIECE.get(language, 16)
        trainer = trainers.BpeTrainer(vocab_size=size, max_token_length=longest, show_progress=False)
        bpe.train_from_iterator(lines, trainer)
        seen = Counter(dict.fromkeys(bpe.get_vocab(), 1))  # keeps every character, however rare
        for line in lines:
            seen.update(bpe.encode(line).tokens)
        for piece, count in seen.items():
            share[piece] += count / seen.total() / len(texts)  # type: ignore[assignment]
    ordered = sorted(share.items(), key=lambda item: (-item[1], item[0]))
    vocabulary = [(token, 0.0) for token in SPECIALS] + [(piece, math.log(part)) for piece, part in ordered]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIALS.index("<unk>")))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splits
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIALS)
    return _wrap(tokenizer)


def word_piece(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer, as in BERT: lower-cased, Chinese characters as words, segment ids.

    size: maximum number of pieces. The library's trainer is not used, because its result differs between processes.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)
    splits = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splits.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    inside = sorted({"##" + letter for word in words for letter in word[1:]})
    whole = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    pieces = (BERT_SPECIALS + letters + inside + whole)[:size]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splits
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(BERT_SPECIALS)
    return _wrap(tokenizer, bert=True)


# ------------------------------------------------------------------------------------------------- token vectors


def aligned_vectors(rows: list[dict[str, list[int]]], tokens: int, width: int, seed: int) -> Tensor:
    """Compute token vectors, (tokens, width), in which translations are near each other.

    rows: token ids of parallel texts by language. The vectors are a truncated SVD of the tf-idf token x translation
    matrix with normalised rows. The span of the languages' mean vectors is projected out, and every row is scaled to
    length 0.1 * sqrt(width). Tokens that never occur get small random vectors. With one language, only the common
    direction is projected out.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(tokens, len(rows))
    by_language = {language: torch.zeros(tokens) for language in rows[0]}
    for column, row in enumerate(rows):
        for language, ids in row.items():
            index = torch.tensor(ids)
            counts[:, column].index_add_(0, index, torch.ones(len(ids)))
            by_language[language].index_add_(0, index, torch.ones(len(ids)))
    found = (counts > 0).sum(1)
    idf = torch.log(len(rows) / found.clamp(min=1))
    weighted = torch.nn.functional.normalize(torch.log1p(counts) * idf[:, None], dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vectors, values, _ = torch.svd_lowrank(weighted, q=width, niter=6)
    top = torch.nn.functional.normalize(vectors * values, dim=1)
    means = torch.stack([(top * seen[:, None]).sum(0) / seen.sum() for seen in by_language.values()])
    basis, _ = torch.linalg.qr(means.T)  # (width, languages)
    top = torch.nn.functional.normalize(top - top @ basis @ basis.T, dim=1)
    top = torch.where((found > 0)[:, None], top, 0.2 * torch.randn(tokens, width, generator=generator))
    return top * 0.1 * math.sqrt(width)


# -------------------------------------------------------------------------------------------------- pre-training

Pair = tuple[list[int], list[int] | None]  # token ids of a text or of a text pair


def _batches(pairs: Iterator[Pair], tokenizer: PreTrainedTokenizerFast, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches with special tokens. Texts of similar length share a batch to reduce padding."""
    start, end, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    bert = "token_type_ids" in tokenizer.model_input_names
    while True:
        window = []
        for _ in range(8 * size):
            a, b = next(pairs)
            first = [start, *a, end]
            second = [] if b is None else [*([] if bert else [end]), *b, end]
            window.append((first + second)[:MAX_LENGTH])
            segments = [0] * len(first) + [1] * len(second)
            window[-1] = list(zip(window[-1], segments, strict=False))
        window.sort(key=len)
        for at in (3, 6, 0, 5, 2, 7, 1, 4):  # alternates short and long batches
            part = window[at * size : (at + 1) * size]
            ids = torch.full((len(part), len(part[-1])), pad)
            types = torch.zeros_like(ids)
            for row, marked in enumerate(part):
                ids[row, : len(marked)] = torch.tensor([token for token, _ in marked])
                types[row, : len(marked)] = torch.tensor([segment for _, segment in marked])
            batch = {"input_ids": ids, "attention_mask": (ids != pad).long()}
            yield {**batch, "token_type_ids": types} if bert else batch


def _encoder(model: PreTrainedModel) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the body and the masked-token head, to run the head on masked positions only."""
    return (model.bert, model.cls) if hasattr(model, "bert") else (model.roberta, model.lm_head)


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Iterator[Pair],
    steps: int,
    seed: int,
    batch: int = 32,
    learning_rate: float = 2e-3,
    embedding_rate: float = 0.3,
    masked: float = 0.3,
    tick: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train masked-language modelling in place. embedding_rate: share of learning_rate for embeddings."""
    body, head = _encoder(model)
    generator = torch.Generator().manual_seed(seed)
    words = body.embeddings.word_embeddings.weight
    others = [p for p in model.parameters() if p is not words]
    groups = [{"params": others}, {"params": [words], "lr": learning_rate * embedding_rate}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (steps - s) / max(1, steps - warm))
    )
    special = torch.zeros(len(tokenizer), dtype=torch.bool)
    special[tokenizer.all_special_ids] = True
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step, inputs in zip(range(steps), _batches(pairs, tokenizer, batch), strict=False):
            ids = inputs["input_ids"]
            chosen = (torch.rand(ids.shape, generator=generator) < masked) & ~special[ids]
            kind = torch.rand(ids.shape, generator=generator)
            noise = torch.randint(len(tokenizer), ids.shape, generator=generator)
            shown = torch.where(chosen & (kind < 0.8), tokenizer.mask_token_id, ids)
            shown = torch.where(chosen & (kind > 0.9), noise, shown)
            states = body(**{**inputs, "input_ids": shown}).last_hidden_state  # (B, n, d)
            loss = torch.nn.functional.cross_entropy(head(states[chosen]), ids[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tick(step, float(loss.detach()))
    model.eval()


def _student_pairs(rows: list[dict[str, list[int]]], reviews: list[Pair], seed: int) -> Iterator[Pair]:
    """Yield translation pairs (TLM, two of three) and reviews in one language (MLM)."""
    rng = random.Random(f"student pairs {seed}")
    while True:
        if rng.random() < 0.67:
            row = rng.choice(rows)
            one, two = rng.sample(sorted(row), 2)
            yield row[one], row[two]
        else:
            yield rng.choice(reviews)


def _teacher_pairs(reviews: list[Pair], seed: int) -> Iterator[Pair]:
    rng = random.Random(f"teacher pairs {seed}")
    while True:
        yield rng.choice(reviews)


# --------------------------------------------------------------------------------------------------- the world


def build(folder: Path, seed: int = 0, progress: Callable[[str], None] = print) -> None:
    """Write the toy world: `data/dataset_*.json`, `models/{student,teacher-*}/`, `world.json`.

    `world.json` is written last and atomically, and records the settings of the build. If the file already holds the
    same settings, nothing is done. The same seed gives the same files on one machine and thread count.
    progress: receives lines of text that report the progress.
    """
    folder = Path(folder)
    made_of = {
        "format": FORMAT,
        "seed": seed,
        "sizes": SIZES,
        "texts": TEXTS,
        "parallel": PARALLEL,
        "steps": STEPS,
        "width": WIDTH,
        "layers": LAYERS,
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers)},
    }
    done = folder / "world.json"
    if done.is_file() and _read(done) == made_of:
        return
    done.unlink(missing_ok=True)
    started = time.perf_counter()
    toy.write_reviews(folder / "data", **SIZES, seed=seed)
    progress(f"reviews written, {time.perf_counter() - started:.0f} s")
    texts = {language: toy.unlabelled(language, TEXTS, seed) for language in LANGUAGES}
    with _one_tokenizer_thread():
        build_student(folder / "models" / "student", texts, toy.parallel(PARALLEL, seed, (1, 1, 2)), seed, progress)
        for language in toy.SUPERVISED:
            build_teacher(folder / "models" / f"teacher-{language}", language, texts[language], seed, progress)
    write_json(done, made_of)
    progress(f"toy world complete, {time.perf_counter() - started:.0f} s")


def build_student(
    folder: Path,
    texts: dict[str, list[tuple[str, str]]],
    rows: list[dict[str, str]],
    seed: int,
    progress: Callable[[str], None],
) -> None:
    """Write the multilingual backbone (XLM-R) and its tokenizer, from reviews and parallel texts."""
    tokenizer = unigram({language: [t for pair in texts[language] for t in pair] for language in texts}, 700)
    model = _fresh(XLMRobertaForMaskedLM, XLMRobertaConfig, tokenizer, WIDTH["student"], LAYERS["student"], seed)
    columns = {language: _ids(tokenizer, [row[language] for row in rows]) for language in rows[0]}
    parallel = [dict(zip(columns, ids, strict=True)) for ids in zip(*columns.values(), strict=True)]
    reviews = [pair for language in texts for pair in _review_ids(tokenizer, texts[language])]
    _set_vectors(model, aligned_vectors(parallel[:4000], len(tokenizer), WIDTH["student"], seed))
    pretrain(
        model,
        tokenizer,
        _student_pairs(parallel, reviews, seed),
        STEPS["student"],
        seed,
        tick=_ticker("student", progress),
    )
    _save(folder, model, tokenizer)


def build_teacher(
    folder: Path, language: str, texts: list[tuple[str, str]], seed: int, progress: Callable[[str], None]
) -> None:
    """Write a supervised language's monolingual encoder and tokenizer, from reviews without stars."""
    lines = [text for pair in texts for text in pair]
    if language == "en":
        tokenizer = byte_level_bpe(lines, 900)
        model = _fresh(RobertaForMaskedLM, RobertaConfig, tokenizer, WIDTH["teacher"], LAYERS["teacher"], seed)
    elif language == "fr":
        tokenizer = unigram({"fr": lines}, 900)
        model = _fresh(CamembertForMaskedLM, CamembertConfig, tokenizer, WIDTH["teacher"], LAYERS["teacher"], seed)
    elif language == "zh":
        tokenizer = word_piece(lines, 900)
        model = _fresh(BertForMaskedLM, BertConfig, tokenizer, WIDTH["teacher"], LAYERS["teacher"], seed)
    else:
        raise ValueError(f"no toy teacher for {language!r}; choose one of {', '.join(toy.SUPERVISED)}")
    reviews = _review_ids(tokenizer, texts)
    _set_vectors(
        model, aligned_vectors([{language: body} for body, _ in reviews], len(tokenizer), WIDTH["teacher"], seed)
    )
    pretrain(
        model, tokenizer, _teacher_pairs(reviews, seed), STEPS["teacher"], seed, tick=_ticker(folder.name, progress)
    )
    _save(folder, model, tokenizer)


def _set_vectors(model: PreTrainedModel, vectors: Tensor) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(vectors)


def _fresh(
    model_class: Any, config_class: Any, tokenizer: PreTrainedTokenizerFast, width: int, layers: int, seed: int
) -> Any:
    bert = config_class is BertConfig  # BERT counts positions from 0, the others from the pad id + 1
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=MAX_LENGTH if bert else MAX_LENGTH + 2,
        type_vocab_size=2 if bert else 1,
        hidden_dropout_prob=0.0,  # these models do not overfit, and dropout takes a third of a step
        attention_probs_dropout_prob=0.0,
        initializer_range=0.8 / math.sqrt(width),  # 0.02 is for width 768; at this width, attention would stay flat
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config)


def _ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _review_ids(tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]]) -> list[Pair]:
    bodies, titles = zip(*texts, strict=True)
    return list(zip(_ids(tokenizer, list(bodies)), _ids(tokenizer, list(titles)), strict=True))


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with saved.refuse_unwritten(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _ticker(name: str, progress: Callable[[str], None]) -> Callable[[int, float], None]:
    def tick(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            progress(f"{name}: step {step + 1}, masked-token loss {loss:.2f}")

    return tick


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


@contextmanager
def _one_tokenizer_thread() -> Iterator[None]:
    """Run tokenizers in one thread: a fixed order of summation makes the vocabulary reproducible."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
