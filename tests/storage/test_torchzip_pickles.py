"""Hostile pickles in a `.pt` file: nothing of them runs, and torch agrees on what is refused."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.storage.containers import torchpickle
from bonsai_quant.storage.containers.torchzip_reader import read_index
from tests.support.torchzips import (
    NAMES,
    PICKLE,
    REBUILD,
    STATE,
    archive,
    check_same,
    load,
    raw,
    refuses,
    specs_of,
)

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.heavy


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["system", "exec", "nested", "open", "getattr"])
def test_runs_nothing(kind: str, protocol: int, tmp_path: Path) -> None:
    canary = str(tmp_path / "canary")
    touch = Call(os.system, f"touch {canary}")
    evil = {
        "system": touch,
        "exec": Call(exec, f"open({canary!r}, 'w')"),
        "nested": Call(pickle.loads, pickle.dumps(touch)),
        "open": Call(open, canary, "w"),
        "getattr": Call(getattr, touch, "x"),
    }[kind]
    text = pickle.dumps({"w": evil}, protocol)
    refuses(archive(tmp_path / "evil.pt", text), "data.pkl")
    (tmp_path / "raw.pt").write_bytes(text)
    refuses(tmp_path / "raw.pt", "is not a zip")


def test_the_archive_itself_is_fine(tmp_path: Path) -> None:
    """So that what is refused below is refused for the right reason."""
    path = archive(tmp_path / "x.pt", PICKLE)
    check_same(path, {"w": STATE["w"]})


EDITS = {
    "os.system": (REBUILD, b"cos\nsystem\n", "names 'os system'"),
    "posix": (REBUILD, b"cposix\nsystem\n", "names 'posix system'"),
    "eval": (REBUILD, b"cbuiltins\neval\n", "names 'builtins eval'"),
    "escaped name": (REBUILD, b"ctorch.\\x5futils\n_rebuild_tensor_v2\n", "names"),
    "blank in a name": (REBUILD, b"ctorch._utils _rebuild_tensor_v2\n\n", "names"),
    "v3": (REBUILD, b"ctorch._utils\n_rebuild_tensor_v3\n", "names"),
    "storage is no tensor": (REBUILD, b"ctorch\nFloatStorage\n", "calls torch FloatStorage"),
    "string as function": (REBUILD, b"X\1\0\0\0a", "not a function"),
    "stack global": (REBUILD, b"h\3h\3\x93", "memo 3"),
    "stack global of strings": (REBUILD, b"X\2\0\0\0osX\6\0\0\0system\x93", "STACK_GLOBAL"),
    "instance": (REBUILD, b"(ios\nsystem\n", "INST"),
    "object": (b"Rq\rs", b"\x81s", "NEWOBJ"),
    "build": (b"s.", b"s}b.", "more than one flat dict"),
    "build of a tuple": (b"s.", b"s)b.", "BUILD"),
    "extension": (b"}", b"\x82\1}", "EXT1"),
    "string id": (b"}", b"Pstorage\n}", "PERSID"),
    "unknown opcode": (b"}", b"\xff}", "opcode b'\\xff' unknown"),
    "duplicate": (b"s.", b"s2.", "DUP"),
    "pop": (b"s.", b"s0.", "POP"),
    "protocol again": (b"s.", b"s\x80\2.", "protocol 2, or changes"),
    "protocol late": (b"\x80\2}", b"}", "protocol number"),
    "empty stack": (b"\x80\2}q\0", b"\x80\2q\0}", "takes more from the stack"),
    "open mark": (b"s.", b"s(.", "flat dict"),
    "left over": (b"s.", b"s).", "flat dict"),
    "two dicts": (b"s.", b"s}.", "more than one flat dict"),
    "unknown memo": (b"Q", b"h\xc8Q", "memo 200"),
    "many marks": (b"}", b"(" * 9 + b"}", "nests more than 8"),
    "name twice": (b"s.", b"sh\1h\rs.", "twice"),
    "dict as its own value": (b"s.", b"sX\1\0\0\0vh\0s.", "str to object"),
    "dict as hooks": (b")R", b")R0h\0", "POP"),
    "dict for hooks": (b"ccollections\nOrderedDict\nq\n)R", b"h\0", "wrong arguments"),
    "metadata": (b"tq\x0c", b"htq\x0c", "memo 116"),
    "seven arguments": (b"\x89", b"\x89\x89", "7 arguments"),
    "storage elsewhere": (b"X\3\0\0\0cpu", b"X\4\0\0\0meta", "another device"),
    "device is a number": (b"X\3\0\0\0cpu", b"K\0", "another device"),
    "foreign storage": (b"FloatStorage", b"Storage", "names 'torch Storage'"),
    "function as storage": (b"ctorch\nFloatStorage\n", b"h\2", "of class torch._utils"),
    "not a storage": (b"X\7\0\0\0storage", b"X\7\0\0\0Storage", "not a storage"),
    "key is a number": (b"X\1\0\0\x000", b"K\0", "wrong types"),
    "numel is a bool": (b"K\6t", b"\x88t", "wrong types"),
    "numel too large": (b"K\6t", b"K\7t", "24 bytes, not the 7 x 4"),
    "numel too small": (b"K\6t", b"K\5t", "24 bytes, not the 5 x 4"),
    "other width": (b"FloatStorage", b"HalfStorage", "24 bytes, not the 6 x 2"),
    "no such storage": (b"X\1\0\0\x000", b"X\1\0\0\x001", "not in the file"),
    "storage outside": (b"X\1\0\0\x000", b"X\5\0\0\0../..", "not in the file"),
    "start": (b"QK\0", b"QK\1", "from element 1 to 6 of a storage of 6"),
    "negative start": (b"QK\0", b"QJ\xff\xff\xff\xff", "from element -1"),
    "huge start": (b"QK\0", b"Q\x8a\x08" + b"\xff" * 7 + b"\x7f", "of a storage of 6"),
    "start is a bool": (b"QK\0", b"Q\x89", "wrong arguments"),
    "shape too large": (b"QK\0K\2", b"QK\0K\3", "to 8 of a storage of 6"),
    "negative shape": (b"QK\0K\2", b"QK\0J\xff\xff\xff\xff", "shape"),
    "huge shape": (b"QK\0K\2", b"QK\0\x8a\x07" + b"\xff" * 6 + b"\0", "shape"),
    "shape of bools": (b"QK\0K\2", b"QK\0\x88", "shape or stride"),
    "shape is a number": (b"K\2K\3\x86", b"K\6", "shape or stride"),
    "rank": (b"K\2K\3\x86", b"K\6\x85", "2 strides"),
    "rank of 9": (b"K\2K\3\x86", b"(" + b"K\1" * 9 + b"t", "shape or stride"),
    "stride": (b"K\3K\1\x86q\t", b"K\4K\1\x86q\t", "to 6 of a storage of 6"),
    "negative stride": (b"K\3K\1\x86q\t", b"J\xfd\xff\xff\xffK\1\x86q\t", "negative"),
    "overflowing stride": (b"K\3K\1\x86q\t", b"\x8a\x09" + b"\0" * 8 + b"\1K\1\x86q\t", "huge"),
    "stride 0": (b"K\3K\1\x86q\t", b"K\0K\1\x86q\t", "not contiguous"),
    "transposed": (b"K\3K\1\x86q\t", b"K\1K\2\x86q\t", "not contiguous"),
    "gradient is a number": (b"\x89", b"K\0", "requires_grad"),
    "illegal name": (b"X\1\0\0\0w", b"X\1\0\0\0\n", "illegal name"),
    "lone surrogate": (b"X\1\0\0\0w", b"X\3\0\0\0\xed\xb2\x80", "illegal name"),
    "name is not UTF-8": (b"X\1\0\0\0w", b"X\1\0\0\0\xff", "not a pickle"),
    "more after the end": (b"s.", b"s..", "ends 1 bytes before"),
    "second pickle": (b"s.", b"s." + pickle.dumps("x"), "bytes before its member"),
    "no end": (b"s.", b"s", "exhausted"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "word"), EDITS.values(), ids=EDITS.keys())
def test_refuses_edited_pickle(old: bytes, new: bytes, word: str, tmp_path: Path) -> None:
    assert old in PICKLE
    refuses(archive(tmp_path / "evil.pt", PICKLE.replace(old, new, 1)), word)


def test_gradient_of_integers(tmp_path: Path) -> None:
    text = PICKLE.replace(b"FloatStorage", b"IntStorage").replace(b"\x89", b"\x88")
    refuses(archive(tmp_path / "evil.pt", text), "requires_grad")


def test_one_storage_of_two_dtypes(tmp_path: Path) -> None:
    """torch would give the second tensor the dtype of the first."""
    other = PICKLE[PICKLE.index(b"X\1\0\0\0w") : -2].replace(b"Float", b"Int")
    text = PICKLE[:-1] + other.replace(b"\0w", b"\0v") + b"s."
    refuses(archive(tmp_path / "evil.pt", text), "for 6 x F32 and for 6 x I32")


def test_truncated_pickles(tmp_path: Path) -> None:
    for size in range(len(PICKLE)):
        refuses(archive(tmp_path / "evil.pt", PICKLE[:size]), "data.pkl")


@pytest.mark.parametrize("text", [b"\x80\2" + b"\x85" * 100, b"\x80\2)" + b"\x85" * 10**5 + b"."])
def test_deep_tuples_end(text: bytes, tmp_path: Path) -> None:
    refuses(archive(tmp_path / "evil.pt", text), "data.pkl")


def test_long_tuple_fetched_often_is_cheap(tmp_path: Path) -> None:
    """A shape of 10^5 numbers, used 10^4 times, is refused at its first use."""
    text = PICKLE.replace(b"K\2K\3\x86", b"(" + b"K\1" * 10**5 + b"t")
    refuses(archive(tmp_path / "evil.pt", text), "at most 8")


def test_mutated_pickles_agree_with_torch(tmp_path: Path) -> None:
    """Whatever still passes, torch accepts too, and sees the same tensors."""
    random, passed = np.random.default_rng(0), 0
    warnings.simplefilter("ignore")  # of torch, at protocol 3
    pickled = torchpickle.write_pickle(specs_of(STATE | {"e": torch.zeros(0, 2)}))
    codes = raw(STATE["codes"])
    for _ in range(1500):
        text = bytearray(pickled)
        for at in random.integers(0, len(text), random.integers(1, 4)):
            text[at] = random.choice((text[at] ^ 1, text[at - 1], random.integers(256)))
        path = archive(tmp_path / "x.pt", bytes(text), data__1=codes, data__2=b"")
        try:
            found = {t.spec.name: t for t in read_index(path)}
        except (BadInput, Unsupported):
            continue
        passed += 1
        content, loaded = path.read_bytes(), load(path)
        assert loaded.keys() == found.keys()
        for name, t in found.items():
            tensor = loaded[name]
            assert t.spec == TensorSpec(name, NAMES[tensor.dtype], tuple(tensor.shape))
            if t.spec.nbytes:
                assert raw(tensor) == content[t.offset : t.offset + t.spec.nbytes]
    assert passed > 20
