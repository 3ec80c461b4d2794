"""Gemlite's own Triton kernels, and its own pack(), on a layer as the gemlite pack stores it.

The kernels run in a child process (`gemlite_child`): without a CUDA GPU they need Triton's
interpreter and a stand-in for the driver, both in place before Triton is imported, which nobody
wants in a process that has other work. Interpreted kernels are slow: check a corner of a layer.

What gemlite asks of a layer: `in` divisible by the group, and `out` by 32, since its kernels read
scales in blocks of 32 rows or more without a mask. With in = 128 its pack() sees one scale per row,
takes that for channel-wise scaling and stores zeros another way: the oracle needs two groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .gemlite_layer import ACCUMULATOR, GemliteLayer, malformed
from .gemlite_process import ChildAnswer, run_child
from .probe import GROUP, dot_limit, probe_rows, product, relative, worst
from .result import KernelCheck, Status

if TYPE_CHECKING:
    from bonsai_quant.core.schema import PackTensor
    from bonsai_quant.packs.read import Pack

ROWS_STEP = 32
PARTIAL = 16
"""The fewest inputs whose sum any of its kernels rounds to fp16 and adds to the output."""
F16_UNIT = 2.0**-11
F16_SMALLEST = 2.0**-24
F32_UNIT = 2.0**-24

Pair = tuple[GemliteLayer, np.ndarray]
"""A layer and its reference weight: [out, in] float32."""


def corner(layer: GemliteLayer, reference: np.ndarray, rows: int, width: int) -> Pair:
    """First outputs and inputs of a layer and of its reference: at most [rows, width].

    Rounded down to what gemlite takes: 32 rows, whole groups.
    """
    out = min(rows, reference.shape[0]) // ROWS_STEP * ROWS_STEP
    groups = min(width, reference.shape[1]) // GROUP
    cut = GemliteLayer(
        layer.name,
        layer.W_q[: groups * GROUP * layer.bits // 8, :out],
        layer.scales[:groups, :out],
        layer.zeros[:groups, :out],
        layer.metadata,
        np.array([out, groups * GROUP], np.int32),
    )
    return cut, reference[:out, : groups * GROUP]


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run gemlite's kernels on some layers of a gemlite pack."""
    from bonsai_quant.quantization.dequantize import weights

    pairs = []
    for t in tensors:
        parts = pack.parts(t)
        pairs.append((GemliteLayer(t.linear, *parts), weights(pack.layer(t, parts))))
    return check_layers(pairs)


def check_layers(
    pairs: Sequence[Pair],
    *,
    size: tuple[int, int] = (128, 3 * GROUP),
    seed: int = 0,
    timeout_s: float = 300,
) -> list[KernelCheck]:
    """Run gemlite's kernels on a corner of each layer, all in one child process.

    size: rows and inputs of a corner; a layer is first checked whole for shapes and metadata.
    """
    problems = [malformed(layer, reference) for layer, reference in pairs]
    corners = [
        pair if problem else corner(*pair, *size)
        for pair, problem in zip(pairs, problems, strict=True)
    ]
    inputs = [probe_rows(reference.shape[1], seed=seed) for _, reference in corners]
    tasks = [
        {} if problem or not reference.size else {**layer.leaves(), "x": x.astype(np.float16)}
        for (layer, reference), x, problem in zip(corners, inputs, problems, strict=True)
    ]
    answer = run_child(tasks, timeout_s=timeout_s)
    return [
        _refused(layer, answer, problems[k])
        if not tasks[k] or answer.status != "passed"
        else _compare(layer, reference, inputs[k], answer, answer.outputs[k])
        for k, (layer, reference) in enumerate(corners)
    ]


def check_layer(
    layer: GemliteLayer, reference: np.ndarray, *, seed: int = 0, timeout_s: float = 120
) -> KernelCheck:
    """Run gemlite's kernels on a corner of one layer. reference: [out, in] float32."""
    return check_layers([(layer, reference)], seed=seed, timeout_s=timeout_s)[0]


def pack_oracle(
    layer: GemliteLayer, codes: np.ndarray, scale: np.ndarray, *, timeout_s: float = 120
) -> KernelCheck:
    """Whether gemlite's own pack() stores these codes and scales in the same bytes.

    codes: [out, in] uint8; scale: [out, in / 128], s of weight = s * t. `max_error` counts bytes.
    """
    if codes.shape[1] <= GROUP:
        reason = "pack() stores a single group in its channel-wise layout"
        return KernelCheck("gemlite", None, layer.name, "not run", None, None, reason)
    binary = layer.bits == 1
    scales = scale.astype(np.float32) * (2 if binary else 1)
    # z of (code - z) * scale, as a tensor: pack() rounds a plain 0.5 down to 0.
    zeros = np.full_like(scales, 0.5 if binary else 1.0)
    task = {"codes": codes, "scales": scales, "zeros": zeros, "bits": np.array(layer.bits)}
    answer = run_child([task], timeout_s=timeout_s)
    if answer.status != "passed":
        return _refused(layer, answer)
    ours, theirs = layer.leaves(), answer.outputs[0]
    differing = {name: _differing_bytes(ours[name], theirs[name]) for name in ours}
    total = sum(differing.values())
    where = ", ".join(f"{n} bytes of {name}" for name, n in differing.items() if n)
    details = f"metadata {theirs['metadata'].tolist()}, {answer.where}"
    reason = (
        f"differs from pack() in {where}; {details}"
        if total
        else f"same bytes as pack(); {details}"
    )
    status: Status = "failed" if total else "passed"
    return KernelCheck("gemlite", answer.version, layer.name, status, float(total), 0.0, reason)


def _compare(
    layer: GemliteLayer,
    reference: np.ndarray,
    x: np.ndarray,
    answer: ChildAnswer,
    outputs: dict[str, np.ndarray],
) -> KernelCheck:
    """The worst of all kernels' outputs, each [rows, out] float16, against the float64 product."""
    expected = product(x, reference)
    limit = _limit(x, reference, half_sums=bool(layer.metadata[ACCUMULATOR]))
    errors = {name: worst(y, expected, limit) for name, y in outputs.items()}
    name = max(errors, key=lambda n: errors[n][0] / errors[n][1])
    error, tolerance = errors[name]
    out, width = reference.shape
    where = f"{out} x {width}, {len(x)} inputs, {answer.where}"
    if error > tolerance:
        reason = f"{name} is off by {error:.3g}, rounding allows {tolerance:.3g}; {where}"
        return KernelCheck(
            "gemlite", answer.version, layer.name, "failed", error, tolerance, reason
        )
    reason = (
        f"{', '.join(outputs)}: within fp16 rounding, "
        f"relative error {relative(outputs[name], expected):.1e}; {where}"
    )
    return KernelCheck("gemlite", answer.version, layer.name, "passed", error, tolerance, reason)


def _limit(x: np.ndarray, weight: np.ndarray, *, half_sums: bool) -> np.ndarray:
    """How far off a kernel may be: [rows, out] float64.

    A split-K kernel sums parts of 16 inputs or more in fp32, rounds each part p to fp16, and adds
    the m parts that are not zero in any order, rounding to fp16 each time:

        |error| <= u (m + 1) sum |p|  +  m 2^-24 / 2  +  what the sum in fp32 (or fp16) may add
    """
    rows, width = x.shape
    parts = x.astype(np.float64).reshape(rows, width // PARTIAL, PARTIAL)
    weights = weight.astype(np.float64).reshape(len(weight), width // PARTIAL, PARTIAL)
    size = np.abs(np.einsum("rpk,opk->rop", parts, weights)).sum(-1)
    m = np.count_nonzero(parts.any(-1), axis=1)[:, None]
    summing = dot_limit(x, weight, F16_UNIT if half_sums else F32_UNIT)
    limit: np.ndarray = F16_UNIT * (m + 1) * size + m * F16_SMALLEST / 2 + summing
    return limit


def _differing_bytes(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Bytes that differ; all of them where type or shape differ."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return max(ours.nbytes, theirs.nbytes)
    a, b = (np.frombuffer(array.tobytes(), np.uint8) for array in (ours, theirs))
    return int(np.count_nonzero(a != b))


def _refused(layer: GemliteLayer, answer: ChildAnswer, problem: str = "") -> KernelCheck:
    """A layer that no kernel has seen: it is malformed, too small, or there is no kernel here."""
    few = f"gemlite takes at least {ROWS_STEP} rows and {GROUP} inputs"
    reason = problem or answer.reason or few
    status: Status = "failed" if problem else "not run"
    return KernelCheck("gemlite", answer.version, layer.name, status, None, None, reason)
