"""How a text encoder's tensors are stored: which of them as codes, and under which names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.sources.components import TextEncoder
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout

BITS, GROUP, PER_WORD = 4, 64, 8
SDNQ_GROUP = 32

Codes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""words [rows, in / 8] uint32, scales and biases [rows, groups] bf16 bits."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store a text encoder.

    library: named in the file's metadata, as its own writer does.
    packed: whether a tensor gets codes.
    parts: a packed tensor -> what is stored of it: codes, scales, biases.
    quantize: rows of a packed tensor, as bf16 bits -> their codes.
    kept: dtype of the others; None for the source's own.
    """

    library: str
    packed: Callable[[TensorSpec], bool]
    parts: Callable[[TensorSpec], list[TensorSpec]]
    quantize: Callable[[np.ndarray], Codes]
    kept: str | None = "BF16"

    def specs(self, spec: TensorSpec) -> list[TensorSpec]:
        """What is stored of a tensor."""
        if self.packed(spec):
            return self.parts(spec)
        return [TensorSpec(spec.name, self.kept or spec.dtype, spec.shape)]

    def layout(self, encoder: TextEncoder) -> Layout:
        """The file, to the byte."""
        stored = [s for t in encoder.tensors for s in self.specs(t.spec)]
        return safetensors_layout(stored, {"format": self.library})


def _every_matrix(spec: TensorSpec) -> bool:
    """As in mlx-lm: a matrix whose width holds whole groups."""
    return len(spec.shape) == 2 and spec.shape[1] % GROUP == 0


def _mlx_parts(spec: TensorSpec) -> list[TensorSpec]:
    (out, n), module = spec.shape, spec.name.removesuffix(".weight")
    return [
        TensorSpec(spec.name, "U32", (out, n // PER_WORD)),
        TensorSpec(f"{module}.scales", "BF16", (out, n // GROUP)),
        TensorSpec(f"{module}.biases", "BF16", (out, n // GROUP)),
    ]


def _by_mlxs_rule(rows: np.ndarray) -> Codes:
    from bonsai_quant.quantization.affine4 import quantize

    return quantize(rows)


def _linears_of_layers(spec: TensorSpec) -> bool:
    whole_groups = len(spec.shape) == 2 and spec.shape[1] % SDNQ_GROUP == 0
    return whole_groups and spec.name.startswith("model.layers.")


def _sdnq_parts(spec: TensorSpec) -> list[TensorSpec]:
    (out, n), module = spec.shape, spec.name.removesuffix(".weight")
    scales = (out, n // SDNQ_GROUP, 1) if n > SDNQ_GROUP else (out, 1)
    return [
        TensorSpec(spec.name, "U8", (out * n * BITS // 8,)),
        TensorSpec(f"{module}.scale", "BF16", scales),
        TensorSpec(f"{module}.zero_point", "BF16", scales),
    ]


def _by_least_squares(rows: np.ndarray) -> Codes:
    from bonsai_quant.quantization.affine4_fit import fit

    return fit(rows, SDNQ_GROUP)


MLX = Scheme("mlx", _every_matrix, _mlx_parts, _by_mlxs_rule)
"""MLX's affine 4 bits, bit for bit, as mlx-lm names them: every matrix, the embedding too."""

SDNQ = Scheme("pt", _linears_of_layers, _sdnq_parts, _by_least_squares)
"""sdnq's `uint4` in the linears of the layers; the embedding, which is the head too, stays."""

WHOLE = Scheme("pt", lambda _: False, _mlx_parts, _by_mlxs_rule, kept=None)
"""As it is."""
