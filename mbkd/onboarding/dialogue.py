"""Questions on a terminal; without one the guesses are the answers, or an option has to be."""

import sys
from collections.abc import Callable
from typing import Any

from mbkd.errors import UserError


class Dialogue:
    """Asks on a terminal; elsewhere takes the guess, or says which option would have answered."""

    def __init__(self, interactive: bool):
        self.interactive = interactive

    def ask(
        self, question: str, option: str, known: Any, guess: Any, parse: Callable[[str], Any] = str, hint: str = ""
    ) -> Any:
        """The known answer, or what the user types (Enter takes the guess), or the guess. Raises UserError.

        parse: makes an answer of a text, or raises UserError, after which the question comes again. hint: what there is
        to choose from, said where nothing can be guessed.
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
            raise UserError(f"{question}? It cannot be known from the rows: say it with {option}{hint}")
        return guess

    def confirm(self, question: str, option: str, known: bool | None, guess: bool | None) -> bool:
        """Yes or no, as `ask`."""
        if known is None and self.interactive:
            import typer

            return typer.confirm(question, default=bool(guess), err=True)
        if known is None and guess is None:
            raise UserError(f"{question} Say it with {option}")
        return bool(guess if known is None else known)
