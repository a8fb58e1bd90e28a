"""Questions on a terminal. Without a terminal, options or guesses are the answers."""

import sys
from collections.abc import Callable
from typing import Any

from mbkd.errors import UserError


class Dialogue:
    """Asks on a terminal. Without a terminal, uses the guess, or raises an error that names the option."""

    def __init__(self, interactive: bool):
        self.interactive = interactive

    def ask(
        self, question: str, option: str, known: Any, guess: Any, parse: Callable[[str], Any] = str, hint: str = ""
    ) -> Any:
        """Return the known answer, or the answer on the terminal (Enter accepts the guess), or the guess.

        parse: converts a text to an answer, or raises UserError; a terminal then shows the question again.
        hint: the possible answers, shown if the guess is None. Raises UserError without an answer.
        """
        if known is not None:
            return parse(known) if isinstance(known, str) else known
        shown = ", ".join(guess) if isinstance(guess, (list, tuple)) else guess
        if hint and guess is None and self.interactive:
            print(hint, file=sys.stderr)
        while self.interactive:
            import typer

            answer = typer.prompt(question, default=shown, err=True)
            try:
                return parse(answer)
            except UserError as error:
                print(error, file=sys.stderr)
        if guess is None:
            hint = f"; {hint}" if hint else ""
            raise UserError(f"{question}? The rows do not show this; use {option}{hint}")
        return guess

    def confirm(self, question: str, option: str, known: bool | None, guess: bool | None) -> bool:
        """Return an answer to a yes-or-no question, as `ask` does. Raises UserError."""
        if known is None and self.interactive:
            import typer

            return typer.confirm(question, default=bool(guess), err=True)
        if known is None and guess is None:
            raise UserError(f"{question} Use {option}")
        return bool(guess if known is None else known)
