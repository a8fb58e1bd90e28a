"""What a request may ask for, and how it is refused: every refusal says what is wrong, where, and what to do."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json


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
    note: Annotated[str | None, Field(description="what to know of this answer")] = None


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


def parse(body: bytes, limits: Limits) -> tuple[list[Row], bool]:
    """The rows of a body, and whether it is a list of them. Raises Refused, for the first thing that is wrong.

    Row by row: the event loop waits for this, and pydantic would describe every one of half a million bad rows.
    """
    try:
        sent = from_json(body)
    except ValueError as error:
        raise Refused(400, f"not valid JSON ({error})", "body", EXAMPLE) from None
    if not isinstance(sent, list):
        return [_row(sent, (), limits)], False
    if not sent:
        raise Refused(422, "the list is empty", "body", EXAMPLE)
    if len(sent) > limits.texts:
        raise Refused(413, f"{len(sent)} texts in one request", "body", f"send {limits.texts} at most at a time")
    return [_row(each, (number,), limits) for number, each in enumerate(sent)], True


def _row(sent: Any, place: tuple[int, ...], limits: Limits) -> Row:
    """The row that an object of the body at a place is. Raises Refused."""
    if not isinstance(sent, dict):
        raise Refused(422, f"an object belongs here, not {_shown(sent)}", _where(place), EXAMPLE)
    try:
        row = Row.model_validate({name: sent[name] for name in Row.model_fields if name in sent})
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)[0], place) from None
    if (unknown := next((name for name in sent if name not in Row.model_fields), None)) is not None:
        raise Refused(422, f"unknown field {unknown[:40]!r}", _where((*place, unknown)), "there are text and text_pair")
    if not (row.text + (row.text_pair or "")).strip():
        raise Refused(422, "the text is empty", _where((*place, "text")), "leave the row out, or give it a text")
    for name, text in (("text", row.text), ("text_pair", row.text_pair or "")):
        if len(text) > limits.characters:
            what = f"a text of {len(text):,} characters"
            raise Refused(422, what, _where((*place, name)), f"send {limits.characters:,} at most")
    return row


def _refused(error: Any, place: tuple[int, ...]) -> Refused:
    """What pydantic found wrong with a row, in our words."""
    where = _where((*place, *error["loc"]))
    if error["type"] == "missing":
        return Refused(422, f"no field {error['loc'][-1]!r}", where, EXAMPLE)
    return Refused(422, f"{error['msg']}, not {_shown(error['input'])}", where, EXAMPLE)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:40]


def _where(place: tuple[int | str, ...]) -> str:
    """Such as: row 3, text. Rows count from 0, as in the list that was sent."""
    parts = [f"row {x}" if isinstance(x, int) else str(x)[:40] for x in place]
    return ", ".join(parts) or "body"
