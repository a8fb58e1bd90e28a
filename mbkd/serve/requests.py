"""Requests, their limits, and refusals that state the problem, its place and its solution."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    body        bytes of a request's body
    texts       rows of a request
    characters  of a text, or of the second text of a pair; the model truncates longer inputs at its maximum length
    queue       waiting rows of all requests
    """

    body: int = 1_000_000
    texts: int = 256
    characters: int = 20_000
    queue: int = 1024


class Row(BaseModel):
    """A text, or the two texts of a pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(description="the text to classify", examples=["Das ist gut."])]
    text_pair: Annotated[str | None, Field(description="the second text of a pair")] = None


class Answer(BaseModel):
    """The model's answer for a row. `branches` is present on request."""

    label: str
    probabilities: dict[str, float]
    branches: dict[str, dict[str, float]] | None = None
    note: Annotated[str | None, Field(description="a warning about this answer")] = None


class Problem(BaseModel):
    """The reason why a request got no answer."""

    error: Annotated[str, Field(description="the problem")]
    where: str
    do: Annotated[str, Field(description="the solution")]


class Refused(Exception):
    """A refused request: its status, the parts of `Problem`, and the seconds before a retry."""

    def __init__(self, status: int, error: str, where: str, do: str, retry_after: int | None = None):
        super().__init__(error)
        self.status, self.retry_after = status, retry_after
        self.problem = {"error": error, "where": where, "do": do}


EXAMPLE = 'send {"text": "..."}, optionally with "text_pair", or a list of these objects'


def parse(body: bytes, limits: Limits) -> tuple[list[Row], bool]:
    """Return the rows of a body, and whether the body is a list. Raises Refused for the first problem.

    Validates row by row, because pydantic would describe every bad row of a list and block the event loop.
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
        raise Refused(413, f"{len(sent)} texts in one request", "body", f"send at most {limits.texts} per request")
    return [_row(each, (number,), limits) for number, each in enumerate(sent)], True


def _row(sent: Any, place: tuple[int, ...], limits: Limits) -> Row:
    """Return the row of an object in the body. place: its position in a list. Raises Refused."""
    if not isinstance(sent, dict):
        raise Refused(422, f"expected an object, not {_shown(sent)}", _where(place), EXAMPLE)
    try:
        row = Row.model_validate({name: sent[name] for name in Row.model_fields if name in sent})
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)[0], place) from None
    if (unknown := next((name for name in sent if name not in Row.model_fields), None)) is not None:
        raise Refused(422, f"unknown field {unknown[:40]!r}", _where((*place, unknown)), "use text and text_pair")
    if not (row.text + (row.text_pair or "")).strip():
        raise Refused(422, "the text is empty", _where((*place, "text")), "remove the row, or add a text")
    for name, text in (("text", row.text), ("text_pair", row.text_pair or "")):
        if len(text) > limits.characters:
            what = f"a text of {len(text):,} characters"
            raise Refused(422, what, _where((*place, name)), f"send at most {limits.characters:,}")
    return row


def _refused(error: Any, place: tuple[int, ...]) -> Refused:
    """Convert a validation error of pydantic to a refusal."""
    where = _where((*place, *error["loc"]))
    if error["type"] == "missing":
        return Refused(422, f"no field {error['loc'][-1]!r}", where, EXAMPLE)
    return Refused(422, f"{error['msg']}, not {_shown(error['input'])}", where, EXAMPLE)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:40]


def _where(place: tuple[int | str, ...]) -> str:
    """Return a place such as `row 3, text`. Rows count from 0, as in the list of the request."""
    parts = [f"row {x}" if isinstance(x, int) else str(x)[:40] for x in place]
    return ", ".join(parts) or "body"
