"""`python -m bonsai_quant` is the command line."""

from .cli import main

main()
