"""Dynamic batching of the rows of all requests: a bounded queue, and one thread that runs the model.

While the model runs, new rows collect in the queue. They are then sorted by length and divided into batches. An idle
model starts at once.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mbkd.data.batches import evaluation_batches
from mbkd.predict.classifier import Classifier, Encoding, length_of

LONGEST_RETRY = 60  # seconds


class Full(Exception):
    """The queue has no space for a request. seconds: the suggested time before a retry."""

    def __init__(self, seconds: int):
        super().__init__(f"full for about {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class Request:
    """The rows of one request, and the answers so far. `done` gets the complete answers."""

    rows: Sequence[tuple[str, str | None]]
    branches: bool
    done: asyncio.Future[list[Any]]
    answers: dict[int, Any] = field(default_factory=dict)


class Waiting(NamedTuple):
    """A row in the queue: the `number`-th of its request."""

    request: Request
    number: int
    inputs: Encoding


class Worker:
    """The thread that runs the model, and its queue.

    batch_tokens: maximum tokens of a batch, with padding; capacity: rows in the queue; observe(rows, tokens, seconds):
    called for every batch.
    """

    def __init__(
        self, classifier: Classifier, batch_tokens: int, capacity: int, observe: Callable[[int, int, float], None]
    ):
        self._classifier, self._budget, self._capacity, self._observe = classifier, batch_tokens, capacity, observe
        self._news = threading.Condition()  # guards the next three attributes
        self._new: list[Request] = []
        self._rows = 0
        self._closed = False
        self._seconds_per_row = 0.0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread, for requests of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer the rows in the queue, and stop the thread."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """The number of rows in the queue."""
        return self._rows

    async def ask(self, rows: Sequence[tuple[str, str | None]], branches: bool) -> list[dict[str, Any]]:
        """Return the fields of an `Answer` for each row. Raises Full, or the model's error."""
        request = Request(rows, branches, asyncio.get_running_loop().create_future())
        with self._news:
            if self._rows + len(rows) > self._capacity:
                raise Full(min(max(math.ceil(self._rows * self._seconds_per_row), 1), LONGEST_RETRY))
            self._rows += len(rows)
            self._new.append(request)
            self._news.notify()
        return await request.done

    def _work(self) -> None:
        while True:
            with self._news:
                while not (self._new or self._closed):
                    self._news.wait()
                new, self._new = self._new, []
            if not new:
                return
            # Answers all collected rows before newer ones, to limit the waiting time of each row.
            rows = self._encoded(new)
            for batch in evaluation_batches(np.array([length_of(row.inputs) for row in rows]), self._budget, 0, 1):
                self._answer([rows[i] for i in batch])

    def _encoded(self, requests: list[Request]) -> list[Waiting]:
        """Return the rows of requests with their tokens."""
        places = [(request, number) for request in requests for number in range(len(request.rows))]
        try:
            encoded = self._classifier.encode([request.rows[number] for request, number in places])
        except Exception as error:  # the thread must survive every error of a text or the model
            self._take_out(len(places))
            self._loop.call_soon_threadsafe(_fail, requests, error)
            return []
        return [Waiting(*place, inputs) for place, inputs in zip(places, encoded, strict=True)]

    def _answer(self, batch: list[Waiting]) -> None:
        self._take_out(len(batch))
        batch = [row for row in batch if not row.request.done.done()]  # skip cancelled and failed requests
        if not batch:
            return
        inputs = [row.inputs for row in batch]
        began = time.perf_counter()
        try:
            found = self._classifier.probabilities(inputs).tolist()
            asked = [i for i, row in enumerate(batch) if row.request.branches]
            weights = self._classifier.branch_weights([inputs[i] for i in asked]) if asked else {}
        except Exception as error:  # as in `_encoded`; for example out of memory
            self._loop.call_soon_threadsafe(_fail, [row.request for row in batch], error)
            return
        seconds = time.perf_counter() - began
        self._seconds_per_row += 0.2 * (seconds / len(batch) - self._seconds_per_row)
        self._observe(len(batch), sum(map(length_of, inputs)), seconds)
        answers = [self._worded(values) for values in found]
        for place, i in enumerate(asked):
            answers[i]["branches"] = {
                mixer: {x: round(w, 6) for x, w in zip(self._classifier.branches, values[place].tolist(), strict=True)}
                for mixer, values in weights.items()
            }
        self._loop.call_soon_threadsafe(_deliver, batch, answers)

    def _worded(self, values: list[float]) -> dict[str, Any]:
        found = dict(zip(self._classifier.labels, values, strict=True))
        label = max(found, key=found.__getitem__)  # before rounding, which can create ties
        return {"label": label, "probabilities": {name: round(x, 6) for name, x in found.items()}}

    def _take_out(self, rows: int) -> None:
        with self._news:
            self._rows -= rows


# The functions below run in the event loop's thread, because futures are not thread-safe.


def _deliver(batch: list[Waiting], answers: list[dict[str, Any]]) -> None:
    for row, answer in zip(batch, answers, strict=True):
        request = row.request
        request.answers[row.number] = answer
        if len(request.answers) == len(request.rows) and not request.done.done():
            request.done.set_result([request.answers[i] for i in range(len(request.rows))])


def _fail(requests: list[Request], error: Exception) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
