"""Errors that end a command: a user's error (exit code 2), a transient error (69), a signal (75)."""

import errno
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: a transient error persisted through every retry
STOPPED = 75  # EX_TEMPFAIL: the same command resumes the run

WAITS = (1, 5, 20, 60, 240)  # seconds before each retry; the hub limits requests in windows of five minutes
# An unreachable server of a network file system; a broken connection.
ERRNOS = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED}
# The same errors in the clients of the hub and of object stores. A missing network is not transient.
CLASSES = {"ReadError", "ReadTimeout", "RemoteProtocolError", "ServerDisconnectedError", "WriteError", "WriteTimeout"}

T = TypeVar("T")


class UserError(Exception):
    """An error that the user can fix. The message names the problem, its place, and the fix."""


class TransientError(Exception):
    """An error that may disappear on a retry, without a change by the user."""


class GaveUp(TransientError):
    """A transient error that persisted through every retry of `patiently`."""


class Stopped(Exception):
    """A signal stopped the run. The message names the step from which the run resumes."""


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or an error in its chain of causes and contexts, is transient."""
    return any(
        isinstance(each, TransientError)
        or {kind.__name__ for kind in type(each).__mro__} & CLASSES
        or (isinstance(each, OSError) and each.errno in ERRNOS)
        or _unavailable(each)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its chain of causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unavailable(error: Any) -> bool:
    """Whether a server answered with status 429 (too many requests) or 5xx (server error)."""
    answer = getattr(error, "response", error)
    status = getattr(answer, "status_code", getattr(answer, "status", getattr(answer, "code", None)))
    return isinstance(status, int) and (status == 429 or 500 <= status < 600)


def waits() -> Iterator[float]:
    """Yield the seconds before each retry, randomised to spread the retries of many processes."""
    return (wait * random.uniform(0.75, 1.25) for wait in WAITS)


def patiently(work: Callable[[], T]) -> T:
    """Return the result of `work`, with retries after transient errors as in `waits`.

    Raises GaveUp if every try failed. All other errors of `work` are raised at once.
    """
    left = waits()
    while True:
        try:
            return work()
        except Exception as error:
            if not is_transient(error) or any(isinstance(each, GaveUp) for each in _chain(error)):
                raise
            if (wait := next(left, None)) is None:
                raise GaveUp(f"{error}; tried {len(WAITS) + 1} times") from error
            print(f"warning: {error}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def lost_rank(error: Exception) -> bool:
    """Return whether an error of gloo or NCCL reports the loss of another rank."""
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        words in said
        for words in (
            "closed by peer",
            "reset by peer",
            "ncclRemoteError",
            "NCCL communicator was aborted",
            "collective operation timeout",
        )
    )
