"""How the tensors that a pack keeps in 16 bits are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bonsai_quant.core.schema import PackTensor, TensorSpec
from bonsai_quant.quantization.bf16 import bf16_bits, from_bf16

from .legal import refuse

STEP = 1 << 20
"""Values converted at a time."""


class Kept(Protocol):
    """One way to store kept tensors, whose values are float16 that bf16 holds too. Stateless."""

    def parts(self, tensor: PackTensor) -> list[TensorSpec]:
        """The stored tensors that hold a kept one."""

    def encode(self, tensor: PackTensor, values: np.ndarray) -> list[np.ndarray]:
        """The data of `parts`, in that order. values: [*tensor.shape] float16."""

    def decode(self, tensor: PackTensor, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Inverse of `encode`. Raises VerificationFailed at the first value that is not legal."""


@dataclass(frozen=True, slots=True)
class KeptWhole:
    """Each as it is, in one 16-bit dtype: F16 or BF16."""

    dtype: str

    def parts(self, tensor: PackTensor) -> list[TensorSpec]:
        """One tensor of the same name and shape."""
        return [TensorSpec(tensor.name, self.dtype, tensor.shape)]

    def encode(self, tensor: PackTensor, values: np.ndarray) -> list[np.ndarray]:
        """The stored 16 bits (uint16 for BF16)."""
        return [values if self.dtype == "F16" else exact_bf16(values)]

    def decode(self, tensor: PackTensor, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Inverse of `encode`."""
        exact = from_bf16(parts[0]) if self.dtype == "BF16" else parts[0].astype(np.float32)
        return to_float16(exact, tensor.name)


def exact_bf16(values: np.ndarray) -> np.ndarray:
    """float16 that bf16 holds too -> its 16 bits, uint16."""
    flat = values.reshape(-1)
    out = np.empty(flat.shape, np.uint16)
    for at in range(0, flat.size, STEP):  # float32 copies of a whole tensor would take 450 MB
        out[at : at + STEP] = bf16_bits(flat[at : at + STEP])
    return out.reshape(values.shape)


def to_float16(exact: np.ndarray, name: str) -> np.ndarray:
    """float32 values as float16; refuses what fp16 and bf16 do not both hold."""
    with np.errstate(over="ignore"):
        values = exact.astype(np.float16)
    wrong = (values.astype(np.float32) != exact) | (exact.view(np.uint32) & 0xFFFF != 0)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        refuse(name, f"element {at}", f"{exact.flat[at]:g} is not a number of both fp16 and bf16")
    return values


def nearest_kept(stored: np.ndarray, dtype: str, name: str) -> tuple[np.ndarray, int]:
    """A kept tensor as others store it -> float16 that bf16 holds too, and how many were rounded.

    dtype: BF16, F16 or F32. The rule is that of a conversion; what no 16 bits hold is refused.
    """
    from bonsai_quant.quantization.grid import round_kept

    flat, inexact = stored.reshape(-1), 0
    out = np.empty(flat.shape, np.float16)
    for at in range(0, flat.size, STEP):
        part = flat[at : at + STEP]
        exact = from_bf16(part) if dtype == "BF16" else part.astype(np.float32)
        rounded = round_kept(exact)
        if not (finite := np.isfinite(rounded)).all():
            first = int(np.argmin(finite))
            refuse(name, f"element {at + first}", f"{exact[first]:g} does not fit 16 bits")
        inexact += int(np.count_nonzero(rounded != exact))
        out[at : at + STEP] = rounded
    return out.reshape(stored.shape), inexact
