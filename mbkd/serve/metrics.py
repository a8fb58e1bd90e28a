"""Metrics of the server, for Prometheus."""

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """waiting: returns the number of rows in the queue."""
        self._registry = ours = CollectorRegistry()
        self.requests = Counter("mbkd_requests", "Requests to classify, by status.", ["status"], registry=ours)
        self.seconds = _histogram("mbkd_request_seconds", "Time from a request's header to its answer.", SECONDS, ours)
        self.rows = Counter("mbkd_rows", "Classified rows.", registry=ours)
        self.tokens = Counter("mbkd_tokens", "Tokens of classified rows, without padding.", registry=ours)
        self.batch_rows = _histogram("mbkd_batch_rows", "Rows of a batch.", POWERS, ours)
        self.batch_seconds = _histogram("mbkd_batch_seconds", "Time of the model for a batch.", SECONDS, ours)
        Gauge("mbkd_waiting_rows", "Rows in the queue.", registry=ours).set_function(waiting)

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """Count a batch."""
        self.rows.inc(rows)
        self.tokens.inc(tokens)
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _histogram(name: str, what: str, buckets: Sequence[float], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, what, buckets=buckets, registry=registry)


class Counted:
    """A middleware that counts and times the requests to one path."""

    def __init__(self, app: ASGIApp, metrics: Metrics, path: str) -> None:
        self._app, self._metrics, self._path = app, metrics, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.seconds.observe(time.perf_counter() - began)
