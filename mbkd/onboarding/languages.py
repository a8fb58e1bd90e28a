"""The language of a tag or name (by langcodes) or of a text (by py3langid, an offline model).

On the dev premises of XNLI's fifteen languages, the model's accuracy is 97 to 100 %, at 9,000 texts a second.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import langcodes

# Groups of similar languages. A confusion within a group does not indicate a wrong language.
ALIKE = (("no", "nb", "nn", "da"), ("hr", "bs", "sr", "sh"), ("id", "ms"), ("zh", "yue", "wuu"), ("ar", "arz", "ary"))
SHORTEST = 30  # bytes; shorter texts are unreliable
NO_LANGUAGE = {"und", "mul", "mis", "zxx"}  # undetermined, multiple, uncoded, no linguistic content


def looks_like(texts: Iterable[str], language: str) -> dict[str, Any] | None:
    """Measure the share of texts that look like a language.

    Returns {"rows": number of texts that are long enough, "own": share in the language, "others": {language: share} of
    the three most frequent others}, or None for an unknown language or without a text that is long enough.
    """
    model = _model()
    code = base(language)
    if code not in model.labels and code not in {x for group in ALIKE for x in group}:
        return None
    own = next((group for group in ALIKE if code in group), (code,))
    found = Counter(model.classify(text)[0] for text in texts if len(text.encode()) >= SHORTEST)
    rows = found.total()
    if not rows:
        return None
    others = Counter({x: count for x, count in found.items() if x not in own})
    return {
        "rows": rows,
        "own": 1 - others.total() / rows,
        "others": {x: count / rows for x, count in others.most_common(3)},
    }


def base(language: str) -> str:
    """Return the language of a tag or name, in ISO 639-1 if possible: pt for pt_BR, de for German."""
    return _tag(language.strip()) or language.strip().lower().replace("_", "-").split("-")[0]


def is_code(text: str) -> bool:
    """Return whether a text is a language's tag or English name, such as pt-BR, eng_Latn or german.

    A code of three letters needs an ISO 639-1 code or a known number of speakers, because most combinations of three
    letters are a code.
    """
    text = text.strip()
    tag = _tag(text)
    if not tag or tag in NO_LANGUAGE:
        return False
    if len(tag) == 2 or len(text) != 3:
        return True
    return langcodes.Language.get(tag).speaking_population() > 0


def is_sure(code: str) -> bool:
    """Return whether a code of `is_code` is probably no other word: de, zho_Hans; not bar (Bavarian)."""
    code = code.strip()
    return bool(re.search("[-_]", code)) or (len(code) <= 3 and len(_tag(code)) == 2)


def standard(language: str) -> str:
    """Return the shortest form of a code: en for eng_Latn, zh-Hans for zho_Hans, pt-BR for pt_br."""
    try:
        return str(langcodes.standardize_tag(language.strip(), macro=True))
    except ValueError:  # a name, such as german
        return base(language)


@cache
def _tag(text: str) -> str:
    """Return the language part of the standard tag of a text, or ""."""
    try:
        if langcodes.tag_is_valid(text):
            return langcodes.standardize_tag(text, macro=True).split("-")[0]
        if not text.isalpha() or len(text) < 4:
            return ""
        return langcodes.standardize_tag(langcodes.find(text).to_tag(), macro=True).split("-")[0]
    except (LookupError, ValueError):  # LanguageTagError is a ValueError
        return ""


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # the import takes half a second

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
