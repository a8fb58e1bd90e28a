"""How a command ends early: an error that the user can mend (exit code 2), a fault of a moment (69), a signal (75)."""

import errno
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: what fails for a moment failed at every try
STOPPED = 75  # EX_TEMPFAIL: the same command, given again, goes on

WAITS = (1, 5, 20, 60, 240)  # seconds before each further try; the hub counts requests in windows of five minutes
# A network file system whose server was away; a connection that broke off.
ERRNOS = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED}
# The same as the clients of the hub and of object stores call it. No network at all is no fault of a moment.
CLASSES = {"ReadError", "ReadTimeout", "RemoteProtocolError", "ServerDisconnectedError", "WriteError", "WriteTimeout"}

T = TypeVar("T")


class UserError(Exception):
    """Says what is wrong, where (file and line, or field), and what to do."""


class TransientError(Exception):
    """Says what failed and may succeed unchanged a moment later; nothing that the user must mend."""


class GaveUp(TransientError):
    """A fault of a moment that lasted longer than `patiently` waits."""


class Stopped(Exception):
    """A signal asked the run to stop; its message says where the run goes on."""


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is a fault of a moment.

    An error that another module made of it counts, too: its cause or context still is the first one.
    """
    return any(
        isinstance(each, TransientError)
        or {kind.__name__ for kind in type(each).__mro__} & CLASSES
        or (isinstance(each, OSError) and each.errno in ERRNOS)
        or _unavailable(each)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from or after."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unavailable(error: Any) -> bool:
    """Whether a server answered that it cannot serve now: too many requests, or an error of its own."""
    answer = getattr(error, "response", error)
    status = getattr(answer, "status_code", getattr(answer, "status", getattr(answer, "code", None)))
    return isinstance(status, int) and (status == 429 or 500 <= status < 600)


def waits() -> Iterator[float]:
    """Seconds to wait before each further try, moved at random, so that many processes do not come back at once."""
    return (wait * random.uniform(0.75, 1.25) for wait in WAITS)


def patiently(work: Callable[[], T]) -> T:
    """What `work` returns; after a fault of a moment it is tried again, as often as `waits` says.

    Raises GaveUp where every try failed; what else `work` raises is raised at once.
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
