"""Other projects' kernels on our layouts: right layers pass, each wrong one fails.

Scales from 2^-14 to 2^-3 lie side by side, so that a fault hides if it can. Gemlite takes four
seconds to start: it gets all its layers in one child process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

from bonsai_quant.quantization.packing import pack
from bonsai_quant.verification.kernels import gemlite, gemlite_process, mlx, probe
from bonsai_quant.verification.kernels.gemlite_layer import GemliteLayer, expected_metadata
from bonsai_quant.verification.kernels.result import KernelCheck

TERNARY, BINARY = 2, 1
MODES = pytest.mark.parametrize("bits", [TERNARY, BINARY], ids=["ternary", "binary"])
needs_mlx = pytest.mark.skipif(find_spec("mlx") is None, reason="mlx is not installed")
needs_gemlite = pytest.mark.skipif(
    find_spec("gemlite") is None or find_spec("torch") is None,
    reason=f"gemlite is not installed: {gemlite_process.INSTALL}",
)


def random_layer(out: int, width: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [out, in] uint8, scale [out, in / 128] and weight [out, in] float32."""
    rng = np.random.default_rng(out + width + bits)
    codes = rng.integers(0, 3 if bits == TERNARY else 2, (out, width)).astype(np.uint8)
    scale = np.exp2(rng.uniform(-14, -3, (out, width // 128))).astype(ml_dtypes.bfloat16)
    signs = codes.astype(np.float32) - 1 if bits == TERNARY else 2.0 * codes - 1
    weight = signs.reshape(out, -1, 128) * scale.astype(np.float32)[..., None]
    return codes, scale.astype(np.float32), weight.reshape(out, width).astype(np.float32)


def mlx_layer(codes: np.ndarray, scale: np.ndarray, bits: int) -> mlx.MlxLayer:
    """As an MLX pack stores it."""
    step = scale if bits == TERNARY else 2 * scale
    as_bf16 = [a.astype(ml_dtypes.bfloat16).view(np.uint16) for a in (step, -scale)]
    return mlx.MlxLayer("layer", pack(codes, bits).view("<u4"), *as_bf16, bits)


def gemlite_layer(codes: np.ndarray, scale: np.ndarray, bits: int) -> GemliteLayer:
    """As a gemlite pack stores it."""
    step = scale if bits == TERNARY else 2 * scale
    arrays = [np.ascontiguousarray(a.T) for a in (pack(codes, bits), step, -scale)]
    shape = np.array(codes.shape, np.int32)
    return GemliteLayer("layer", *arrays, expected_metadata(bits), shape)


def swap_nibbles(packed: np.ndarray) -> np.ndarray:
    """The two halves of every byte change places."""
    as_bytes = packed.view(np.uint8)
    return (as_bytes << 4 | as_bytes >> 4).view(packed.dtype)


def flip_one_code(packed: np.ndarray) -> np.ndarray:
    """The lowest bit of one byte in the middle is flipped."""
    flipped = packed.copy()
    flipped[len(packed) // 2, packed.shape[1] // 2] ^= 1
    return flipped


def test_probe_values_are_the_same_in_every_type() -> None:
    x = probe.probe_rows(384, seed=3)
    assert x.shape == (7, 384)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        assert np.array_equal(x.astype(dtype).astype(np.float32), x)


def test_probe_rows_see_one_group_one_column_and_everything() -> None:
    assert np.count_nonzero(probe.probe_rows(256, seed=0), axis=1).tolist() == [128, 1, 128, 1, 256]


def test_a_sum_in_float32_stays_within_its_limit() -> None:
    _, _, weight = random_layer(32, 384, TERNARY)
    x = probe.probe_rows(384, seed=0)
    error, limit = probe.worst(
        x @ weight.T, probe.product(x, weight), probe.dot_limit(x, weight, 2**-24)
    )
    assert 0 < error <= limit


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_infinite_error(bad: float) -> None:
    got = np.array([[1.0, bad]])
    assert probe.worst(got, np.ones((1, 2)), np.ones((1, 2))) == (np.inf, 1.0)


@needs_mlx
@MODES
@pytest.mark.parametrize("shape", [(1, 128), (33, 256), (384, 1024)], ids=str)
def test_mlx_agrees(bits: int, shape: tuple[int, int]) -> None:
    codes, scale, weight = random_layer(*shape, bits)
    check = mlx.check_layer(mlx_layer(codes, scale, bits), weight)
    assert check.passed, check.reason
    assert check.max_error <= check.tolerance


MLX_FAULTS: dict[str, Callable[[mlx.MlxLayer], mlx.MlxLayer]] = {
    "nibbles swapped": lambda a: replace(a, weight=swap_nibbles(a.weight)),
    "one code flipped": lambda a: replace(a, weight=flip_one_code(a.weight)),
    "biases one step off": lambda a: replace(a, biases=a.biases + np.uint16(1)),
    "biases zero": lambda a: replace(a, biases=np.zeros_like(a.biases)),
    "scales reversed": lambda a: replace(a, scales=a.scales[:, ::-1]),
}


@needs_mlx
@MODES
@pytest.mark.parametrize("fault", MLX_FAULTS)
def test_mlx_fails_a_wrong_layer_by_its_weights_and_by_its_products(bits: int, fault: str) -> None:
    codes, scale, weight = random_layer(64, 384, bits)
    wrong = MLX_FAULTS[fault](mlx_layer(codes, scale, bits))
    assert mlx.check_layer(wrong, weight).reason.startswith("mx.dequantize differs")
    check = mlx._check_products(wrong, weight, None, 0)
    assert check.status == "failed"
    assert check.max_error > check.tolerance


@needs_mlx
def test_mlx_is_not_given_arrays_that_do_not_fit() -> None:
    codes, scale, weight = random_layer(32, 256, TERNARY)
    check = mlx.check_layer(mlx_layer(codes, scale, TERNARY), weight[:, :128])
    assert (check.status, check.max_error) == ("failed", None)
    assert check.reason == "weight is uint32 [32, 16], expected uint32 [32, 8]"


@pytest.mark.parametrize(("version", "bits", "says"), [("0.32.2", 1, "0.32.4"), (None, 2, "pip")])
def test_mlx_is_not_called_where_it_would_end_the_process(
    monkeypatch: pytest.MonkeyPatch, version: str | None, bits: int, says: str
) -> None:
    monkeypatch.setattr(mlx, "installed", lambda _name: version)
    codes, scale, weight = random_layer(32, 128, bits)
    check = mlx.check_layer(mlx_layer(codes, scale, bits), weight)
    assert (check.status, check.max_error) == ("not run", None)
    assert says in check.reason


GEMLITE_FAULTS: dict[str, Callable[[GemliteLayer], GemliteLayer]] = {
    "nibbles swapped": lambda a: replace(a, W_q=swap_nibbles(a.W_q)),
    "one code flipped": lambda a: replace(a, W_q=flip_one_code(a.W_q)),
    "zeros one step off": lambda a: replace(a, zeros=a.zeros * np.float32(1 + 2**-7)),
    "zeros missing": lambda a: replace(a, zeros=np.zeros_like(a.zeros)),
    "scales reversed": lambda a: replace(a, scales=a.scales[::-1]),
    "metadata of another width": lambda a: replace(a, metadata=a.metadata[::-1]),
    "rows and columns swapped": lambda a: replace(a, orig_shape=a.orig_shape[::-1]),
}


SIZES = [(192, 512), (97, 128)]  # larger than a corner; an odd one of a single group


@pytest.fixture(scope="module")
def gemlite_checks() -> dict[tuple[int, str], KernelCheck]:
    """Right and wrong layers, all through one child process."""
    pairs: dict[tuple[int, str], gemlite.Pair] = {}
    for bits in (TERNARY, BINARY):
        for out, width in SIZES:
            codes, scale, weight = random_layer(out, width, bits)
            pairs[bits, f"{out} x {width}"] = gemlite_layer(codes, scale, bits), weight
        codes, scale, weight = random_layer(64, 256, bits)
        for fault, spoil in GEMLITE_FAULTS.items():
            pairs[bits, fault] = spoil(gemlite_layer(codes, scale, bits)), weight
    return dict(zip(pairs, gemlite.check_layers(list(pairs.values())), strict=True))


@pytest.mark.heavy
@needs_gemlite
@MODES
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gemlite_agrees(
    gemlite_checks: dict[tuple[int, str], KernelCheck], bits: int, size: tuple[int, int]
) -> None:
    check = gemlite_checks[bits, f"{size[0]} x {size[1]}"]
    assert check.passed, check.reason
    assert check.max_error <= check.tolerance
    assert "GEMV_REVSPLITK" in check.reason


@needs_gemlite
@MODES
@pytest.mark.parametrize("fault", GEMLITE_FAULTS)
def test_gemlite_fails_a_wrong_layer(
    gemlite_checks: dict[tuple[int, str], KernelCheck], bits: int, fault: str
) -> None:
    check = gemlite_checks[bits, fault]
    assert check.status == "failed"
    assert check.max_error is None or check.max_error > check.tolerance


@pytest.mark.heavy
@needs_gemlite
@MODES
def test_gemlite_packs_the_same_bytes(bits: int) -> None:
    codes, scale, _ = random_layer(96, 256, bits)
    check = gemlite.pack_oracle(gemlite_layer(codes, scale, bits), codes, scale)
    assert check.passed, check.reason
    assert str(expected_metadata(bits).tolist()) in check.reason


def test_gemlite_counts_the_bytes_that_it_packs_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, scale, _ = random_layer(32, 256, TERNARY)
    layer = gemlite_layer(codes, scale, TERNARY)
    packed = gemlite_process.ChildAnswer("passed", outputs=[layer.leaves()])
    monkeypatch.setattr(gemlite, "run_child", lambda _tasks, timeout_s: packed)
    check = gemlite.pack_oracle(replace(layer, W_q=flip_one_code(layer.W_q)), codes, scale)
    assert (check.status, check.max_error) == ("failed", 1.0)
    assert "1 bytes of W_q" in check.reason


def test_a_corner_is_the_first_rows_and_groups() -> None:
    codes, scale, weight = random_layer(192, 512, BINARY)
    cut, reference = gemlite.corner(gemlite_layer(codes, scale, BINARY), weight, 100, 300)
    expected = gemlite_layer(codes[:96, :256], scale[:96, :2], BINARY)
    assert np.array_equal(reference, weight[:96, :256])
    for name, array in expected.leaves().items():
        assert np.array_equal(cut.leaves()[name], array), name


def test_gemlite_is_not_given_a_layer_smaller_than_its_blocks() -> None:
    codes, scale, weight = random_layer(31, 256, TERNARY)
    assert gemlite.check_layer(gemlite_layer(codes, scale, TERNARY), weight).status == "not run"


def test_gemlite_absent_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemlite_process, "installed", lambda _name: None)
    codes, scale, weight = random_layer(32, 256, TERNARY)
    check = gemlite.check_layer(gemlite_layer(codes, scale, TERNARY), weight)
    assert (check.status, check.version) == ("not run", None)
    assert gemlite_process.INSTALL in check.reason


@pytest.mark.parametrize(("child", "timeout_s"), [("no.such.module", 60.0), ("this", 0.01)])
def test_a_child_that_dies_or_hangs_is_not_run(
    monkeypatch: pytest.MonkeyPatch, child: str, timeout_s: float
) -> None:
    monkeypatch.setattr(gemlite_process, "installed", lambda _name: "0.6.0")
    monkeypatch.setattr(gemlite_process, "CHILD", child)
    codes, scale, weight = random_layer(32, 256, TERNARY)
    layer = gemlite_layer(codes, scale, TERNARY)
    assert gemlite.check_layer(layer, weight, timeout_s=timeout_s).status == "not run"


def test_gemlite_cannot_be_the_oracle_of_a_single_group() -> None:
    codes, scale, _ = random_layer(32, 128, TERNARY)
    layer = gemlite_layer(codes, scale, TERNARY)
    assert gemlite.pack_oracle(layer, codes, scale).status == "not run"
