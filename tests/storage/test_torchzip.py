"""The `.pt` container: torch is the oracle in both directions, and hostile files never run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported
from bonsai_quant.core.schema import StoredTensor, TensorSpec
from bonsai_quant.storage.containers import storedzip, torchpickle, torchzip
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


# --- what we write


def test_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    made = write(path, {"w": torch.tensor([1.0, -2.0])})
    content = path.read_bytes()
    assert made.offsets == {"w": 704}
    assert content[:64] == (
        b"PK\3\4\0\0\x08\x08" + bytes(18) + b"\x13\0\x0f\0state_dict/data.pklFB\x0b\0" + b"Z" * 11
    )
    pickled = (
        b"\x80\x02}q\0X\1\0\0\0wq\1ctorch._utils\n_rebuild_tensor_v2\nq\2((X\7\0\0\0storageq\3"
        b"ctorch\nFloatStorage\nq\4X\1\0\0\x000q\5X\3\0\0\0cpuq\6K\2tq\7QK\0K\2\x85q\x08K\1\x85q\t"
        b"\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
    )
    assert content[64:].startswith(pickled + b"PK\7\x08")
    assert content[704:712].hex() == "0000803f000000c0"
    digest = "590f63d5f90ab43f8b986bb7c0b834f085824a19e0e80a8e4a819fc15daefe62"
    assert hashlib.sha256(content).hexdigest() == digest


STATES: dict[str, dict[str, Any]] = {
    "none": {},
    "one": {"a": torch.ones(3, 4)},
    "scalar and empty": {"s": torch.tensor(7), "e": torch.zeros(0, 3), "f": torch.zeros(4, 0)},
    "dtypes": {n: torch.tensor([[0, 1], [1, 1]]).to(d) for n, d in DTYPES.items()},
    "big integers": {"a": torch.zeros(256, 1), "b": torch.zeros(70000, dtype=torch.uint8)},
    "long memo": {f"block.{i}.weight": torch.full((2, 1, 1, 1), float(i)) for i in range(60)},
    "full batch": {f"t{i}": torch.zeros(1) for i in range(1000)},
    "names": {"é": torch.ones(1), "a b": torch.zeros(2), "x" * 300: torch.zeros(1)},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_same_as_torch_save(state: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.pt", tmp_path / "state_dict.pt"
    made = write(ours, state)
    torch.save(state, theirs)
    check_same(ours, state)
    check_same(theirs, state)
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        assert one.testzip() is None
        if "state_dict/.storage_alignment" not in other.namelist():
            pytest.skip("an older torch lays files out differently")
    allowed = serialization_id(made)
    a, b = ours.read_bytes(), theirs.read_bytes()
    assert len(a) == len(b)
    assert not [i for i in range(len(a)) if a[i] != b[i] and i not in allowed]


def serialization_id(made: torchzip.ZipLayout) -> set[int]:
    """Offsets of the id, of its checksum behind it, and of that in the directory."""
    entry = made.entries[-1]
    directory = made.size - 98 - 46 - len(entry.name) - (8 + 4 if entry.wide else 0)
    starts = ((entry.start, 40), (entry.start + 44, 4), (directory + 16, 4))
    return {i for start, n in starts for i in range(start, start + n)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_offsets_can_be_computed(dtype: str, tmp_path: Path) -> None:
    """torch has a mode in which it derives the offsets instead of reading them."""
    config = pytest.importorskip("torch.utils.serialization.config")
    state = {f"t{i}": torch.ones(i, 9).to(DTYPES[dtype]) for i in range(20)}
    write(tmp_path / "x.pt", state)
    with config.patch({"load.calculate_storage_offsets": True}):
        loaded = load(tmp_path / "x.pt", mmap=True)
    assert all(torch.equal(loaded[n], state[n]) for n in state)


def test_beyond_4_gib(tmp_path: Path) -> None:
    """torch, told to skip the data, writes the same sparse file."""
    if not hasattr(torch.serialization, "skip_data"):
        pytest.skip("torch is too old")
    sizes = {"a": 2**32 - 1, "none": 0, "b": 7, "c": 2**32 + 5}
    ours, theirs = tmp_path / "ours.pt", tmp_path / "state_dict.pt"
    with torch.serialization.skip_data():
        torch.save({n: torch.empty(k, dtype=torch.uint8) for n, k in sizes.items()}, theirs)
    made = torchzip.layout([TensorSpec(n, "U8", (k,)) for n, k in sizes.items()])
    assert made.size == theirs.stat().st_size
    allowed = serialization_id(made)
    with theirs.open("rb") as other, ours.open("wb") as file:
        for offset, segment in torchzip.frames(made, dict.fromkeys(sizes, 0)):
            other.seek(offset)
            pairs = enumerate(zip(segment, other.read(len(segment)), strict=True), offset)
            assert not [i for i, (x, y) in pairs if x != y and i not in allowed]
            file.seek(offset)
            file.write(segment)
        file.seek(made.offsets["c"] + sizes["c"] - 1)
        file.write(b"\7")
    loaded = load(ours, mmap=True)
    assert {n: len(t) for n, t in loaded.items()} == sizes
    assert loaded["c"][-1] == 7
    assert {t.spec.name: t.offset for t in read_index(ours)} == made.offsets
    assert len(zipfile.ZipFile(ours).namelist()) == 10


def test_more_than_65535_entries(tmp_path: Path) -> None:
    specs = [TensorSpec(f"t{i}", "U8", (0,)) for i in range(65_600)]
    made = torchzip.layout(specs)
    ((start, content),) = torchzip.frames(made, dict.fromkeys(made.offsets, 0))
    assert (start, len(content)) == (0, made.size)
    assert len(zipfile.ZipFile(io.BytesIO(content)).namelist()) == 65_606


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (TensorSpec("t", "U32", (1,)), "U32"),
        (TensorSpec("", "F32", (1,)), "illegal name"),
        (TensorSpec("a\x1b", "F32", (1,)), "illegal name"),
        (TensorSpec("\udc80", "F32", (1,)), "illegal name"),
        (TensorSpec("t", "F32", (1,) * 9), "shape"),
        (TensorSpec("t", "F32", (2**30, 2**30, 0)), "implausible"),
    ],
)
def test_refuses_to_write(spec: TensorSpec, word: str) -> None:
    with pytest.raises(BonsaiError, match=word):
        torchzip.layout([spec])


def test_refuses_to_write_a_name_twice() -> None:
    with pytest.raises(BadInput, match="twice"):
        torchzip.layout([TensorSpec("t", "F32", (1,))] * 2)


tensors = st.tuples(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=8), st.integers(0, 9)
)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.isprintable)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(made=st.dictionaries(names, tensors, max_size=6))
def test_round_trip(made: dict[str, tuple[str, list[int], int]], tmp_path: Path) -> None:
    state = {n: torch.full(tuple(s), v).to(DTYPES[d]) for n, (d, s, v) in made.items()}
    write(tmp_path / "ours.pt", state)
    torch.save(state, tmp_path / "theirs.pt")
    check_same(tmp_path / "ours.pt", state)
    check_same(tmp_path / "theirs.pt", state)


# --- what else torch.save makes


def saved(path: Path, value: object, **options: Any) -> tuple[StoredTensor, ...]:
    torch.save(value, path, **options)
    return read_index(path)


def test_reads_parameters_and_ordered_dicts(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    state = OrderedDict(w=weight, g=torch.ones(2, requires_grad=True), n=torch.zeros(1, 5).t())
    found = saved(tmp_path / "x.pt", state)
    assert [(t.spec.name, t.spec.shape) for t in found] == [("w", (2, 3)), ("g", (2,)),
                                                            ("n", (5, 1))]  # fmt: skip
    saved(tmp_path / "x.pt", state, pickle_protocol=3)


def test_reads_disjoint_views(tmp_path: Path) -> None:
    whole = torch.arange(10, dtype=torch.int32)
    a, b = saved(tmp_path / "x.pt", {"b": whole[4:9], "a": whole[:4]})
    assert (a.spec.name, b.spec.name, b.offset - a.offset) == ("a", "b", 16)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"t": torch.ones(2, 3).t()}, "not contiguous"),
        ({"a": STATE["w"], "b": STATE["w"]}, "shares memory"),
        ({"a": STATE["w"].view(-1)[:4], "b": STATE["w"].view(-1)[3:]}, "shares memory"),
        (torch.ones(2), "flat dict"),
        ([torch.ones(2)], "EMPTY_LIST"),
        ({"a": {"b": torch.ones(2)}}, "more than one flat dict"),
        ({"a": torch.ones(2), "epoch": 3}, "str to int"),
        ({3: torch.ones(2)}, "int to PickledTensor"),
        ({"a": torch.ones(2), "rate": 0.5}, "BINFLOAT"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
        ({"a": torch.ones(2, dtype=torch.uint16)}, "names 'torch"),
        ({"a": torch.ones(2, device="meta")}, "names 'torch"),
        ({"a": torch.eye(2).to_sparse()}, "names 'torch"),
        ({"a": np.ones(2)}, "names 'numpy"),
        ({"\x1b[2J": torch.ones(2)}, "illegal name"),
        (torch.nn.Linear(1, 1).state_dict(), "dict(model.state_dict())"),
    ],
)
def test_refuses_other_values(value: object, word: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.pt"
    torch.save(value, path)
    refuses(path, word)


@pytest.mark.parametrize("protocol", [4, 5])
def test_refuses_protocols_that_torch_refuses(protocol: int, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pt", pickle_protocol=protocol)
    refuses(tmp_path / "x.pt", f"protocol {protocol}")
    with pytest.raises(pickle.UnpicklingError), pytest.warns(UserWarning, match="protocol"):
        load(tmp_path / "x.pt")


def refuses(path: Path, word: str) -> None:
    """The one way to fail: what is wrong, in which file, and what to do; and nothing was run."""
    with pytest.raises((BadInput, Unsupported)) as caught:
        read_index(path)
    assert word in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert not (path.parent / "canary").exists()


# --- hostile pickles

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


# --- hostile containers


def ours(tmp_path: Path) -> tuple[Path, bytearray]:
    path = tmp_path / "evil.pt"
    write(path, STATE, "x")
    return path, bytearray(path.read_bytes())


def directory_line(content: bytearray, name: bytes) -> int:
    """Offset of the line of the central directory about a member."""
    return content.rindex(name) - storedzip.CENTRAL.size


PATCHES = {
    "local magic": ("local", 0, "<I", 0),
    "local version": ("local", 4, "<H", 20),
    "local flags": ("local", 6, "<H", 0x800),
    "local method": ("local", 8, "<H", 8),
    "local crc": ("local", 14, "<I", 1),
    "local size": ("local", 22, "<I", 24),
    "local name length": ("local", 26, "<H", 9),
    "local extra length": ("local", 28, "<H", 65535),
    "local name": ("local", 30, "<B", ord("y")),
    "record magic": ("record", 0, "<I", 0),
    "record crc": ("record", 4, "<I", 1),
    "record size": ("record", 8, "<I", 25),
    "encrypted": ("line", 8, "<H", 0x809),
    "compressed": ("line", 10, "<H", 8),
    "both sizes": ("line", 20, "<Q", 25 | 25 << 32),
    "sizes above the file": ("line", 20, "<Q", 2**31 | 2**63),
    "size": ("line", 24, "<I", 25),
    "no zip64": ("line", 24, "<I", 2**32 - 1),
    "name length": ("line", 28, "<H", 0),
    "extra length": ("line", 30, "<H", 65535),
    "comment": ("line", 32, "<H", 1),
    "disk": ("line", 34, "<H", 1),
    "folder": ("line", 38, "<I", 0x10),
    "offset": ("line", 42, "<I", 0),
    "offset above the file": ("line", 42, "<I", 2**31),
    "2^32 entries": ("end64", 32, "<Q", 2**32),
    "counts that differ": ("end64", 24, "<Q", 1),
    "directory size": ("end64", 40, "<Q", 2**63),
    "directory offset": ("end64", 48, "<Q", 2**64 - 1),
    "locator": ("end64", 56 + 8, "<Q", 0),
    "old count": ("end64", 76 + 8, "<I", 1 | 1 << 16),
    "old offset": ("end64", 76 + 16, "<I", 0),
    "end disk": ("end64", 76 + 4, "<H", 1),
    "end comment": ("end64", 76 + 20, "<H", 1),
    "end magic": ("end64", 76, "<I", 0),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES.keys())
def test_refuses_patched_zip(patch: tuple[str, int, str, int], tmp_path: Path) -> None:
    path, content = ours(tmp_path)
    place, delta, form, value = patch
    local = content.index(b"x/data/0") - storedzip.LOCAL.size
    places = {
        "local": local,
        "record": content.index(storedzip.CHECK_MAGIC, local),
        "line": directory_line(content, b"x/data/0"),
        "end64": len(content) - 98,
    }
    struct.pack_into(form, content, places[place] + delta, value)
    path.write_bytes(content)
    refuses(path, "")


def test_every_bit_of_the_container(tmp_path: Path) -> None:
    """Whatever still passes with one bit flipped, torch reads to the same tensors."""
    path, content = ours(tmp_path)
    passed = 0
    for at in (i for i, byte in enumerate(content) if byte not in b"Z"):  # Z: padding
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            read_index(path)
            check_crc(path)
        except (BadInput, Unsupported):
            continue
        passed += 1
        loaded = load(path)
        assert loaded.keys() == STATE.keys()
        assert all(torch.equal(t, STATE[n]) for n, t in loaded.items())
    assert 0 < passed < 120  # attributes and the number of the zip version


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


def test_tensor_data_is_covered_by_check_crc(tmp_path: Path) -> None:
    path, content = ours(tmp_path)
    content[read_index(path)[0].offset] ^= 1
    path.write_bytes(content)
    read_index(path)
    with pytest.raises(BadInput, match="x/data/0: has the CRC-32"):
        check_crc(path)


def test_small_members_are_checked(tmp_path: Path) -> None:
    path, content = ours(tmp_path)
    content[content.index(b"wq\1")] = ord("v")
    path.write_bytes(content)
    refuses(path, "x/data.pkl: has the CRC-32")


@pytest.mark.parametrize(
    ("before", "after"), [(b"#!/bin/sh\n", b""), (b"", b"\0"), (b"", b"PK\5\6"), (b"PK\3\4", b"")]
)
def test_refuses_what_surrounds_the_zip(before: bytes, after: bytes, tmp_path: Path) -> None:
    path, content = ours(tmp_path)
    path.write_bytes(before + content + after)
    refuses(path, "")


def test_refuses_truncation(tmp_path: Path) -> None:
    path, content = ours(tmp_path)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        refuses(path, "")


BASIC = [("x/data.pkl", PICKLE), ("x/data/0", DATA["data/0"]), ("x/version", b"3\n")]
MEMBERS = {
    "parent": ([*BASIC, ("../x", b"")], "leads out of its folder"),
    "parent inside": ([*BASIC, ("x/../../y", b"")], "leads out of its folder"),
    "absolute": ([*BASIC, ("/etc/passwd", b"")], "leads out of its folder"),
    "backslash": ([*BASIC, ("x\\..\\y", b"")], "illegal name"),
    "control": ([*BASIC, ("x/\x1b[2J", b"")], "illegal name"),
    "long name": ([*BASIC, ("x/" + "y" * 2000, b"")], "illegal name"),
    "folder": ([*BASIC, ("x/data/", b"")], "leads out of its folder"),
    "other root": ([*BASIC, ("y/version", b"3\n")], "not in the folder"),
    "no root": ([*BASIC, ("version", b"3\n")], "not in the folder"),
    "no root first": ([("version", b"3\n"), *BASIC], "not in the folder"),
    "case twin": ([*BASIC, ("x/VERSION", b"3\n")], "stands twice"),
    "unknown": ([*BASIC, ("x/readme", b"")], "torch.save writes"),
    "odd key": ([*BASIC, ("x/data/00", b"")], "torch.save writes"),
    "script": ([*BASIC, ("x/constants.pkl", PICKLE)], "torch.jit"),
    "script code": ([("x/code/__torch__.py", b"import os"), *BASIC], "torch.jit"),
    "unused storage": ([*BASIC, ("x/data/1", b"hidden")], "belongs to no tensor"),
    "no data": (BASIC[::2], "not in the file"),
    "short data": ([BASIC[0], ("x/data/0", bytes(20)), BASIC[2]], "20 bytes, not the 6 x 4"),
    "long data": ([BASIC[0], ("x/data/0", bytes(28)), BASIC[2]], "28 bytes, not the 6 x 4"),
    "no pickle": (BASIC[1:], "without x/data.pkl"),
    "no version": (BASIC[:2], "without x/version"),
    "version": ([*BASIC[:2], ("x/version", b"11")], "which torch would not write"),
    "long version": ([*BASIC[:2], ("x/version", b"3" * 2000)], "more than the 1024"),
    "big endian": ([*BASIC, ("x/byteorder", b"big")], "big-endian"),
    "byte order": ([*BASIC, ("x/byteorder", b"middle")], "which torch would not write"),
    "alignment": ([*BASIC, ("x/.storage_alignment", b"0")], "which torch would not write"),
    "pickle too long": ([("x/data.pkl", bytes(2**24 + 1)), *BASIC[1:]], "more than the 16777216"),
    "nothing": ([], "not a zip of torch.save"),
}


@pytest.mark.parametrize(("members", "word"), MEMBERS.values(), ids=MEMBERS.keys())
def test_refuses_members(members: list[tuple[str, bytes]], word: str, tmp_path: Path) -> None:
    refuses(zipped(tmp_path / "evil.pt", members), word)


def test_refuses_two_members_of_one_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "evil.pt", [*BASIC, ("x/versioN", b"2\n")])
    path.write_bytes(path.read_bytes().replace(b"versioN", b"version"))
    refuses(path, "stands twice")


def test_refuses_deflate(tmp_path: Path) -> None:
    members = [BASIC[0], ("x/data/0", bytes(2**24)), BASIC[2]]
    refuses(zipped(tmp_path / "bomb.pt", members, zipfile.ZIP_DEFLATED), "is compressed (method 8)")


def test_refuses_what_hides_between_members(tmp_path: Path) -> None:
    """A directory that skips a member of a valid zip."""
    path = zipped(tmp_path / "evil.pt", [*BASIC[:2], ("x/hidden", b"#"), BASIC[2]])
    content = bytearray(path.read_bytes())
    line = directory_line(content, b"x/hidden")
    del content[line : line + 46 + 8]
    for at, value in ((-14, 3), (-12, 3), (-10, struct.unpack("<H", content[-10:-8])[0] - 54)):
        struct.pack_into("<H", content, len(content) + at, value)
    path.write_bytes(content)
    assert load(path).keys() == {"w"}
    refuses(path, "belong to no member")


def test_says_what_other_containers_are(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    refuses(path, "a Python pickle")
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "storages")
    refuses(path, "a tar archive")
    path.write_bytes(b"<!DOCTYPE html><html>")
    refuses(path, "a web page")
    path.write_bytes(b"")
    refuses(path, "not a zip of torch.save")


def test_returns_at_once_for_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "missing"):
        with pytest.raises(BadInput):
            read_index(tmp_path / name)
