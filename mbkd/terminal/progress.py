"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing on ranks that do not print."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mbkd.terminal.console import make_console

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """Counts steps of one piece of work and shows what it is told about them.

    title: what is done; total: steps; show: False on every rank but the first; done: steps from before.
    """

    def __init__(self, title: str, total: int, show: bool = True, done: int = 0):
        self.title, self.total, self.show = title, total, show
        self.first, self.done, self.began, self.last_line = done, done, time.monotonic(), time.monotonic()
        self.bar: Progress | None = None
        self.values: dict[str, Any] = {}

    def __enter__(self) -> "ProgressBar":
        console = make_console(stderr=True)
        if self.show and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.bar.start()
            self.bar_task = self.bar.add_task(self.title, total=self.total, completed=self.done, note="")
        elif self.show:
            self._line("started")
        return self

    def advance(self, values: dict[str, Any] | None = None, steps: int = 1) -> None:
        """Count steps; values are shown as name and number until the next ones come."""
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
        if self.bar is not None:
            self.bar.stop()
        elif self.show and kind is None:
            self._line(f"done in {clock(time.monotonic() - self.began)}")

    def _left(self) -> str:
        spent = time.monotonic() - self.began
        return clock(spent / max(1, self.done - self.first) * (self.total - self.done))

    def _line(self, note: str) -> None:
        self.last_line = time.monotonic()
        print(f"{self.title}  {self.done}/{self.total}  {note}", file=sys.stderr, flush=True)


def _note(values: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
