"""Hostile checkpoints made byte by byte, and what every refusal must look like."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bonsai_quant.core.schema import PackTensor
from bonsai_quant.packs.read import open_pack
from tests.support import models

MODEL = ((2, 2), {"h": 128, "i": 64, "o": 64, "j": 128, "t": 64, "d": 64, "m": 128})
"""Double and single blocks, and sizes as in `bases.flux2`: one million weights."""
MATRIX = "transformer_blocks.1.attn.to_q.weight"
NORM = "single_transformer_blocks.0.attn.norm_q.weight"
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64",
          "int64": "I64", "int8": "I8", "uint8": "U8"}  # fmt: skip
SINGLE_FILE = "model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
MODE = ("--mode", "ternary")

Weights = dict[str, np.ndarray]


def mk(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of this header (bytes, or JSON to be) and body, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tiny(dtype: Any = ml_dtypes.bfloat16) -> Weights:
    """The tensors of MODEL under diffusers' names; the arrays may be changed."""
    return models.tensors(MODEL, dtype=dtype)


def original(weights: Weights) -> Weights:
    """The same model under its original names."""
    return models.to_original(weights, MODEL)


def table_of(weights: Weights) -> tuple[dict[str, Any], bytes]:
    """Header and body of a correct file, for changing one of them."""
    table, at = {}, 0
    for name, array in weights.items():
        span = [at, at + array.nbytes]
        table[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape),
                       "data_offsets": span}  # fmt: skip
        at += array.nbytes
    return table, b"".join(a.tobytes() for a in weights.values())


def save(path: Path, weights: Weights) -> Path:
    """A correct safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mk(*table_of(weights)))
    return path


def save_shards(folder: Path, shards: int = 2) -> Path:
    """A correct transformer folder with an index."""
    return models.save_folder(folder, tiny(), MODEL, shards=shards)


def listing(folder: Path) -> list[tuple[str, int]]:
    """Everything below a folder, links not followed, with sizes."""
    found = []
    for at, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(at, name)
            found.append((os.path.relpath(path, folder), os.lstat(path).st_size))
    return sorted(found)


def digests(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def complaint(result: Any, code: int) -> str:
    """The line that a failed command prints: only one, printable, and with a next step."""
    lines = result.err.splitlines()
    assert result.code == code, result.err
    assert len(lines) == 1, lines
    assert lines[0].isprintable()
    assert "Traceback" not in lines[0]
    what, arrow, step = lines[0].rpartition(" -> ")
    assert what.startswith("error[") and arrow and step, lines[0]
    return lines[0]


@pytest.fixture
def source(tmp_path) -> Path:
    """A file that can be read as such and with its folder."""
    path = save(tmp_path / "source" / SINGLE_FILE, tiny())
    (path.parent / "config.json").write_text(json.dumps(models.config(MODEL)))
    return path


@pytest.fixture
def refuse(run, tmp_path):
    """refuse(code, source, *says): convert fails with one good line and leaves no trace."""

    def call(
        code: int, source: object, *says: str, options=MODE, out: object = None, within: float = 10
    ) -> str:
        before, start, busy = listing(tmp_path), time.perf_counter(), time.process_time()
        result = run("convert", source, *options, "-o", tmp_path / "out" if out is None else out)
        assert time.process_time() - busy < within
        assert time.perf_counter() - start < 5 * within  # other processes may hold the cores
        line = complaint(result, code)
        assert listing(tmp_path) == before, "the output, a staging folder or a source changed"
        assert result.out == ""
        for text in says:
            assert text in line
        return line

    return call


@pytest.fixture
def accept(run, tmp_path):
    """accept(source): convert succeeds; -> the result, whose `pack` is the bonsai folder."""

    def call(source: object, *options: object, out: str = "out", mode: str = "ternary") -> Any:
        arguments = ("--mode", mode, "-f", "bonsai", "-o", tmp_path / out, *options)
        result = run("convert", source, *arguments)
        assert result.code == 0, result.err
        result.pack = tmp_path / out / "bonsai"
        return result

    return call


FIRST, SECOND = (f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2))
STRICT = (*MODE, "--strict")


def edit(path: Path, change: Any) -> None:
    """Rewrite a JSON file; `change` alters the value, or returns the new text."""
    value = json.loads(path.read_text())
    made = change(value)
    path.write_bytes(made if isinstance(made, bytes) else json.dumps(value).encode())


def put(*path: str, value: Any) -> Any:
    """A change that sets one value."""

    def change(table: Any) -> None:
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value

    return change


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_shards(tmp_path / "model")


BF16 = ml_dtypes.bfloat16
LEAST = 2.0**-14
MODES = ("ternary", "binary")


def bonsai(folder: Path) -> tuple[Any, dict[str, PackTensor]]:
    pack = open_pack(folder)
    return pack, {t.name: t for t in pack.info.tensors}
