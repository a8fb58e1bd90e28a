"""Progress of a sweep: a live table on a terminal, otherwise a line per finished run."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from mbkd.terminal.console import make_console
from mbkd.terminal.progress import clock
from tuning.protocols import Group


class Board:
    """Tracks the runs of a sweep as they start, finish and fail.

    best: returns a group's best dev average so far, or None, and its number of finished runs.
    """

    def __init__(self, title: str, groups: list[Group], best: Callable[[Group], tuple[float | None, int]]):
        self.title, self.groups, self.best = title, groups, best
        self.console = make_console(stderr=True)
        self.stage, self.at_once = "", 1
        self.weights: dict[str, float] = {}  # of the runs of this stage that are left or running
        self.started: dict[str, float] = {}
        self.seconds = self.weight_done = 0.0
        self.failed: list[str] = []
        self.live: Live | None = None

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.picture, console=self.console, refresh_per_second=1)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def begin(self, stage: str, weights: dict[str, float], at_once: int) -> None:
        """Start a stage. weights: relative duration of each run, by name."""
        self.stage, self.weights, self.at_once = stage, dict(weights), max(1, at_once)
        self.started.clear()
        self.say(f"{stage}: {len(weights)} to do, {min(at_once, len(weights))} at a time")

    def start(self, name: str) -> None:
        """Record the start of a run, or its restart after a failure."""
        self.started[name] = time.monotonic()

    def end(self, name: str, note: str, failed: bool = False) -> None:
        """Record that a run has finished or finally failed."""
        began = self.started.pop(name, None)
        weight = self.weights.pop(name, 0.0)
        if failed:
            self.failed.append(name)
        elif began is not None:
            self.seconds += time.monotonic() - began
            self.weight_done += weight
        self.say(f"{'FAILED' if failed else 'done'}  {name}  {note}  {self.left()}")

    def say(self, line: str) -> None:
        """Print a line, above the live table if there is one."""
        if self.live is not None:
            self.live.console.print(line, highlight=False)
        else:
            self.console.print(line, highlight=False, soft_wrap=not self.console.is_terminal)

    def left(self) -> str:
        """Return the number of runs left in the stage, and their time estimated from the finished runs."""
        count = len(self.weights)
        if not count or not self.weight_done:
            return f"{count} left"
        spent = sum(time.monotonic() - began for began in self.started.values())
        rest = self.seconds / self.weight_done * sum(self.weights.values()) - spent
        return f"{count} left, about {clock(max(0.0, rest) / min(self.at_once, count))}"

    def picture(self) -> RenderableType:
        """Return the current runs, and the table with a row per group."""
        names = (Column(x, overflow="fold") for x in ("task", "system", "backbone", "finished", "best dev x100"))
        table = Table(*names, title=self.title, title_justify="left")
        for group in self.groups:
            score, finished = self.best(group)
            shown = "-" if score is None else f"{100 * score:.2f}"
            table.add_row(group.task, group.label, group.backbone.rsplit("/", 1)[-1], str(finished), shown)
        now = [f"  {name}  {clock(time.monotonic() - began)}" for name, began in self.started.items()]
        failed = f", {len(self.failed)} failed" if self.failed else ""
        # The table comes last, because a small window cuts off the end.
        return Stack(Text(f"{self.stage}: {self.left()}{failed}"), *map(Text, now), table)
