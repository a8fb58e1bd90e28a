"""Progress of long work: a bar on a terminal, plain lines in files, nothing on other ranks."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mbkd.terminal.console import make_console

SECONDS_BETWEEN_LINES = 10.0
PATIENCE = 2.0  # for phases that often end at once


class ProgressBar:
    """Counts the steps of a piece of work and shows values for them.

    title:    name of the work
    total:    number of steps; 0 if the steps are not counted
    show:     False on every rank but the first
    done:     number of steps that are already done
    patience: seconds; shorter work shows nothing
    """

    def __init__(self, title: str, total: int, show: bool = True, done: int = 0, patience: float = 0.0):
        self.title, self.total = title, total
        self.first, self.done, self.began, self.last_line = done, done, time.monotonic(), time.monotonic()
        self.bar: Progress | None = None
        self.values: dict[str, Any] = {}
        self.show = False  # `_start` sets it after `patience`
        self.lock = threading.Lock()  # `_start` runs in the timer's thread
        self.timer = threading.Timer(patience, self._start) if show else None

    def __enter__(self) -> "ProgressBar":
        if self.timer is None:
            return self
        if self.timer.interval:
            self.timer.daemon = True
            self.timer.start()
        else:
            self._start()
        return self

    def _start(self) -> None:
        with self.lock:
            if self.timer is not None:
                self._show()

    def _show(self) -> None:
        self.show = True
        console = make_console(stderr=True)
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.bar.start()
            self.bar_task = self.bar.add_task(self.title, total=self.total or None, completed=self.done, note="")
        else:
            self._line("started")

    def advance(self, values: dict[str, Any] | None = None, steps: int = 1) -> None:
        """Count steps. values: names and numbers to show until the next values."""
        with self.lock:
            self.done += steps
            self.values = values or self.values
            if self.bar is not None:
                if values:
                    self.bar.update(self.bar_task, note=_note(values))
                self.bar.advance(self.bar_task, steps)
            elif self.show and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
                self._line(f"{_note(self.values)}  {self._left()} left")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.timer is not None:
            self.timer.cancel()
        with self.lock:
            self.timer = None  # a timer that fires now starts nothing
            if self.bar is not None:
                self.bar.stop()
            elif self.show and kind is None:
                self._line(f"done in {clock(time.monotonic() - self.began)}")

    def _left(self) -> str:
        spent = time.monotonic() - self.began
        return clock(spent / max(1, self.done - self.first) * (self.total - self.done))

    def _line(self, note: str) -> None:
        self.last_line = time.monotonic()
        count = f"  {self.done}/{self.total}" if self.total else ""
        print(f"{self.title}{count}  {note}", file=sys.stderr, flush=True)


def _note(values: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
