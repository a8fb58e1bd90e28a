"""`python -m mbkd` is the `mbkd` command."""

from mbkd.cli import main

main()
