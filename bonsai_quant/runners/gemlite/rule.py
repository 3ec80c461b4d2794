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

Not measured here: no card has been. Gemlite's issue 15 says that its kernels beat a dense product
in 16 bits up to some 32 rows, and that with 1,536 tokens the product is bound by arithmetic, which
codes do not save. Decoding comes on top of the dense product, so up to 32 rows gemlite is faster
all the more; above, the truth lies somewhere beyond. `python -m tools.gpu_check` measures it on a
card, and prints the number for VARIABLE.
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
