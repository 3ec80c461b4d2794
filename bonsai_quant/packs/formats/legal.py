"""Checks of stored values: legal scales and codes, or VerificationFailed with the index."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from bonsai_quant.core.errors import VerificationFailed


def canonical_scales(scales: np.ndarray, name: str) -> np.ndarray:
    """float32 scales s [out, in / 128] -> float16, refused unless every format can hold them."""
    from bonsai_quant.quantization.grid import on_grid

    legal = on_grid(np.ascontiguousarray(scales))
    if not legal.all():
        row, group = (int(i) for i in np.argwhere(~legal)[0])
        refuse(
            name,
            f"row {row}, group {group}",
            f"scale {scales[row, group]:g} is not a positive number that fp16 and bf16 both hold",
        )
    return scales.astype(np.float16)


def check_equal(stored: np.ndarray, expected: np.ndarray, name: str, kind: str) -> None:
    """found, expected: [out, in / 128]; refuse the first difference, by row and group."""
    wrong = stored != expected
    if wrong.any():
        row, group = (int(i) for i in np.argwhere(wrong)[0])
        refuse(
            name,
            f"row {row}, group {group}",
            f"{kind} is {stored[row, group]:g}, expected {expected[row, group]:g}",
        )


def check_codes(codes: np.ndarray, bits: int, name: str) -> None:
    """codes: [out, in * bits / 8]; refuse the 2-bit code 3."""
    from bonsai_quant.quantization.packing import illegal_code

    if bits == 2 and (at := illegal_code(codes)) is not None:
        row, column = divmod(at, codes.shape[1] * 4)
        refuse(name, f"row {row}, column {column}", "code 3; a ternary pack holds 0, 1 and 2")


def refuse(name: str, place: str, what: str) -> NoReturn:
    """Say which value of a pack is not legal."""
    raise VerificationFailed(
        what,
        where=(f"tensor {name}", place),
        hint="the pack is damaged or not of this format: convert again",
    )
