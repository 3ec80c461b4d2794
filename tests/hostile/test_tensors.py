"""Group C: values that cannot be packed, and those that only look so."""

from __future__ import annotations

import math
import os
import tracemalloc
from typing import Any

import numpy as np
import pytest

from bonsai_quant.conversion import stream as pipeline
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.quantize_tensor import TensorQuantizer
from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import PackTensor, PlannedTensor, Span, StoredTensor, TensorSpec
from bonsai_quant.quantization import dequantize as dense
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.sources.checkpoint import SourceFile

from .conftest import BF16, MATRIX, MODE, MODES, NORM, SINGLE_FILE, bonsai, mk, original, save, tiny

KEPT = "context_embedder.weight"


def poked(name: str, at: int, bits: int, dtype: Any = BF16) -> dict[str, np.ndarray]:
    """The tiny model with the bits of one element replaced."""
    weights = tiny(dtype)
    flat = weights[name].reshape(-1)
    flat.view({2: np.uint16, 4: np.uint32}[flat.itemsize])[at] = bits
    return weights


# dtype, bits, how the message shows them
NOT_FINITE = {
    "C51-bf16-nan": (BF16, 0x7FC0, "nan"),
    "C51-bf16-negative-nan": (BF16, 0xFFFF, "nan"),
    "C51-bf16-signalling-nan": (BF16, 0x7F81, "nan"),
    "C51-f16-nan": (np.float16, 0x7E00, "nan"),
    "C51-f16-nan-of-ones": (np.float16, 0xFFFF, "nan"),
    "C51-f32-nan": (np.float32, 0x7FC00000, "nan"),
    "C51-f32-nan-of-ones": (np.float32, 0xFFFFFFFF, "nan"),
    "C51-f32-nan-that-carries": (np.float32, 0x7FFFFFFF, "nan"),
    "C51-f32-smallest-nan": (np.float32, 0x7F800001, "nan"),
    "C52-bf16-inf": (BF16, 0x7F80, "inf"),
    "C52-bf16-minus-inf": (BF16, 0xFF80, "-inf"),
    "C52-f16-inf": (np.float16, 0x7C00, "inf"),
    "C52-f32-minus-inf": (np.float32, 0xFF800000, "-inf"),
}


@pytest.mark.parametrize("name, at", [(MATRIX, 128 * 77 + 5), (NORM, 63), (KEPT, 0)],
                         ids=["packed", "norm", "kept"])  # fmt: skip
@pytest.mark.parametrize("case", NOT_FINITE)
def test_values_that_are_not_finite(case, name, at, refuse, tmp_path):
    dtype, bits, shown = NOT_FINITE[case]
    path = save(tmp_path / SINGLE_FILE, poked(name, at, bits, dtype))
    refuse(3, path, path.name, f"tensor {name}:", f"element {at}:", f"{shown} is not finite")


@pytest.mark.parametrize("mode", MODES)
def test_c51_the_solver_absmean_and_binary_packs_refuse_too(mode, refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, poked(MATRIX, 1000, 0x7F80))
    options = ("--mode", mode, "--solver", "absmean", "--no-sanity", "--allow-zero")
    refuse(3, path, f"tensor {MATRIX}:", "element 1000:", "inf", options=options)


@pytest.mark.parametrize("name, at", [
    ("double_blocks.1.txt_attn.qkv.weight", 200 * 128 + 1),
    ("final_layer.adaLN_modulation.1.weight", 130 * 128 + 2),
])  # fmt: skip
def test_c51_elements_are_counted_in_the_stored_tensor(name, at, refuse, tmp_path):
    weights = original(tiny())
    weights[name].reshape(-1)[at] = np.nan
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {name}:", f"element {at}:", "nan")


@pytest.mark.parametrize("block", [1, 1000, 1 << 23], ids=["1-row", "3-rows", "whole"])
def test_c51_the_element_does_not_depend_on_the_blocks(block, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK", block)
    path = save(tmp_path / SINGLE_FILE, poked(MATRIX, 128 * 99 + 7, 0x7FC0))
    refuse(3, path, f"tensor {MATRIX}:", f"element {128 * 99 + 7}:")


TOO_LARGE = [(BF16, 70000.0), (BF16, -65536.0), (BF16, 3e38), (np.float32, 65408.0),
             (np.float32, 1e38), (np.float32, -65500.0), (np.float16, 65504.0)]  # fmt: skip


@pytest.mark.parametrize("dtype, value", TOO_LARGE)
@pytest.mark.parametrize("name", [NORM, KEPT])
def test_c53_kept_values_too_large_for_16_bits(name, dtype, value, refuse, tmp_path):
    weights = tiny(dtype)
    weights[name].reshape(-1)[3] = value
    shown = f"{float(weights[name].reshape(-1)[3]):g}"
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {name}:", "element 3:", f"{shown} is too large", "65280")


@pytest.mark.parametrize("dtype, value", [(BF16, 65280), (np.float32, -65280), (np.float32, 65407)])
def test_c53_the_largest_kept_value(dtype, value, accept, tmp_path):
    weights = tiny(dtype)
    weights[NORM][3] = value
    pack, tensors = bonsai(accept(save(tmp_path / SINGLE_FILE, weights)).pack)
    kept = pack.kept(tensors[NORM])
    assert kept[3] == math.copysign(65280, value) and np.isfinite(kept).all()


@pytest.mark.parametrize("mode, value, code", [
    ("ternary", 1e5, 3), ("binary", 1e5, 3), ("binary", 40000, 3), ("ternary", 65280, 0),
    ("binary", 32640, 0),
])  # fmt: skip
def test_c54_scales_too_large_for_16_bits(mode, value, code, refuse, accept, tmp_path):
    weights = tiny()
    weights[MATRIX][5] = value
    path = save(tmp_path / SINGLE_FILE, weights)
    if code:
        says = (f"tensor {MATRIX}:", f"element {5 * 128}:", "scale is too large")
        refuse(3, path, *says, options=("--mode", mode, "--no-sanity"))
        return
    pack, tensors = bonsai(accept(path, "--no-sanity", mode=mode).pack)
    row = dense.weights(pack.layer(tensors[MATRIX]))[5]
    assert (row == float(weights[MATRIX][5, 0])).all()


# ---- more than 2^31 elements ----

ROWS, WIDTH = 1 << 20, 1 << 12


@pytest.fixture
def huge(tmp_path):
    """A sparse file with one bf16 matrix of 2^32 elements, whose last rows hold ones, and a NaN."""
    path = tmp_path / "huge.safetensors"
    header = mk({"x.weight": {"dtype": "BF16", "shape": [ROWS, WIDTH],
                              "data_offsets": [0, 2 * ROWS * WIDTH]}})  # fmt: skip
    with open(path, "wb") as file:
        file.write(header)
        file.seek(len(header) + 2 * (ROWS - 3) * WIDTH)
        tail = np.ones((3, WIDTH), BF16)
        tail[2, 17] = np.nan
        file.write(tail.tobytes())
    stored = StoredTensor(TensorSpec("x.weight", "BF16", (ROWS, WIDTH)), path, len(header))
    tensor = PackTensor("x.weight", (ROWS, WIDTH), "ternary")
    return stored, PlannedTensor(tensor, "", ())


def test_c64_blocks_beyond_2_31_elements(huge):
    stored, planned = huge
    fd = os.open(stored.path, os.O_RDONLY)
    info = os.fstat(fd)
    file = SourceFile("huge", stored.path, info.st_size, (0, 0, 0, 0))
    tracemalloc.start()
    seen = []
    tail = Span(planned, stored, ROWS - 5000, ROWS, ROWS - 5000)
    for span, data in pipeline._blocks(tail, fd, file):
        typed = pipeline._typed(span, data)
        assert typed.shape == (span.stop - span.start, WIDTH) and len(data) <= pipeline.BLOCK
        seen.append((span.start, span.stop))
        last = typed
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.close(fd)
    assert [a for a, _ in seen[1:]] == [b for _, b in seen[:-1]]
    assert (seen[0][0], seen[-1][1]) == (ROWS - 5000, ROWS)
    assert (as_float32(last)[-3:-1] == 1).all() and (as_float32(last)[:-3] == 0).all()
    assert peak < 4 * pipeline.BLOCK


def test_c64_elements_beyond_2_31_are_named(huge):
    stored, planned = huge
    fd = os.open(stored.path, os.O_RDONLY)
    file = SourceFile("huge", stored.path, os.fstat(fd).st_size, (0, 0, 0, 0))
    span = Span(planned, stored, ROWS - 3, ROWS, ROWS - 3)
    ((span, data),) = pipeline._blocks(span, fd, file)
    os.close(fd)
    assembly = TensorQuantizer(planned, "exact", 2, Checks(), False)
    with pytest.raises(BadInput, match=f"element {(ROWS - 1) * WIDTH + 17}: nan"):
        assembly.add(span, pipeline._typed(span, data))


def test_c64_the_header_of_a_huge_file_is_read_at_once(huge, refuse):
    stored, _ = huge
    refuse(4, stored.path, stored.path.name, within=1, options=MODE)
