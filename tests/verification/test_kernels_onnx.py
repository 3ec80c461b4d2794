"""onnxruntime's MatMulNBits on our layout: right layers pass, each wrong one fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bonsai_quant import verify
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.quantization.packing import pack
from bonsai_quant.verification.kernels import onnx
from tests.verification.test_kernels import BINARY, MODES, TERNARY, random_layer

pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime"
)  # fmt: skip


def layer_of(out, width, bits):
    """As an onnx pack stores it, and its weights in float32."""
    codes, scale, weight = random_layer(out, width, bits)
    layer = PackedLayer("layer", (out, width), bits, pack(codes, bits), scale.astype(np.float16))
    return onnx.OnnxLayer("layer", *FORMATS["onnx"].encode(layer)), weight


@MODES
@pytest.mark.parametrize("shape", [(1, 128), (33, 256), (384, 1024)], ids=str)
def test_onnxruntime_agrees(bits, shape):
    check = onnx.check_layer(*layer_of(*shape, bits))
    assert check.passed, check.reason
    assert check.max_error <= check.tolerance


def flipped(codes):
    wrong = codes.copy()
    wrong[len(codes) // 2, 1, 5] ^= 0b01
    return wrong


FAULTS = {
    "one code flipped": lambda a: replace(a, codes=flipped(a.codes)),
    "nibbles swapped": lambda a: replace(a, codes=a.codes << 4 | a.codes >> 4),
    "scales reversed": lambda a: replace(a, scales=a.scales[:, ::-1]),
}


@MODES
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_layer_fails_by_its_weights(bits, fault):
    layer, weight = layer_of(64, 384, bits)
    check = onnx.check_layer(FAULTS[fault](layer), weight)
    assert (check.status, check.tolerance) == ("failed", 0.0)
    assert check.reason.startswith("MatMulNBits differs from the reference at")
    assert check.max_error > 0


MALFORMED = {
    "codes of 4 bits": lambda a: replace(a, codes=np.repeat(a.codes, 2, 2)),
    "a group less": lambda a: replace(a, scales=a.scales[:, 1:]),
    "scales of float32": lambda a: replace(a, scales=a.scales.astype(np.float32)),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_layer_fails_before_it_runs(fault):
    layer, weight = layer_of(32, 256, TERNARY)
    check = onnx.check_layer(MALFORMED[fault](layer), weight)
    assert (check.status, check.max_error) == ("failed", None)
    assert "expected" in check.reason


@pytest.mark.parametrize("version", [None, "1.23.2"])
def test_without_a_version_that_knows_2_bits_it_does_not_run(version, monkeypatch):
    monkeypatch.setattr(onnx, "installed", lambda name: version)
    check = onnx.check_layer(*layer_of(1, 128, BINARY))
    assert check.status == "not run"
    assert "pip install" in check.reason


def test_the_level_runs_it(packs):
    checks = verify(packs.out / "onnx", level="kernel", backends=("onnx",)).checks
    kernels = [c for c in checks if c.level == "kernel"]
    assert {c.status for c in kernels} == {"passed"}
    assert len(kernels) == 3
