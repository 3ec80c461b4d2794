"""The reader of gguf files, against the gguf package and bytes made by hand."""

from __future__ import annotations

import random
import struct

import pytest

from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported
from bonsai_quant.storage.containers.gguf import GgufTensor
from bonsai_quant.storage.containers.gguf_reader import parse_gguf, read_gguf
from tests.support.ggufs import foreign

gguf = pytest.importorskip("gguf")


def test_other_files_are_read_as_the_package_reads_them(tmp_path):
    path = foreign(tmp_path / "a.gguf")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert len(ours.tensors) == 4
    for t, u in zip(ours.tensors, theirs.tensors, strict=True):
        assert (t.name, t.kind, list(t.shape[::-1])) == (
            u.name,
            u.tensor_type.name,
            u.shape.tolist(),
        )
        assert (t.offset, t.nbytes, t.stored_shape) == (u.data_offset, u.n_bytes, u.data.shape)
    said = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == {k: v for k, v in said.items() if k not in ("words", "numbers")}


def test_truncated_anywhere_it_is_refused(tmp_path):
    path = foreign(tmp_path / "a.gguf")
    data, start = path.read_bytes(), read_gguf(path).tensors[0].offset
    for size in (*range(start + 80), *range(len(data) - 200, len(data) - 64)):
        with pytest.raises(BadInput) as e:
            parse_gguf(data[:size], size, path)
        assert e.value.exit_code == 3
        assert str(path) in str(e.value)


@pytest.mark.heavy
def test_random_damage_is_refused_or_readable_by_the_package(tmp_path):
    """Each byte of the header changed in turn, and pieces of it replaced by extreme numbers."""
    path = foreign(tmp_path / "a.gguf")
    data, start = path.read_bytes(), read_gguf(path).tensors[0].offset
    rng, accepted = random.Random(0), 0
    damage = [(at, bytes([data[at] ^ 1 << bit])) for at in range(start) for bit in range(8)]
    extreme = [struct.pack("<Q", n) for n in (0, 1, 3, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)]
    damage += [(rng.randrange(start - 8), rng.choice(extreme)) for _ in range(2000)]
    for at, piece in damage:
        damaged = data[:at] + piece + data[at + len(piece) :]
        try:
            parse_gguf(damaged, len(damaged), path)
        except BonsaiError as e:
            assert e.exit_code in (3, 4), (at, piece)
            assert str(path) in str(e)
            continue
        accepted += 1
        if accepted % 8 == 0:  # the package takes its time
            path.write_bytes(damaged)
            gguf.GGUFReader(path)
    assert accepted > 1000  # names and values may be others


def header(tensors, metadata=(), *, version=3, magic=b"GGUF") -> bytes:
    """tensors: (name, axes, type, offset).  metadata: (key, type, bytes)."""
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    out = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += text(key) + struct.pack("<I", kind) + value
    for name, axes, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
    return out + bytes(-len(out) % 32)


U32, ARRAY = struct.Struct("<I").pack, struct.Struct("<IQ").pack
TWO = ((b"a", (4, 2), 0, 0), (b"b", (4, 2), 0, 32))
ALIGNMENT = b"general.alignment"
BROKEN = {
    "empty": (b"", 64, "not a GGUF file"),
    "other magic": (header(TWO, magic=b"PK\x03\x04"), 64, "zip archive"),
    "one name twice": (header((TWO[0], (b"a", *TWO[1][1:]))), 64, "stands twice"),
    "overlap": (header((TWO[0], (b"b", (4, 2), 0, 0))), 64, "expected"),
    "hole": (header((TWO[0], (b"b", (4, 2), 0, 64))), 96, "expected"),
    "unaligned": (header((TWO[0], (b"b", (4, 2), 0, 33))), 96, "expected"),
    "no axes": (header(((b"a", (), 0, 0),)), 64, "has 0 axes"),
    "five axes": (header(((b"a", (1,) * 5, 0, 0),)), 64, "has 5 axes"),
    "axis of 0": (header(((b"a", (4, 0), 0, 0),)), 0, "implausible shape"),
    "product above 64 bits": (header(((b"a", (2**32, 2**32 + 1), 0, 0),)), 64, "implausible"),
    "half a block": (header(((b"a", (64, 4), 41, 0),)), 64, "blocks of 128"),
    "unknown type": (header(((b"a", (64, 4), 44, 0),)), 128, "type 44"),
    "removed type": (header(((b"a", (64, 4), 4, 0),)), 128, "type 4,"),
    "name of control characters": (header(((b"a\x1b[31m", (4,), 0, 0),)), 32, "illegal"),
    "name not UTF-8": (header(((b"\xff", (4,), 0, 0),)), 32, "not UTF-8"),
    "short": (header(TWO), 60, "truncated"),
    "long": (header(TWO), 65, "end at byte"),
    "version 1": (header(TWO, version=1), 64, "version 1"),
    "big-endian": (header(TWO, version=3 << 24), 64, "big-endian"),
    "one key twice": (header(TWO, ((b"k", 4, U32(1)),) * 2), 64, "stands twice"),
    "alignment of 24": (header(TWO, ((ALIGNMENT, 4, U32(24)),)), 64, "power of two"),
    "alignment of 0": (header(TWO, ((ALIGNMENT, 4, U32(0)),)), 64, "power of two"),
    "alignment signed": (header(TWO, ((ALIGNMENT, 5, U32(32)),)), 64, "uint32"),
    "alignment in an array": (header(TWO, ((ALIGNMENT, 9, ARRAY(4, 1) + U32(32)),)), 64, "uint32"),
    "array in an array": (header(TWO, ((b"k", 9, ARRAY(9, 0)),)), 64, "array of the type 9"),
    "array without end": (header(TWO, ((b"k", 9, ARRAY(0, 2**60)),)), 64, "ends within"),
    "texts without end": (header(TWO, ((b"k", 9, ARRAY(8, 2**60)),)), 64, "ends within"),
    "text without end": (header(TWO, ((b"k", 8, struct.pack("<Q", 2**63)),)), 64, "ends within"),
    "truth of 2": (header(TWO, ((b"k", 7, b"\2"),)), 64, "truth value 2"),
    "value of type 13": (header(TWO, ((b"k", 13, b"\2"),)), 64, "unknown type 13"),
    "tensors without end": (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), 64, "tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_place(case, tmp_path):
    head, body, reason = BROKEN[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(head + bytes(body))
    with pytest.raises((BadInput, Unsupported), match=reason) as e:
        read_gguf(path)
    assert str(path) in str(e.value)


def test_a_correct_file_by_hand_is_read(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(header(TWO, ((ALIGNMENT, 4, U32(32)),)) + bytes(64))
    start = len(path.read_bytes()) - 64
    assert read_gguf(path).tensors == (
        GgufTensor("a", "F32", (2, 4), start),
        GgufTensor("b", "F32", (2, 4), start + 32),
    )
    assert [t.data_offset for t in gguf.GGUFReader(path).tensors] == [start, start + 32]
