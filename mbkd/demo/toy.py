"""The toy task: product reviews in six languages, composed by a seeded grammar that knows how hard they are.

A review is composed as a meaning first: frames of one or two clauses that praise or criticise an aspect, where the
frame decides which clause counts ("I thought A, but B", "B, although A", "X says A, but that is not true"). Then a
language says it in its own word order, with its own synonyms. The stars are the weighted mean of what counts plus
noise, so `best_guess` is the best any reader can do. Words alone say little: what does not count leans the other way.
"""

from __future__ import annotations

import bisect
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter

from mbkd.demo import lexicon
from mbkd.demo.lexicon import LANGUAGES

SUPERVISED = ("en", "fr", "zh")
SPLITS = ("train", "dev", "test")

NOISE = 0.33  # standard deviation of the reader-specific part of the score, in stars
BORDERS = (-1.2, -0.4, 0.4, 1.2)  # between the five stars, on the scale of the degrees, -2 to 2

# Which clauses of a frame count, (weight of a, weight of b), and how often the frame is drawn.
# A negative weight turns the clause around. In `weigh` the clause about the aspect that matters stands as b.
FRAMES = {
    "both": ((1.0, 1.0), 12),
    "although": ((0.0, 1.0), 20),
    "weigh": ((0.0, 1.0), 5),
    "expected": ((0.0, 1.0), 14),
    "as_expected": ((1.0, 0.0), 7),
    "said_true": ((1.0, 0.0), 6),
    "said_false": ((-1.0, 0.0), 8),
    "other": ((0.0, 1.0), 12),
    "this_than": ((1.0, 0.0), 5),
    "other_than": ((-1.0, 0.0), 5),
    "outcome": ((1.0, 0.0), 8),
}
VERBS_FIT = ("both", "although", "weigh")  # the other frames need tenses that only adjectives have here
ONE_CLAUSE = ("as_expected", "said_true", "said_false")
NEGATED = ("not", "not_at_all", "not_very")


@dataclass(frozen=True)
class Clause:
    """Somebody or something is some way. subject: ("aspect", row) | ("this",) | ("other", kind)."""

    subject: tuple
    verb: bool  # from VERBS, else from QUALITIES
    word: int  # row
    modifier: str  # "" for qualities that stand as they are
    degree: int  # -2 to 2


@dataclass(frozen=True)
class Frame:
    """One pattern with what fills it; `value` and `weight` are what it adds to the score."""

    kind: str
    a: Clause | None
    b: Clause | None
    extra: int  # row of PEOPLE, COMPARATIVES or OUTCOMES
    other: int  # whose product stands beside this one
    value: float
    weight: float


@dataclass(frozen=True)
class Meaning:
    """A review before any language says it. `score` is what its clauses amount to, -2 to 2."""

    category: str
    product: int
    frames: tuple[Frame, ...]
    filler: tuple[int, int] | None  # row of FILLERS, place among the frames
    title: int  # row of TITLES, or -1: the first plain quality of the text
    details: tuple[int, int, int]  # rows of TIMES and RECEIVERS, a small number
    score: float


# ---------------------------------------------------------------------------------------------------- meanings


@cache
def _choices(fit: str, verbs: bool) -> dict[int, list[tuple[bool, int, str]]]:
    """degree -> the (verb, row, modifier) that express it on something that takes the qualities of `fit`."""
    found: dict[int, list[tuple[bool, int, str]]] = {degree: [] for degree in range(-2, 3)}
    for row, ((base, group), _) in enumerate(lexicon.QUALITIES):
        if group not in ("*", fit):
            continue
        value = int(base)
        if abs(value) != 1:
            found[value] += [(False, row, "")] * 4
            continue
        found[value] += [(False, row, "plain")] * 3 + [(False, row, "fairly")]
        found[2 * value] += [(False, row, "very")] * 2
        found[-value] += [(False, row, "not")] * 2 + [(False, row, "not_very")]
        found[-2 * value] += [(False, row, "not_at_all")]
    if verbs:
        for row, ((degree, _), _) in enumerate(lexicon.VERBS):
            found[int(degree)] += [(True, row, "")] * 2
    return found


@cache
def _aspects(category: str) -> list[int]:
    return [row for row, ((where, _), _) in enumerate(lexicon.ASPECTS) if where in ("*", category)]


@cache
def _products(category: str) -> list[int]:
    return [row for row, ((where,), _) in enumerate(lexicon.PRODUCTS) if where == category]


@cache
def _rows_of_degree(name: str) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, (head, _) in enumerate(getattr(lexicon, name)):
        rows.setdefault(int(head[0]), []).append(row)
    return rows


def _clause(rng: random.Random, subject: tuple, degree: int, verbs: bool = False) -> Clause:
    fit = lexicon.ASPECTS[subject[1]][0][1] if subject[0] == "aspect" else "*"
    verb, word, modifier = rng.choice(_choices(fit, verbs)[degree])
    return Clause(subject, verb, word, modifier, degree)


def _frame(rng: random.Random, kind: str, degree: int, subjects: list[tuple], other: int) -> Frame:
    """A frame whose clauses that count say about `degree`; what does not count leans the other way."""
    weights = FRAMES[kind][0]
    if degree == 0 and kind in ("said_false", "said_true", "this_than", "other_than", "outcome"):
        degree = rng.choice((-1, 1))
    if degree and (kind in ("expected", "although") or rng.random() < 0.7):
        away = rng.choice((1, 2)) * (-1 if degree > 0 else 1)
    else:
        away = rng.choice((-2, -1, 1, 2))
    a = b = None
    extra = rng.randrange(len(lexicon.PEOPLE))
    verbs = kind in VERBS_FIT
    if kind == "outcome":
        extra = rng.choice(_rows_of_degree("OUTCOMES")[degree])
        value, weight = float(degree), 1.0
    elif kind in ("this_than", "other_than"):
        sign = 1 if kind == "this_than" else -1
        extra = rng.choice(_rows_of_degree("COMPARATIVES")[sign * degree])
        value, weight = float(degree), 1.0
    elif kind in ONE_CLAUSE:
        sign = -1 if kind == "said_false" else 1
        a = _clause(rng, subjects.pop(), sign * degree)
        value, weight = float(degree), 1.0
    else:
        if kind == "both":
            away = min(2, max(-2, degree + rng.choice((-1, 0, 0, 1))))
        subject = ("this",) if kind == "other" else subjects.pop()
        b = _clause(rng, subject, degree, verbs)
        if kind == "expected":
            a = _clause(rng, subject, away)
        elif kind == "other":
            a = _clause(rng, ("other", other), away)
        else:
            a = _clause(rng, subjects.pop(), away, verbs)
        value, weight = weights[0] * away + weights[1] * degree, sum(weights)
    return Frame(kind, a, b, extra, other, value, weight)


def compose(rng: random.Random, frames: tuple[int, ...] = (1, 1, 2)) -> Meaning:
    """Draw a meaning; `frames` are the numbers of frames to draw from."""
    category = rng.choice(lexicon.CATEGORIES)
    subjects: list[tuple] = [("aspect", row) for row in _aspects(category)]
    rng.shuffle(subjects)
    subjects.insert(rng.randrange(len(subjects) - 1), ("this",))
    mood = rng.uniform(-2.4, 2.4)
    other = rng.randrange(2 + len(lexicon.BRANDS))
    kinds = _draw_kinds(rng, rng.choice(frames))
    made = tuple(_frame(rng, k, min(2, max(-2, round(rng.gauss(mood, 0.35)))), subjects, other) for k in kinds)
    filler = (rng.randrange(len(lexicon.FILLERS)), rng.randrange(len(made) + 1)) if rng.random() < 0.4 else None
    title = rng.randrange(len(lexicon.TITLES)) if rng.random() < 0.5 else -1
    details = (rng.randrange(len(lexicon.TIMES)), rng.randrange(len(lexicon.RECEIVERS)), rng.randrange(2, 10))
    score = sum(f.value for f in made) / sum(f.weight for f in made)
    return Meaning(category, rng.choice(_products(category)), made, filler, title, details, score)


def _draw_kinds(rng: random.Random, n: int) -> list[str]:
    """n different kinds of frames, an outcome last, as reviews end."""
    kinds: list[str] = []
    while len(kinds) < n:
        kind = rng.choices(tuple(FRAMES), [often for _, often in FRAMES.values()])[0]
        if kind not in kinds:
            kinds.append(kind)
    return sorted(kinds, key=lambda kind: kind == "outcome")


def best_guess(meaning: Meaning) -> int:
    """The star, 1 to 5, that is most probable for a meaning: no classifier can do better on average."""
    return 1 + bisect.bisect(BORDERS, meaning.score)


def stars(meaning: Meaning, rng: random.Random) -> int:
    """The star, 1 to 5, that this reviewer gives: the meaning's score with a personal share."""
    return 1 + bisect.bisect(BORDERS, meaning.score + rng.gauss(0.0, NOISE))


# --------------------------------------------------------------------------------------------------- languages


@cache
def _pattern(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((literal, field or "") for literal, field, _, _ in Formatter().parse(text))


@cache
def _synonyms(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";"))


@cache
def _noun(language: str, name: str, row: int) -> tuple[str, str]:
    """(noun, its gender or measure word, "" where the language has none)."""
    cell: str = getattr(lexicon, name)[row][1][language]
    if language in ("en", "ja"):
        return cell, ""
    if language == "zh" and name == "ASPECTS":
        return cell, ""
    noun, _, mark = cell.rpartition(" ")
    return noun, mark


ARTICLE = {
    "fr": {"m": "le ", "f": "la "},
    "de": {"m": "der ", "f": "die ", "n": "das "},
    "es": {"m": "el ", "f": "la "},
}
THIS = {
    "fr": {"m": "ce ", "f": "cette "},
    "de": {"m": "dieser ", "f": "diese ", "n": "dieses "},
    "es": {"m": "este ", "f": "esta "},
}
THIS_ONE = {
    "fr": {"m": "celui-ci", "f": "celle-ci"},
    "de": {"m": "dieser", "f": "diese", "n": "dieses"},
    "es": {"m": "este", "f": "esta"},
}
MY_OLD = {
    "fr": {"m": "mon ancien ", "f": "mon ancienne "},
    "es": {"m": "mi antiguo ", "f": "mi antigua "},
    "de": {"m": "mein alter ", "f": "meine alte ", "n": "mein altes "},
}
SUBJECT_IT = {"fr": {"m": "il ", "f": "elle "}, "de": {"m": "er ", "f": "sie ", "n": "es "}}
OBJECT_IT = {
    "fr": {"m": "le", "f": "la"},
    "de": {"m": "ihn", "f": "sie", "n": "es"},
    "es": {"m": "lo", "f": "la"},
}
COPULA = {
    "en": {"main": "is", "past": "was", "would": "would be"},
    "fr": {"main": "est", "past": "était", "would": "serait"},
    "de": {"main": "ist", "past": "war", "would": "wäre"},
    "es": {"main": "es", "past": "era", "would": "sería"},
}
NOT = {
    "en": {"is": "is not ", "was": "was not ", "would be": "would not be "},
    "fr": {"est": "n'est pas ", "était": "n'était pas ", "serait": "ne serait pas "},
    "es": {"es": "no es ", "era": "no era ", "sería": "no sería "},
}


def _the(language: str, noun: str, gender: str) -> str:
    if language == "en":
        return "the "
    if language == "fr" and noun[0] in "aeiouéèh":
        return "l'"
    return ARTICLE.get(language, {}).get(gender, "")


GERMAN_NOT = {"not": "nicht ", "not_very": "nicht ", "not_at_all": "überhaupt nicht "}


@cache
def _noun_phrase(language: str, subject: tuple, product: int) -> tuple[str, str]:
    """(the subject as it stands before a verb, its gender)."""
    if subject[0] == "aspect":
        noun, gender = _noun(language, "ASPECTS", subject[1])
        return _the(language, noun, gender) + noun, gender
    noun, mark = _noun(language, "PRODUCTS", product)
    if subject[0] == "this":
        determiner = {"en": "this ", "zh": "这" + mark, "ja": "この"}.get(language) or THIS[language][mark]
        return determiner + noun, mark
    if subject[0] == "this_one":
        text = {"en": "this one", "zh": "这" + mark, "ja": "これ"}.get(language) or THIS_ONE[language][mark]
        return text, mark
    if subject[1] == 0:
        determiner = {"en": "my old ", "zh": "我以前的", "ja": "以前の"}.get(language) or MY_OLD[language][mark]
        return determiner + noun, mark
    the = _the(language, noun, mark)
    if subject[1] == 1:
        return {
            "en": f"my brother's {noun}",
            "fr": f"{the}{noun} de mon frère",
            "zh": f"我哥哥的{noun}",
            "de": f"{the}{noun} meines Bruders",
            "es": f"{the}{noun} de mi hermano",
            "ja": f"兄の{noun}",
        }[language], mark
    brand = lexicon.BRANDS[subject[1] - 2]
    return {
        "en": f"the {noun} from {brand}",
        "fr": f"{the}{noun} de {brand}",
        "zh": f"{brand}的{noun}",
        "de": f"{the}{noun} von {brand}",
        "es": f"{the}{noun} de {brand}",
        "ja": f"{brand}の{noun}",
    }[language], mark


@cache
def _modifiers(language: str, modifier: str) -> tuple[str, ...]:
    cell = next(row[language] for (name,), row in lexicon.MODIFIERS if name == modifier)
    space = "" if language in ("zh", "ja") else " "
    return tuple("" if part == "-" else part + space for part in _synonyms(cell))


def _adjective(language: str, clause: Clause, gender: str, rng: random.Random) -> str:
    """The adjective with its modifier, agreeing, without the copula and its negation (Japanese: the stem)."""
    word = rng.choice(_synonyms(lexicon.QUALITIES[clause.word][1][language]))
    if language in ("fr", "es"):
        word = word.split("/")[gender == "f"]
    elif language == "ja":
        word = word.rpartition(" ")[0]
    if not clause.modifier:
        return word
    word = rng.choice(_modifiers(language, clause.modifier)) + word
    if language == "en" and clause.modifier == "not_at_all":
        word += " at all"
    return word


@cache
def _japanese_ending(word: int, negated: bool, form: str) -> str:
    i_adjective = lexicon.QUALITIES[word][1]["ja"].endswith(" i")
    if form == "that":
        return ("くない" if negated else "い") if i_adjective else ("ではない" if negated else "だ")
    if form == "past":
        if i_adjective:
            return "くなかったです" if negated else "かったです"
        return "ではありませんでした" if negated else "でした"
    if i_adjective:
        return "くないです" if negated else "いです"
    return "ではありません" if negated else "です"


def _say(language: str, clause: Clause, form: str, product: int, rng: random.Random) -> str:
    """A clause in one of the forms of `lexicon.PATTERNS`."""
    subject = clause.subject
    if subject[0] == "this" and form == "main" and rng.random() < 0.5:
        subject = ("this_one",)
    text, gender = _noun_phrase(language, subject, product)
    if form.startswith("it"):  # the subject was named just before; Chinese, Spanish and Japanese leave it out
        text = "it" if language == "en" else SUBJECT_IT.get(language, {}).get(gender, "").strip()
        form = "inv" if form == "it_inv" else "main"
    if clause.verb:
        said = lexicon.VERBS[clause.word][1][language]
        if language == "de":
            verb, _, rest = said.partition("/")
            return _german(text, verb, rest, form, pronoun=True)
        return text + said if language in ("zh", "ja") else f"{text} {said}"
    adjective = _adjective(language, clause, gender, rng)
    if language == "zh":
        said = text + adjective
    elif language == "ja":
        particle = "が" if form in ("that", "would") else "は"
        said = (text and text + particle) + adjective
        said += _japanese_ending(clause.word, clause.modifier in NEGATED, form)
    elif language == "de":
        tense = "past" if form == "past_sub" else form
        verb = COPULA["de"].get(tense, "ist")
        said = _german(text, verb, GERMAN_NOT.get(clause.modifier, "") + adjective, form)
    else:
        verb = COPULA[language].get(form, COPULA[language]["main"])
        verb = NOT[language][verb] if clause.modifier in NEGATED else verb + " "
        said = (text and text + " ") + verb + adjective
    return said


def _german(subject: str, verb: str, rest: str, form: str, pronoun: bool = False) -> str:
    """The three places of the German verb. pronoun: `rest` starts with one, which goes before an inverted subject."""
    if form in ("sub", "would", "that", "past_sub"):
        return f"{subject} {rest} {verb}"
    if form != "inv":
        return f"{subject} {verb} {rest}"
    if pronoun:
        first, _, more = rest.partition(" ")
        return f"{verb} {first} {subject}{more and ' ' + more}"
    return f"{verb} {subject} {rest}"


@cache
def _slots(language: str, product: int, details: tuple[int, int, int]) -> dict[str, str]:
    """What fillers, titles and outcomes ask for."""
    noun, mark = _noun(language, "PRODUCTS", product)
    this = _noun_phrase(language, ("this",), product)[0]
    it = "it" if language == "en" else OBJECT_IT.get(language, {}).get(mark, "")
    return {
        "this": this,
        "this_acc": this.replace("dieser ", "diesen ", 1) if language == "de" else this,
        "Product": _capital(noun),
        "it": it,
        "It": _capital(it),
        "with_it": {"m": "él", "f": "ella"}.get(mark, ""),
        "time": lexicon.TIMES[details[0]][1][language],
        "receiver": lexicon.RECEIVERS[details[1]][1][language],
        "n": str(details[2]),
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def say_frame(frame: Frame, product: int, language: str, rng: random.Random) -> str:
    """One frame as one or two sentences."""
    if frame.kind == "outcome":
        text = lexicon.OUTCOMES[frame.extra][1][language]
        slots = _slots(language, product, (0, 0, 0))
        return "".join(literal + (slots[field] if field else "") for literal, field in _pattern(text))
    a, b = frame.a, frame.b
    if frame.kind in ("both", "weigh") and rng.random() < 0.5:
        a, b = b, a
    parts = []
    for literal, field in _pattern(rng.choice(lexicon.PATTERNS[frame.kind][language])):
        parts.append(literal)
        slot, _, form = field.partition(".")
        if slot == "a":
            assert a is not None
            text = _say(language, a, form, product, rng)
        elif slot == "b":
            assert b is not None
            text = _say(language, b, form, product, rng)
        elif slot == "x":
            assert frame.b is not None
            text = _noun_phrase(language, frame.b.subject, product)[0]
        elif slot == "person":
            text = lexicon.PEOPLE[frame.extra][1][language]
        elif slot in ("this", "other"):
            who = ("this",) if slot == "this" else ("other", frame.other)
            if slot == "this" and literal and rng.random() < 0.5:
                who = ("this_one",)
            text = _noun_phrase(language, who, product)[0]
        elif slot == "cmp":
            text = rng.choice(_synonyms(lexicon.COMPARATIVES[frame.extra][1][language]))
            if language == "fr":
                text = text.split("/")[_noun(language, "PRODUCTS", product)[1] == "f"]
        else:
            text = ""
        ended = not "".join(parts).strip() or "".join(parts).rstrip()[-1:] in ".。"
        parts.append(_capital(text) if ended else text)
    return "".join(parts)


def say(meaning: Meaning, language: str, rng: random.Random) -> tuple[str, str]:
    """(body, title) of a review; the language's synonyms and patterns are drawn from `rng`."""
    sentences = [say_frame(frame, meaning.product, language, rng) for frame in meaning.frames]
    slots = _slots(language, meaning.product, meaning.details)
    if meaning.filler is not None:
        row, place = meaning.filler
        filler = lexicon.FILLERS[row][1][language]
        sentences.insert(place, _capital("".join(x + (slots[f] if f else "") for x, f in _pattern(filler))))
    body = ("" if language in ("zh", "ja") else " ").join(sentences)
    title = lexicon.TITLES[max(meaning.title, 0)][1][language]
    text = _capital("".join(x + (slots[f] if f else "") for x, f in _pattern(title)))
    if meaning.title < 0:
        text = _headline(meaning, language, rng) or text
    return body, text


def _headline(meaning: Meaning, language: str, rng: random.Random) -> str:
    """A title from one clause of the text, which need not be the one that counts: "Handle: very good"."""
    clauses = [c for f in meaning.frames for c in (f.a, f.b) if c and not c.verb and c.modifier not in NEGATED]
    clauses = [clause for clause in clauses if clause.subject[0] == "aspect"]
    if not clauses:
        return ""
    clause = rng.choice(clauses)
    noun, gender = _noun(language, "ASPECTS", clause.subject[1])
    adjective = _adjective(language, clause, gender, rng)
    if language == "ja":
        adjective += "い" if lexicon.QUALITIES[clause.word][1]["ja"].endswith(" i") else ""
    colon = {"fr": " : ", "zh": "：", "ja": "は"}.get(language, ": ")
    return _capital(noun) + colon + adjective


# ------------------------------------------------------------------------------------------------------- texts


def reviews(language: str, split: str, n: int, seed: int = 0) -> Iterator[tuple[Meaning, dict]]:
    """n reviews in MARC's columns with the meanings behind them, the same number of each star.

    Raises ValueError when n is not a multiple of five.
    """
    if n % 5:
        raise ValueError(f"{n} reviews cannot have the same number of each of 5 stars: use a multiple of 5")
    rng = random.Random(f"toy {seed} reviews {split} {language}")  # a string seed is hashed by sha512, not hash()
    first = 2_000_000 * SPLITS.index(split)
    left = Counter(dict.fromkeys(range(1, 6), n // 5))
    for number in range(n):
        while True:
            meaning = compose(rng)
            given = stars(meaning, rng)
            if left[given]:
                break
        left[given] -= 1
        body, title = say(meaning, language, rng)
        yield (
            meaning,
            {
                "review_id": f"{language}_{first + number:07d}",
                "product_id": f"product_{language}_{rng.randrange(10**6):07d}",
                "reviewer_id": f"reviewer_{language}_{rng.randrange(10**6):07d}",
                "stars": given,
                "review_body": body,
                "review_title": title,
                "language": language,
                "product_category": meaning.category,
            },
        )


def write_reviews(folder: Path, train: int = 6000, dev: int = 500, test: int = 1000, seed: int = 0) -> None:
    """Write `dataset_<language>_{train,dev,test}.json`, MARC's own layout, one review per line.

    train: rows for each of `SUPERVISED`, the others get no training file. dev, test: rows for all languages, not
    parallel across them. Raises ValueError when a size is not a multiple of five.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in zip(SPLITS, (train, dev, test), strict=True):
        for language in SUPERVISED if split == "train" else LANGUAGES:
            rows = (json.dumps(row, ensure_ascii=False) for _, row in reviews(language, split, n, seed))
            text = "".join(row + "\n" for row in rows)
            path = folder / f"dataset_{language}_{split}.json"
            part = path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)


def unlabelled(language: str, n: int, seed: int = 0) -> list[tuple[str, str]]:
    """n reviews without stars, (body, title + " " + category), from other draws than the labelled ones."""
    rng = random.Random(f"toy {seed} unlabelled {language}")
    texts = []
    for _ in range(n):
        meaning = compose(rng)
        body, title = say(meaning, language, rng)
        texts.append((body, f"{title} {meaning.category}"))
    return texts


def parallel(n: int, seed: int = 0, frames: tuple[int, ...] = (1,)) -> list[dict[str, str]]:
    """n short texts, each said in all six languages: {language: text}."""
    rng = random.Random(f"toy {seed} parallel")
    rows = []
    for _ in range(n):
        meaning = compose(rng, frames)
        rows.append({language: say(meaning, language, rng)[0] for language in LANGUAGES})
    return rows
