"""onnxruntime's MatMulNBits on a layer as the ONNX pack stores it, on the CPU in float32.

The operator is the one of the pack's own model, over some rows of the layer. Inputs that are 1 at
one place give the weights, digit for digit; a random one gives a product, which must be as near as
a sum in any order is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bonsai_quant.core.requirements import ONNXRUNTIME_SINCE, install, installed, is_since
from bonsai_quant.packs.formats.onnx_graph.model import layer_model

from .probe import GROUP, dot_limit, probe_rows, product, relative, worst
from .result import KernelCheck, Status

if TYPE_CHECKING:
    from bonsai_quant.core.schema import PackTensor
    from bonsai_quant.packs.read import Pack

PACKAGE = "onnxruntime"
STEP = 512
"""Weights of a row that are asked for at a time."""
F32_UNIT = 2.0**-24
SILENT = 4
"""Only what ends the run is logged: the rest is in the check's reason."""


@dataclass(frozen=True, eq=False)
class OnnxLayer:
    """One linear as stored. codes: [out, in / 128, 32] uint8.  scales: [out, in / 128] float16."""

    name: str
    codes: np.ndarray
    scales: np.ndarray

    def take(self, rows: np.ndarray) -> OnnxLayer:
        """The same layer with only these output rows."""
        return OnnxLayer(self.name, self.codes[rows], self.scales[rows])


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run onnxruntime on some layers of an onnx pack."""
    from bonsai_quant.quantization.dequantize import weights

    checks = []
    for t in tensors:
        parts = pack.parts(t)
        checks.append(check_layer(OnnxLayer(t.linear, *parts), weights(pack.layer(t, parts))))
    return checks


def check_layer(
    layer: OnnxLayer, reference: np.ndarray, *, rows: int = 64, seed: int = 0
) -> KernelCheck:
    """Run onnxruntime on one layer. reference: [out, in] float32, what its codes stand for.

    rows: how many output rows, evenly spread, are looked at.
    """
    version = installed(PACKAGE)
    if missing := _cannot_run(version):
        return _result(version, layer, "not run", missing)
    if malformed := _malformed(layer, reference):
        return _result(version, layer, "failed", malformed)
    at = np.unique(np.linspace(0, len(reference) - 1, rows).astype(np.int64))
    part, weight = layer.take(at), reference[at]
    session = _session(part)
    wrong = _weight_errors(session, weight)
    if wrong.size:
        reason = f"MatMulNBits differs from the reference at {wrong.size} weights"
        return _result(version, layer, "failed", reason, (float(wrong.max()), 0.0))
    x = probe_rows(weight.shape[1], seed=seed)[-1:]
    y, expected = _multiply(session, x), product(x, weight)
    error, limit = worst(y, expected, dot_limit(x, weight, F32_UNIT))
    if error > limit:
        reason = f"MatMulNBits off by {error:.3g}, rounding allows {limit:.3g}"
        return _result(version, layer, "failed", reason, (error, limit))
    reason = (
        f"weights of {len(at)} rows exact; a product within n u sum|x w|, u = 2^-24, "
        f"relative error {relative(y, expected):.1e}"
    )
    return _result(version, layer, "passed", reason, (error, limit))


def _result(
    version: str | None,
    layer: OnnxLayer,
    status: Status,
    reason: str,
    error: tuple[float | None, float | None] = (None, None),
) -> KernelCheck:
    """error: how far off it was, and how far it may be."""
    return KernelCheck(PACKAGE, version, layer.name, status, *error, reason)


def _cannot_run(version: str | None) -> str:
    """Why onnxruntime cannot be called here; empty if it can."""
    if version is None:
        return f"{PACKAGE} is not installed: {install('onnx')}"
    if not is_since(version, ONNXRUNTIME_SINCE):
        newer = ".".join(map(str, ONNXRUNTIME_SINCE))
        return f"{PACKAGE} {version} has no codes of 2 bits, {newer} has: {install('onnx')}"
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"{PACKAGE} {version} does not import ({error})"
    return ""


def _malformed(layer: OnnxLayer, reference: np.ndarray) -> str:
    """Which array has the wrong shape or type; empty if none."""
    out, width = reference.shape
    groups = width // GROUP
    expected = {
        "codes": (layer.codes, (out, groups, GROUP // 4), np.uint8),
        "scales": (layer.scales, (out, groups), np.float16),
    }
    for name, (array, shape, dtype) in expected.items():
        if array.shape != shape or array.dtype != dtype:
            actual = f"{array.dtype} {list(array.shape)}"
            return f"{name} is {actual}, expected {np.dtype(dtype)} {list(shape)}"
    return f"in is {width}, not divisible by {GROUP}" if width % GROUP or not width else ""


def _session(layer: OnnxLayer) -> Any:
    """onnxruntime with the layer as its only operator."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    model = layer_model(
        layer.name, layer.codes.tobytes(), layer.scales.tobytes(), layer.codes.shape
    )
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _multiply(session: Any, x: np.ndarray) -> np.ndarray:
    """x: [rows, in] -> [rows, out] float32."""
    y: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return y


def _weight_errors(session: Any, reference: np.ndarray) -> np.ndarray:
    """Distances of the weights that onnxruntime has differently: [number of them] float32."""
    width, errors = reference.shape[1], []
    for start in range(0, width, STEP):
        n = min(STEP, width - start)
        x = np.zeros((n, width), np.float32)
        x[np.arange(n), start + np.arange(n)] = 1
        found, wanted = _multiply(session, x).T, reference[:, start : start + n]
        wrong = found != wanted
        errors.append(np.abs(found[wrong] - wanted[wrong]))
    distances: np.ndarray = np.nan_to_num(np.concatenate(errors), nan=np.inf)
    return distances
