"""The rich consoles of all commands."""

from rich.console import Console

FILE_WIDTH = 200  # columns in a file or a pipe; rich's default is 80


def make_console(stderr: bool = False) -> Console:
    """Return a console on standard output or standard error, as wide as the terminal."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=FILE_WIDTH)
