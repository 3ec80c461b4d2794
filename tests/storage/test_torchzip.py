"""The `.pt` container: torch is the oracle in both directions."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bonsai_quant.core.errors import BadInput, BonsaiError
from bonsai_quant.core.schema import StoredTensor, TensorSpec
from bonsai_quant.storage.containers import torchzip
from bonsai_quant.storage.containers.torchzip_reader import read_index
from tests.support.torchzips import DTYPES, STATE, check_same, load, refuses, write

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.heavy


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
