"""Random damage: what safetensors refuses we refuse too, and only our own errors come out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import DTYPE_BYTES
from bonsai_quant.storage.containers.safetensors import read_header

from .conftest import mk

SEEDED = settings(
    max_examples=800,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
STRICTER = re.compile(
    r"stands twice|illegal tensor name|has a dimension above|at most 8 counts|overlaps"
    r"|__metadata__ is not an object|has no (dtype|shape|data_offsets)|not JSON"
    r"|unknown dtype .\{"
)
"""What we refuse although the reference reader takes it, which takes {"BF16": null} for a dtype."""

WORDS = ("BF16", "F32", "F16", "U8", "I64", "F8_E4M3", "F4", "Q4", "dtype", "shape", "data_offsets",
         "__metadata__", "a", "", "\0", "\ud800")  # fmt: skip
NUMBERS = (0, 1, 2, 4, 8, -1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64 - 1, 2**64, 10**30)
junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=4,
)


@st.composite
def models(draw: Any) -> tuple[dict[str, Any], bytes]:
    """Header and body of a correct file of up to four small tensors."""
    table: dict[str, Any] = {}
    at = 0
    for name in draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(("BF16", "F16", "F32", "U8", "F64", "BOOL")))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        size = DTYPE_BYTES[dtype]
        for n in shape:
            size *= n
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    if draw(st.booleans()):
        table["__metadata__"] = {"format": "pt"}
    return table, bytes(at)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*path, key))
    return found


def change(draw: Any, table: dict[str, Any]) -> None:
    """Replace, remove, rename or copy one value of the header."""
    where = draw(st.sampled_from(places(table) or [("a",)]))
    holder: Any = table
    for key in where[:-1]:
        holder = holder[key]
    last = where[-1]
    kind = draw(st.sampled_from(("replace", "remove", "copy", "nudge")))
    if kind == "replace":
        holder[last] = draw(junk)
    elif kind == "remove" and (isinstance(holder, list) or last in holder):
        del holder[last]
    elif kind == "copy" and isinstance(holder, dict) and last in holder:
        holder[draw(st.sampled_from(WORDS))] = holder[last]
    elif kind == "nudge" and isinstance(holder, list) and type(holder[last]) is int:
        holder[last] += draw(st.sampled_from((-1, 1, 2, 1000, 2**32)))


def damage(draw: Any, content: bytes) -> bytes:
    """Change, insert, remove or add bytes of the file."""
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    n = draw(st.integers(1, 9))
    kind = draw(st.sampled_from(("none", "flip", "insert", "remove", "cut", "add", "length")))
    if kind == "flip":
        return content[:at] + draw(st.binary(min_size=1, max_size=1)) + content[at + 1 :]
    if kind == "insert":
        return content[:at] + draw(st.binary(min_size=n, max_size=n)) + content[at:]
    if kind == "remove":
        return content[:at] + content[at + n :]
    if kind == "length":
        return draw(st.binary(min_size=8, max_size=8)) + content[8:]
    return {"cut": content[:at], "add": content + bytes(n)}.get(kind, content)


@st.composite
def files(draw: Any) -> bytes:
    """A correct file, then zero to three changes of its header and one of its bytes."""
    table, body = draw(models())
    for _ in range(draw(st.integers(0, 3))):
        change(draw, table)
    return damage(draw, mk(json.dumps(table).encode(), body))


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "a.safetensors"


def judge(path: Path, content: bytes) -> tuple[str, str]:
    """The reference reader's complaint and ours; '' for none."""
    theirs = ours = ""
    try:
        deserialize(content)
    except SafetensorError as e:
        theirs = str(e)
    path.write_bytes(content)
    try:
        read_header(path)
    except (BadInput, Unsupported) as e:
        ours = str(e)
        assert ours.startswith(str(path)) and " -> " in ours and ours.isprintable()
    return theirs, ours


@pytest.mark.heavy
@SEEDED
@given(content=files())
def test_what_safetensors_refuses_we_refuse(content, path):
    theirs, ours = judge(path, content)
    if theirs:
        assert ours, theirs
    elif ours:
        assert STRICTER.search(ours), ours


@settings(SEEDED, max_examples=300)
@given(file=models())
def test_correct_files_are_read(file, path):
    table, body = file
    assert judge(path, mk(table, body)) == ("", "")
    header = read_header(path)
    assert {t.spec.name for t in header.tensors} == set(table) - {"__metadata__"}
    for t in header.tensors:
        said = table[t.spec.name]
        start, stop = said["data_offsets"]
        assert (t.offset - header.data_start, t.spec.nbytes) == (start, stop - start)
        assert (t.spec.dtype, list(t.spec.shape)) == (said["dtype"], said["shape"])


@settings(SEEDED, max_examples=300)
@given(content=st.binary(max_size=200))
def test_random_bytes(content, path):
    theirs, ours = judge(path, content)
    assert theirs and ours
