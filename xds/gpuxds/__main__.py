"""`python -m gpuxds` is the `gpuxds` program."""

from gpuxds.cli import main

main()
