"""`python -m bonsai_quant` is the command line."""

from bonsai_quant.cli.main import main

main(name="python -m bonsai_quant")
