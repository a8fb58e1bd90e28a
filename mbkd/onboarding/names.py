"""Roles of columns by their names: text, label, pairs of texts, and languages."""

import re

from mbkd.onboarding.languages import base, is_code

# Usual names, the most certain first.
NAMES = {
    "text": "text body review_body sentence content review comment message document utterance tweet question premise "
    "abstract description",
    "text_pair": "text_pair title review_title subject headline",
    "label": "label labels class category target gold_label entailment_label entailment_judgment sentiment stars "
    "rating score intent topic queue is_duplicate y",
    "language": "language lang locale language_code lang_code",
    "id": "id uid guid uuid review_id row_id pairid pair_id index_id",
}
# The names of a pair's two columns: two words, or one word with two marks.
PAIRS = (
    ("premise", "hypothesis"), ("premise", "hypo"), ("question", "answer"), ("question", "sentence"),
    ("question", "passage"), ("question", "context"), ("query", "passage"), ("query", "document"), ("query", "title"),
    ("claim", "evidence"), ("context", "response"), ("context", "statement"), ("text", "hypothesis"),
    ("headline", "body"), ("post", "reply"),
)  # fmt: skip
MARKS = (("1", "2"), ("a", "b"), ("0", "1"), ("first", "second"), ("one", "two"), ("left", "right"), ("x", "y"))
STEMS = {
    *("sentence", "sent", "s", "text", "txt", "t", "question", "q", "premise", "sequence", "seq", "segment", "passage"),
    *("paragraph", "phrase", "document", "doc", "utterance", "comment", "tweet", "statement", "claim", "argument"),
    *("title", "string", "review"),
}


def in_language(names: list[str], language: str | None) -> list[str]:
    """Return the columns without those whose names end in other languages.

    Columns in other languages stay if no column with the same stem is in `language`.
    """
    endings = {name: tuple(words_of(name)) for name in names}
    siblings: dict[tuple[str, ...], set[str]] = {}
    for words in endings.values():
        if len(words) > 1 and is_code(words[-1]):
            siblings.setdefault(words[:-1], set()).add(base(words[-1]))
    wanted = base(language) if language else None
    return [
        name
        for name, words in endings.items()
        if wanted not in siblings.get(words[:-1], ())
        or len(siblings[words[:-1]]) < 2
        or not is_code(words[-1])
        or base(words[-1]) == wanted
    ]


def languages(names: list[str]) -> set[str]:
    """Return the languages at the ends of column names."""
    ends = {words_of(name)[-1] for name in names if len(words_of(name)) > 1}
    return {x for x in ends if is_code(x)}


def pairs(names: list[str], one: str | None = None) -> list[tuple[str, str]]:
    """Return the pairs of columns with the shortest names, in any case and order.

    one: a known column of the pair. More than one pair means that the names are ambiguous.
    """
    by_words = {tuple(words_of(name)): name for name in names}
    found: dict[tuple[str, str], int] = {}
    for words, name in by_words.items():
        for first, second in (*PAIRS, *MARKS):
            for place, word in enumerate(words):
                other = (*words[:place], second, *words[place + 1 :])
                stem_fits = (first, second) in PAIRS or (set(words) - {word}) & STEMS or not words[1:]
                if word == first and other in by_words and stem_fits and one in (None, name, by_words[other]):
                    found[name, by_words[other]] = len(words)
    shortest = min(found.values(), default=0)
    best = [pair for pair, length in found.items() if length == shortest]
    more = [(a, by_words[third]) for a, b in best for third in _thirds(words_of(a), words_of(b)) if third in by_words]
    return [*best, *more]


def _thirds(first: list[str], second: list[str]) -> list[tuple[str, ...]]:
    """Return the name of a third column in a series: text3 after text1 and text2."""
    after = {("1", "2"): "3", ("a", "b"): "c", ("0", "1"): "2"}
    place = next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), 0)
    mark = after.get((first[place], second[place]))
    return [(*first[:place], mark, *first[place + 1 :])] if mark else []


def words_of(name: str) -> list[str]:
    """Return the lower-case words of a name: sentence, a, ja for sentence_A_Ja; text, b for textb."""
    words = [x.lower() for x in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)]
    return [part for x in words for part in ((x[:-1], x[-1]) if x[:-1] in STEMS and x[-1] in "ab" else (x,))]


def stem(name: str, language: str | None) -> str:
    """Return a column's name in the form of NAMES, without the language at its end."""
    words = words_of(name)
    ends = language is not None and len(words) > 1 and is_code(words[-1]) and base(words[-1]) == base(language)
    return "_".join(words[:-1]) if ends else name.lower()


def is_half(name: str) -> bool:
    """Return whether a column's name belongs to a pair: premise, sentence1."""
    words = words_of(name)
    halves = {"premise", "hypothesis", "hypo", "question", "query", "claim"}
    return bool(set(words) & halves) or (len(words) > 1 and words[0] in STEMS and words[1] in sum(MARKS, ()))
