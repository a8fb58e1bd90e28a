"""The one place that makes consoles: rich's, as wide as the terminal."""

from rich.console import Console

FILE_WIDTH = 200  # columns of a file or a pipe, where rich would take 80


def make_console(stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=FILE_WIDTH)
