"""The web application: classification, health, metrics, and a page for trying texts."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import mbkd
from mbkd.predict.classifier import Classifier
from mbkd.serve.batching import Full, Worker
from mbkd.serve.metrics import Counted, Metrics
from mbkd.serve.requests import EXAMPLE, Answer, Limits, Problem, Refused, Row, parse

PATIENCE = 30.0  # maximum seconds for receiving a request's body
PAGE = Path(__file__).with_name("page")
# The page may only load from and call this server, and other pages may not embed it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
ROW = Row.model_json_schema()
ALONE = "the model was trained on pairs of texts, but this row has no text_pair"
SCHEMA = {"oneOf": [ROW, {"type": "array", "items": ROW}]}


def make_app(classifier: Classifier, name: str, limits: Limits, batch_tokens: int) -> FastAPI:
    """Return the application that serves a classifier. name: the model's name on the page."""
    metrics = Metrics(lambda: worker.waiting)
    worker = Worker(classifier, batch_tokens, limits.queue, metrics.batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()  # after the last answer

    # FastAPI's documentation pages are off, because they load scripts from a CDN. The schema stays.
    app = FastAPI(title=f"mbkd: {name}", version=mbkd.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Counted, metrics=metrics, path="/classify")
    _explain(app)
    problems: dict[int | str, dict[str, Any]] = {x: {"model": Problem} for x in (400, 408, 413, 415, 422, 503)}

    @app.post(
        "/classify",
        summary="Probabilities of the labels for a text, a pair of texts, or a list of either",
        response_model=Answer | list[Answer],
        responses=problems,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}},
    )
    async def classify(
        request: Request,
        branches: Annotated[bool, Query(description="adds the weights of the branches of each mixer")] = False,
    ) -> Response:
        rows, many = parse(await _body(request, limits.body), limits)
        try:
            answers = await worker.ask([(row.text, row.text_pair) for row in rows], branches)
        except Full as error:
            do = f"try again in {error.seconds} s, or send fewer texts per request"
            raise Refused(503, "too many texts are waiting", "server", do, error.seconds) from None
        if classifier.pairs:
            for row, answer in zip(rows, answers, strict=True):
                if row.text_pair is None:
                    answer["note"] = ALONE
        return JSONResponse(answers if many else answers[0])

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the server accepts texts")
    async def healthz() -> Response:
        state = {"status": "ok" if worker.alive else "the model's thread has stopped"}
        return JSONResponse(state, 200 if worker.alive else 503)

    @app.get("/model", summary="The model's name, labels and branches, and the limits of a request")
    async def model() -> dict[str, Any]:
        sizes = {"texts": limits.texts, "characters": limits.characters, "body": limits.body}
        about = {"name": name, "labels": classifier.labels, "branches": classifier.branches, "pairs": classifier.pairs}
        return about | {"limits": sizes}

    @app.get("/metrics", summary="Counters in Prometheus' text format")
    async def counters() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, file in (("/", "index.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        app.add_api_route(path, _file(file), methods=["GET", "HEAD"], include_in_schema=False)
    return app


def _file(name: str) -> Any:
    async def send() -> Response:
        return FileResponse(PAGE / name, headers=PAGE_HEADERS)

    return send


async def _body(request: Request, limit: int) -> bytes:
    """Return a request's body. Raises Refused; a body above `limit` bytes is not read to its end."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also blocks forms of other sites, because browsers need a preflight for JSON
        raise Refused(415, f"a body of type {kind[:40]!r}", "header", "send Content-Type: application/json")
    large = Refused(413, "the body is too large", "body", f"send at most {limit:,} bytes per request")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise large
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        raise Refused(415, f"a body of encoding {coding[:40]!r}", "header", "send it uncompressed or with gzip")
    body, sent = bytearray(), 0
    unpack = zlib.decompressobj(wbits=31) if coding == "gzip" else None  # 31: with the header and trailer of gzip

    async def read() -> None:
        nonlocal sent
        async for part in request.stream():
            sent += len(part)
            # Limits the output, because a small part can unpack to a large one.
            body.extend(part if unpack is None else unpack.decompress(part, limit + 1 - len(body)))
            if max(sent, len(body)) > limit:
                raise large

    try:
        await asyncio.wait_for(read(), PATIENCE)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not arrive within {PATIENCE:.0f} s", "body", "send the body faster") from None
    except ClientDisconnect:  # the client does not read this answer, but the log should have no server error
        raise Refused(400, "the connection ended inside the body", "body", "send the whole body") from None
    except zlib.error as error:
        raise Refused(400, f"not valid gzip ({error})", "body", "send it uncompressed or with gzip") from None
    if unpack is not None and not unpack.eof:
        raise Refused(400, "the gzip body is incomplete", "body", "send the whole body")
    return bytes(body)


def _explain(app: FastAPI) -> None:
    """Make every error answer with a `Problem`."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        return JSONResponse(error.problem, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def query(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ", ".join(map(str, first["loc"]))
        return JSONResponse({"error": first["msg"], "where": where, "do": "omit it, or use true or false"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"[:80]
        do = f"use POST /classify; {EXAMPLE}"
        return JSONResponse({"error": error.detail, "where": where, "do": do}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        problem = {"error": "no answer, because of an error in the server", "where": "server", "do": "see its log"}
        return JSONResponse(problem, 500)
