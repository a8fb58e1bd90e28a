"""What a request may ask for, and how it is refused: every refusal says what is wrong, where, and what to do."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    body        bytes of a request's body
    texts       rows of a request
    characters  of a text, or of the second one of a pair; what the model cannot take of it is cut
    queue       rows that wait for the model, over all requests
    """

    body: int = 1_000_000
    texts: int = 256
    characters: int = 20_000
    queue: int = 1024


class Row(BaseModel):
    """A text, or the two texts of a pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(description="what to classify", examples=["Das ist gut."])]
    text_pair: Annotated[str | None, Field(description="the second text of a pair")] = None


class Answer(BaseModel):
    """What the model says about a row; `branches` where it was asked for."""

    label: str
    probabilities: dict[str, float]
    branches: dict[str, dict[str, float]] | None = None


class Problem(BaseModel):
    """Why a request got no answer."""

    error: Annotated[str, Field(description="what is wrong")]
    where: str
    do: Annotated[str, Field(description="what to do about it")]


class Refused(Exception):
    """A request without an answer: its status, the three parts of `Problem`, and seconds to wait before another try."""

    def __init__(self, status: int, error: str, where: str, do: str, retry_after: int | None = None):
        super().__init__(error)
        self.status, self.retry_after = status, retry_after
        self.problem = {"error": error, "where": where, "do": do}


EXAMPLE = 'send {"text": "..."}, perhaps with "text_pair", or a list of such objects'
ONE, MANY = TypeAdapter(Row), TypeAdapter(list[Row])


def parse(body: bytes, limits: Limits) -> tuple[list[Row], bool]:
    """The rows of a body, and whether it is a list of them. Raises Refused."""
    many = body.lstrip(b" \t\r\n").startswith(b"[")
    try:
        rows = MANY.validate_json(body) if many else [ONE.validate_json(body)]
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)[0]) from None
    if not rows:
        raise Refused(422, "the list is empty", "body", EXAMPLE)
    if len(rows) > limits.texts:
        raise Refused(413, f"{len(rows)} texts in one request", "body", f"send {limits.texts} at most at a time")
    for number, row in enumerate(rows):
        place = (number,) if many else ()
        if not row.text.strip():
            raise Refused(422, "the text is empty", _where((*place, "text")), "leave the row out, or give it a text")
        for name, text in (("text", row.text), ("text_pair", row.text_pair or "")):
            if len(text) > limits.characters:
                what = f"a text of {len(text):,} characters"
                raise Refused(422, what, _where((*place, name)), f"send {limits.characters:,} at most")
    return rows, many


def _refused(error: Any) -> Refused:
    """The first thing that pydantic found wrong, in our words."""
    kind, where = error["type"], _where(error["loc"])
    if kind == "json_invalid":
        reason = str(error["ctx"]["error"])
        return Refused(400, f"not valid JSON ({reason})", "body", EXAMPLE)
    if kind == "missing":
        return Refused(422, f"no field {error['loc'][-1]!r}", where, EXAMPLE)
    if kind == "extra_forbidden":
        return Refused(422, f"unknown field {str(error['loc'][-1])[:40]!r}", where, "there are text and text_pair")
    given = json.dumps(error["input"], ensure_ascii=True, default=str)
    return Refused(422, f"{error['msg']}, not {given[:40]}", where, EXAMPLE)


def _where(place: tuple[int | str, ...]) -> str:
    """Such as: row 3, text. Rows count from 0, as in the list that was sent."""
    parts = [f"row {x}" if isinstance(x, int) else str(x)[:40] for x in place]
    return ", ".join(parts) or "body"
