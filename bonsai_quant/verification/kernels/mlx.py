"""MLX's own `dequantize` and `quantized_matmul` on a layer as the MLX pack stores it.

Three checks on the CPU device. `dequantize` must give the reference weight, digit for digit, on all
rows. Then, on some rows, the product in float32, whose limit is so tight that one wrong code shows;
and in bf16, as it runs on a device, whose limit is loose: the CPU kernel also sums in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bonsai_quant.core.requirements import MLX_SINCE, install, installed, mlx_is_new

from .probe import GROUP, dot_limit, probe_rows, product, relative, worst
from .result import KernelCheck

if TYPE_CHECKING:
    import mlx.core as mx

    from bonsai_quant.core.schema import PackTensor
    from bonsai_quant.packs.read import Pack

BLOCK_WEIGHTS = 1 << 22
"""Weights dequantized at a time: 16 MiB of float32."""
F32_UNIT = 2.0**-24
BF16_UNIT = 2.0**-8
BF16_EVERY = 8
"""The bf16 kernel of the CPU is ten times slower, so it sees one row in eight."""


@dataclass(frozen=True, eq=False)
class MlxLayer:
    """One linear as stored.

    weight: [out, in * bits / 32] uint32;
    scales, biases: [out, in / 128] uint16, the bits of a bf16.
    """

    name: str
    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    bits: int

    def take(self, rows: slice | np.ndarray) -> MlxLayer:
        """The same layer with only these output rows."""
        arrays = self.weight[rows], self.scales[rows], self.biases[rows]
        return MlxLayer(self.name, *arrays, self.bits)


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run MLX on some layers of an mlx pack."""
    from bonsai_quant.quantization.dequantize import weights

    checks = []
    for t in tensors:
        words, scales, biases = parts = pack.parts(t)
        layer = MlxLayer(t.linear, words, scales, biases, pack.info.bits)
        checks.append(check_layer(layer, weights(pack.layer(t, parts))))
    return checks


def check_layer(
    layer: MlxLayer, reference: np.ndarray, *, rows: int = 64, seed: int = 0
) -> KernelCheck:
    """Run MLX on one layer. reference: [out, in] float32, the weight that the codes stand for.

    rows: how many output rows, evenly spread, the products are taken on.
    """
    version = installed("mlx")
    missing = _cannot_run(version, layer.bits)
    if missing:
        return KernelCheck("mlx", version, layer.name, "not run", None, None, missing)
    malformed = _malformed(layer, reference)
    if malformed:
        return KernelCheck("mlx", version, layer.name, "failed", None, None, malformed)
    wrong = _dequantize_errors(layer, reference)
    if wrong.size:
        reason = f"mx.dequantize differs from the reference at {wrong.size} weights"
        return KernelCheck("mlx", version, layer.name, "failed", float(wrong.max()), 0.0, reason)
    at = np.unique(np.linspace(0, len(reference) - 1, rows).astype(np.int64))
    return _check_products(layer.take(at), reference[at], version, seed)


def _cannot_run(version: str | None, bits: int) -> str:
    """Why MLX cannot be called here; empty if it can."""
    if version is None:
        return "mlx is not installed: pip install 'mlx>=0.32.4' (on Linux 'mlx[cpu]>=0.32.4')"
    if bits == 1 and not mlx_is_new(version):
        newer = ".".join(map(str, MLX_SINCE))
        return f"mlx {version} ends the process on 1 bit, {newer} does not: {install('mlx')}"
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        return f"mlx {version} does not import ({error}): on Linux pip install 'mlx[cpu]'"
    return ""


def _malformed(layer: MlxLayer, reference: np.ndarray) -> str:
    """Which array has the wrong shape or type: MLX may read past the end of one; empty if none."""
    out, width = reference.shape
    meta = (out, width // GROUP)
    expected = {
        "weight": (layer.weight, (out, width * layer.bits // 32), np.uint32),
        "scales": (layer.scales, meta, np.uint16),
        "biases": (layer.biases, meta, np.uint16),
    }
    for name, (array, shape, dtype) in expected.items():
        if array.shape != shape or array.dtype != dtype:
            actual = f"{array.dtype} {list(array.shape)}"
            return f"{name} is {actual}, expected {np.dtype(dtype)} {list(shape)}"
    return f"in is {width}, not divisible by {GROUP}" if width % GROUP or not width else ""


def _dequantize_errors(layer: MlxLayer, reference: np.ndarray) -> np.ndarray:
    """Distances of the weights that mx.dequantize gets differently: [number of them] float32."""
    import mlx.core as mx

    errors = []
    for rows in _blocks(reference.shape):
        arrays = _on_device(layer.take(rows))
        weight = mx.dequantize(*arrays, group_size=GROUP, bits=layer.bits, stream=mx.cpu)
        decoded = np.array(weight.astype(mx.float32, stream=mx.cpu))
        wrong = decoded != reference[rows]
        errors.append(np.abs(decoded[wrong] - reference[rows][wrong]))
    distances: np.ndarray = np.nan_to_num(np.concatenate(errors), nan=np.inf)
    return distances


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows of about BLOCK_WEIGHTS weights. shape: (out, in)."""
    step = max(1, BLOCK_WEIGHTS // shape[1])
    yield from (slice(start, start + step) for start in range(0, shape[0], step))


def _check_products(
    layer: MlxLayer, reference: np.ndarray, version: str | None, seed: int
) -> KernelCheck:
    """quantized_matmul in float32, then on fewer rows in bf16. reference: [out, in]."""
    x = probe_rows(reference.shape[1], seed=seed)
    some = slice(None, None, BF16_EVERY)
    # In bf16 the last row's limit would exceed the value itself: n u > 1.
    runs = (
        ("bfloat16", layer.take(some), reference[some], x[:-1], BF16_UNIT),
        ("float32", layer, reference, x, F32_UNIT),
    )
    for dtype, part, weight, inputs, unit in runs:
        y, expected = _matmul(part, inputs, dtype), product(inputs, weight)
        error, limit = worst(y, expected, dot_limit(inputs, weight, unit))
        if error > limit:
            reason = f"{dtype} quantized_matmul off by {error:.3g}, rounding allows {limit:.3g}"
            return KernelCheck("mlx", version, layer.name, "failed", error, limit, reason)
    reason = (
        f"dequantize exact; {len(x)} inputs on {len(reference)} rows within n u sum|x w|: float32 "
        f"u = 2^-24, relative error {relative(y, expected):.1e}; bfloat16 u = 2^-8"
    )
    return KernelCheck("mlx", version, layer.name, "passed", error, limit, reason)


def _matmul(layer: MlxLayer, x: np.ndarray, dtype: str) -> np.ndarray:
    """x: [rows, in] -> [rows, out] float32. A float32 x lifts the bf16 scales to float32."""
    import mlx.core as mx

    weight, scales, biases = _on_device(layer)
    y = mx.quantized_matmul(
        mx.array(x).astype(getattr(mx, dtype), stream=mx.cpu),
        weight,
        scales,
        biases,
        transpose=True,
        group_size=GROUP,
        bits=layer.bits,
        stream=mx.cpu,
    )
    return np.array(y.astype(mx.float32, stream=mx.cpu))


def _on_device(layer: MlxLayer) -> tuple[mx.array, mx.array, mx.array]:
    """Weight, scales and biases as MLX arrays; numpy has no bf16, so its bits are viewed as one."""
    import mlx.core as mx

    stored = (layer.weight, layer.scales, layer.biases)
    weight, scales, biases = (mx.array(np.ascontiguousarray(array)) for array in stored)
    scales, biases = (bits.view(mx.bfloat16, stream=mx.cpu) for bits in (scales, biases))
    return weight, scales, biases
