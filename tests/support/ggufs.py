"""Files of the gguf package's own writer."""

from __future__ import annotations

import numpy as np
import pytest

from bonsai_quant.storage.containers.gguf import KINDS

gguf = pytest.importorskip("gguf")


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def foreign(path):
    """A file of another model, made by the package: every kind of metadata, four types."""
    writer = gguf.GGUFWriter(path, "other")
    for width in (8, 16, 32, 64):
        getattr(writer, f"add_uint{width}")(f"a.uint{width}", width)
        getattr(writer, f"add_int{width}")(f"a.int{width}", -width)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.25)
    writer.add_bool("a.bool", True)
    writer.add_custom_alignment(64)
    writer.add_array("words", ["one", "two", "\N{SNOWMAN}"])
    writer.add_array("numbers", [1, 2, 3])
    rng = np.random.default_rng(0)
    for name, kind in (("a", "F32"), ("b.weight", "F16"), ("c", "Q4_0"), ("d", "TQ2_0")):
        shape = (3, 512) if KINDS[kind].weights > 1 else (2, 1, 5)
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(rng.standard_normal(shape).astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    finish(writer)
    return path
