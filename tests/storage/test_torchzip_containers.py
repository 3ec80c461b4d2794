"""Zips that are damaged, or that show torch something else than us."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.storage.containers import storedzip
from bonsai_quant.storage.containers.torchzip_reader import check_crc, read_index
from tests.support.torchzips import DATA, PICKLE, STATE, load, refuses, write, zipped

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.heavy


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
