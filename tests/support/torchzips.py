"""`.pt` files as the program writes them, as torch does, and as an attacker might."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.storage.containers import torchpickle, torchzip
from bonsai_quant.storage.containers.torchzip_reader import check_crc, read_index

torch = pytest.importorskip("torch")

DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
STATE = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "codes": torch.arange(5, dtype=torch.uint8),
}


def raw(tensor: Any) -> bytes:
    """Bytes of a tensor in C order."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes())


def specs_of(state: dict[str, Any]) -> list[TensorSpec]:
    return [TensorSpec(n, NAMES[t.dtype], tuple(t.shape)) for n, t in state.items()]


def write(path: Path, state: dict[str, Any], root: str = "state_dict") -> torchzip.ZipLayout:
    """Write `state` as the program does: data by pwrite, last tensor first, then the frames."""
    made = torchzip.layout(specs_of(state), root)
    data = {n: raw(t) if t.numel() else b"" for n, t in state.items()}
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for name in reversed(data):
        os.pwrite(fd, data[name], made.offsets[name])
    for offset, segment in torchzip.frames(made, {n: zlib.crc32(d) for n, d in data.items()}):
        os.pwrite(fd, segment, offset)
    os.close(fd)
    assert path.stat().st_size == made.size
    return made


def load(path: Path, **options: Any) -> dict[str, Any]:
    return torch.load(path, weights_only=True, **options)  # type: ignore[no-any-return]


def check_same(path: Path, state: dict[str, Any]) -> None:
    """Our reader and torch find in `path` exactly `state`."""
    found = {t.spec.name: t for t in read_index(path)}
    check_crc(path)
    content = path.read_bytes()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        stored = found[name]
        assert stored.spec == TensorSpec(name, NAMES[tensor.dtype], tuple(tensor.shape))
        if tensor.numel():
            assert content[stored.offset : stored.offset + stored.spec.nbytes] == raw(tensor)
    for loaded in (load(path), load(path, mmap=True)):
        assert list(loaded) == list(state)
        for name, tensor in state.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)


def refuses(path: Path, word: str) -> None:
    """The one way to fail: what is wrong, in which file, and what to do; and nothing was run."""
    with pytest.raises((BadInput, Unsupported)) as caught:
        read_index(path)
    assert word in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert not (path.parent / "canary").exists()


PICKLE = torchpickle.write_pickle(specs_of({"w": STATE["w"]}))
DATA = {"data/0": raw(STATE["w"])}
OBJECT = b"\x80\x02%s."
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def archive(path: Path, pickled: bytes, **more: bytes) -> Path:
    """A zip around a pickle, as another program might write it: no padding, no records after."""
    texts = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    members = texts | DATA | {k.replace("__", "/"): v for k, v in more.items()}
    return zipped(path, [(f"x/{name}", content) for name, content in members.items()])


def zipped(path: Path, members: list[tuple[str, bytes]], method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return path
