"""A reader written from docs/format.md alone, against the package's own."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization.dequantize import weights
from tests.docs.blocks import ROOT


def read(path: Path) -> dict[str, np.ndarray]:
    """Name of a weight -> its values in float32."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["bonsai_quant"])
    assert (about["format"], about["format_version"], about["group_size"]) == ("bonsai", 1, 128)
    stored = {}
    for name, entry in header.items():
        start, stop = (8 + length + at for at in entry["data_offsets"])
        dtype = {"U8": "u1", "F16": "<f2"}[entry["dtype"]]
        stored[name] = np.frombuffer(data[start:stop], dtype).reshape(entry["shape"])
    made = {}
    for name, array in stored.items():
        if name.endswith(".weight"):
            made[name] = array.astype(np.float32)
        elif name.endswith(".codes"):
            layer = name.removesuffix(".codes")
            scales = stored[f"{layer}.scales"].astype(np.float32)
            inputs = 128 * scales.shape[1]
            base, digits = (3, 5) if about["mode"] == "ternary" else (2, 8)
            codes = np.stack([array // base**k % base for k in range(digits)], -1)
            codes = codes.reshape(len(array), -1)[:, :inputs].astype(np.float32)
            values = codes - 1 if base == 3 else 2 * codes - 1
            made[f"{layer}.weight"] = values * np.repeat(scales, 128, 1)
    return made


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_the_page_is_enough_to_read_a_pack(mode):
    folder = find_packs(Path(f"mini-klein-{mode}"))[0].path
    made, pack = read(folder / "model.safetensors"), open_pack(folder)
    assert set(made) == {t.name for t in pack.info.tensors}
    for tensor in pack.info.packed:
        dense = weights(pack.layer(tensor), 0, tensor.shape[0])
        assert np.array_equal(made[tensor.name], dense), tensor.name
    for tensor in pack.info.kept:
        kept = pack.kept(tensor).astype(np.float32)
        assert np.array_equal(made[tensor.name], kept), tensor.name


def test_the_drawn_bytes_are_what_the_page_says():
    from bonsai_quant.quantization.packing import pack, to_base3

    text = (ROOT / "docs" / "format.md").read_text()
    ternary, binary = [2, 1, 0, 1, 2], [1, 0, 0, 1, 1, 1, 0, 1]
    padded = np.array([ternary * 4], np.uint8)
    assert to_base3(pack(padded, 2), 20)[0, 0] == 194 and "194  =  0xC2" in text
    assert pack(np.array([binary], np.uint8), 1)[0, 0] == 185 and "185  =  0xB9" in text
