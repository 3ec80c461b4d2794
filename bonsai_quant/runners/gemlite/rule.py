"""Which way a product goes: through gemlite's kernels, or decoded and through the dense one."""

from __future__ import annotations

import os
import re
from typing import Literal

from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.schema import GROUP

Way = Literal["gemlite", "decode"]

MOST_ROWS = 32
"""Rows up to which a product goes through gemlite.

Not measured here: no card has been. Gemlite's author says of codes of 4 bits that they are faster
than 16 bits "up to batch-size 32 ish", since a larger product is bound by arithmetic, which codes
do not save (gemlite's issue 15; 1 to 64 in its issue 13). Here the other way decodes the weight at
each product, so gemlite's kernels may well be faster for more rows than that. `python -m
tools.gpu_check` measures it on a card, and prints the number for VARIABLE.
"""
VARIABLE = "BONSAI_QUANT_GEMLITE_ROWS"
"""The environment variable that replaces MOST_ROWS."""
OUT_STEP = 32
"""Gemlite reads scales in blocks of so many outputs at least."""


def way_of(rows: int, out: int, width: int, bits: int) -> Way:
    """The way of a product x [rows, width] W' with W [out, width] in codes of `bits`."""
    fits = out % OUT_STEP == 0 and width % GROUP == 0 and bits in (1, 2)
    return "gemlite" if fits and rows <= most_rows() else "decode"


def most_rows() -> int:
    """MOST_ROWS, or what VARIABLE says."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return MOST_ROWS
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{VARIABLE} is {text[:40]!r}", hint="set it to a number of rows")
    return int(text)
