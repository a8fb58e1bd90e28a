"""The web application: classify, health, metrics, and a page to try a text."""

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

PATIENCE = 30.0  # seconds in which a request's body must have come
PAGE = Path(__file__).with_name("page")
# The page may load and call this server and nothing else, and nobody may frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
ROW = Row.model_json_schema()
ALONE = "the model was trained on pairs of texts, and this row has no text_pair"
SCHEMA = {"oneOf": [ROW, {"type": "array", "items": ROW}]}


def make_app(classifier: Classifier, name: str, limits: Limits, batch_tokens: int) -> FastAPI:
    """The application that serves a classifier; name: what the page calls it."""
    metrics = Metrics(lambda: worker.waiting)
    worker = Worker(classifier, batch_tokens, limits.queue, metrics.batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()  # after the last request was answered

    # FastAPI's pages of documentation load scripts from elsewhere; the schema itself needs nobody.
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
        branches: Annotated[bool, Query(description="with the weights of the branches, mixer by mixer")] = False,
    ) -> Response:
        rows, many = parse(await _body(request, limits.body), limits)
        try:
            answers = await worker.ask([(row.text, row.text_pair) for row in rows], branches)
        except Full as error:
            do = f"try again in {error.seconds} s, or send fewer texts at a time"
            raise Refused(503, "too many texts wait for the model", "server", do, error.seconds) from None
        if classifier.pairs:
            for row, answer in zip(rows, answers, strict=True):
                if row.text_pair is None:
                    answer["note"] = ALONE
        return JSONResponse(answers if many else answers[0])

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether texts are answered")
    async def healthz() -> Response:
        state = {"status": "ok" if worker.alive else "the model's thread has ended"}
        return JSONResponse(state, 200 if worker.alive else 503)

    @app.get("/model", summary="The model's name, labels and branches, and what a request may hold")
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
    """A request's body. Raises Refused, for one that is too large before all of it was read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which also keeps other sites' forms out: a browser would ask us first
        raise Refused(415, f"a body of type {kind[:40]!r}", "header", "send Content-Type: application/json")
    large = Refused(413, "the body is too large", "body", f"send {limit:,} bytes at most, in several requests")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise large
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        raise Refused(415, f"a body of encoding {coding[:40]!r}", "header", "send it as it is, or by gzip")
    body, sent = bytearray(), 0
    unpack = zlib.decompressobj(wbits=31) if coding == "gzip" else None  # 31: gzip's header and end

    async def read() -> None:
        nonlocal sent
        async for part in request.stream():
            sent += len(part)
            # No more than the limit comes out of a part, however small it was.
            body.extend(part if unpack is None else unpack.decompress(part, limit + 1 - len(body)))
            if max(sent, len(body)) > limit:
                raise large

    try:
        await asyncio.wait_for(read(), PATIENCE)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not come within {PATIENCE:.0f} s", "body", "send it faster") from None
    except ClientDisconnect:  # nobody reads this, but it is no error of the server's
        raise Refused(400, "the connection ended within the body", "body", "send all of it") from None
    except zlib.error as error:
        raise Refused(400, f"not valid gzip ({error})", "body", "send it as it is, or by gzip") from None
    if unpack is not None and not unpack.eof:
        raise Refused(400, "the gzip body has no end", "body", "send all of it")
    return bytes(body)


def _explain(app: FastAPI) -> None:
    """Let every error answer as `Problem` says."""

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
        return JSONResponse({"error": first["msg"], "where": where, "do": "leave it out, or say true or false"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"[:80]
        do = f"POST /classify; {EXAMPLE}"
        return JSONResponse({"error": error.detail, "where": where, "do": do}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        problem = {"error": "no answer, because of an error in the server", "where": "server", "do": "see its log"}
        return JSONResponse(problem, 500)
