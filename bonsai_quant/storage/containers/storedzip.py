"""A strict reader of zips whose members are stored as they are, and the records of a zip.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. A zip says everything twice,
in a header before each member and in a directory at the end, and readers differ in which they
believe. Here both have to agree, and the members have to tile the file from its first byte to the
directory, so that there is nothing before, between, over or after them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs

LOCAL, CENTRAL = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")
CHECK, CHECK64 = struct.Struct("<4s3I"), struct.Struct("<4sI2Q")
END64, LOCATOR = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
END = struct.Struct("<4s4H2IH")
LOCAL_MAGIC, CENTRAL_MAGIC, CHECK_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
END64_MAGIC, LOCATOR_MAGIC, END_MAGIC = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"
FOLDER = 0x10
"""Attribute of a folder. torch takes such a member for empty, whatever its size and name are."""
UTF8, CHECK_FOLLOWS = 0x800, 0x8
"""Flags: the name is UTF-8; checksum and sizes stand after the content, not before it."""
ZIP64 = 1
"""Number of the extra field for what 32 bits cannot hold."""
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
"""Stand for a number that is in the zip64 record."""

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 32 << 20
"""Bytes of the central directory; 100,000 members of torch.save take 10 MB."""
MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A member. size: of its content, in bytes.  start: offset of the content in the file."""

    name: str
    crc: int
    size: int
    start: int


@dataclass(frozen=True, slots=True)
class File:
    """An open file that may be anything. size: in bytes."""

    fd: int
    size: int
    path: Path

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, which a hostile file may have chosen."""
        if offset < 0 or size < 0 or offset + size > self.size:
            self.bad(f"is {self.size} bytes long, but points to bytes {offset} to {offset + size}")
        return bytes(fs.pread(self.fd, size, offset, self.path))

    def bad(self, what: str, member: str = "") -> NoReturn:
        """Refuse it."""
        where = (self.path, f"member {member[:80]}") if member else (self.path,)
        raise BadInput(what, where=where, hint="fetch it again, or save it anew with torch.save")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the directory. fixed: version, flags, method, time, date.  header: offset."""

    name: str
    raw_name: bytes
    fixed: tuple[int, ...]
    crc: int
    size: int
    header: int


def read_members(file: File) -> list[Member]:
    """Members of a zip, in the order of their offsets. Reads headers only."""
    count, size, start = _read_end(file)
    entries = sorted(_read_directory(file, count, size, start), key=lambda e: e.header)
    _check_unique(file, entries)
    if not entries or entries[0].header:
        file.bad(f"has {entries[0].header if entries else start} bytes before its first member")
    ends = [*(e.header for e in entries[1:]), start]
    return [_read_local(file, entry, end) for entry, end in zip(entries, ends, strict=True)]


def _read_end(file: File) -> tuple[int, int, int]:
    """Number of members, and size and offset of the directory."""
    at = file.size - END.size
    if at < 0:
        file.bad(f"is {file.size} bytes long, too short for a zip")
    magic, disk, disks, here, *narrow, comment = END.unpack(file.read(END.size, at))
    if magic != END_MAGIC or disk or disks or comment or here != narrow[0]:
        file.bad("does not end in a plain zip end record (truncated, or something was appended?)")
    values = tuple(narrow)
    if at >= LOCATOR.size and file.read(4, at - LOCATOR.size) == LOCATOR_MAGIC:
        at -= LOCATOR.size + END64.size
        values = _read_end64(file, at)
        if tuple(narrow) != tuple(map(min, values, (MAX16, MAX32, MAX32))):
            file.bad("has two zip end records that disagree")
    count, size, start = values
    if count > MAX_ENTRIES or size > MAX_DIRECTORY:
        file.bad(f"has {count} members, more than {MAX_ENTRIES}, or too long names ({size} bytes)")
    if start + size != at or count * CENTRAL.size > size:
        file.bad(f"puts {count} members in bytes {start} to {start + size}, which end at {at}")
    return count, size, start


def _read_end64(file: File, at: int) -> tuple[int, ...]:
    locator = LOCATOR.unpack(file.read(LOCATOR.size, at + END64.size))
    magic, length, _, _, *disks, here, count, size, start = END64.unpack(file.read(END64.size, at))
    if locator[1:] != (0, at, 1) or magic != END64_MAGIC or length != END64.size - 12:
        file.bad("has a zip64 end record that is not where its locator says")
    if disks != [0, 0] or here != count:
        file.bad("is one part of a zip of several parts")
    return count, size, start


def _read_directory(file: File, count: int, size: int, start: int) -> list[_Entry]:
    raw, at = file.read(size, start), 0
    entries: list[_Entry] = []
    for _ in range(count):
        if at + CENTRAL.size > size:
            file.bad(f"has a zip directory that ends before member {len(entries)} of {count}")
        entry, at = _parse_entry(file, raw, at)
        entries.append(entry)
    if at != size:
        file.bad(f"has {size - at} unused bytes in its zip directory")
    return entries


def _parse_entry(file: File, raw: bytes, at: int) -> tuple[_Entry, int]:
    """The line of the directory at `at`, and where the next one starts."""
    magic, _, *fixed, crc, stored, size, n_name, n_extra, n_comment, disk, _, looks, header = (
        CENTRAL.unpack_from(raw, at)
    )
    at += CENTRAL.size
    raw_name, extra = raw[at : at + n_name], raw[at + n_name : at + n_name + n_extra]
    at += n_name + n_extra
    if magic != CENTRAL_MAGIC or at > len(raw) or n_comment or disk or looks & FOLDER:
        file.bad(f"has a damaged zip directory before byte {at} of it")
    name = _legal_name(file, raw_name)
    if fixed[2]:
        file.bad(f"is compressed (method {fixed[2]}), but .pt members are stored", name)
    if fixed[1] & ~(UTF8 | CHECK_FOLLOWS):
        file.bad(f"has the flags {fixed[1]:#06x}: it is encrypted or otherwise special", name)
    stored, size, header = _widen(file, name, (stored, size, header), extra)
    if stored != size:
        file.bad(f"takes {stored} bytes in the zip but {size} outside", name)
    return _Entry(name, raw_name, tuple(fixed), crc, size, header), at


def _legal_name(file: File, raw: bytes) -> str:
    """A relative path that stays below its folder on every system."""
    name = raw.decode(errors="replace")
    if len(raw) > MAX_NAME or not name.isprintable() or name.encode() != raw or "\\" in name:
        file.bad("has an illegal name", name)
    if any(part in ("", ".", "..") for part in name.split("/")):
        file.bad("has a name that leads out of its folder", name)
    return name


def _extra_field(file: File, name: str, extra: bytes, number: int) -> bytes:
    """Content of one field of an extra area; empty if there is none."""
    at, content = 0, b""
    while at < len(extra):
        field, length = struct.unpack_from("<2H", extra.ljust(at + 4, b"\0"), at)
        at += 4 + length
        if at > len(extra) or (field == number and content):
            file.bad("has a damaged extra field", name)
        if field == number:
            content = extra[at - length : at]
    return content


def _widen(
    file: File, name: str, values: Sequence[int], extra: bytes, *, spare: int = 0
) -> list[int]:
    """Replace what is 2^32 - 1 by the numbers of the zip64 field, which may have `spare` more."""
    wide, count = _extra_field(file, name, extra, ZIP64), values.count(MAX32)
    if len(wide) - 8 * count not in (0, 8 * spare):
        file.bad(f"has a zip64 field of {len(wide)} bytes for {count} numbers", name)
    numbers = iter(struct.unpack(f"<{len(wide) // 8}Q", wide))
    return [next(numbers) if value == MAX32 else value for value in values]


def _check_unique(file: File, entries: Sequence[_Entry]) -> None:
    """torch looks names up without regard to case."""
    seen: set[str] = set()
    for entry in entries:
        if entry.name.lower() in seen:
            file.bad("stands twice in the zip", entry.name)
        seen.add(entry.name.lower())


def _read_local(file: File, entry: _Entry, end: int) -> Member:
    """Check the header in front of a member, and that it fills the space up to `end`."""
    at = entry.header + LOCAL.size
    magic, *fixed, crc, stored, size, n_name, n_extra = LOCAL.unpack(
        file.read(LOCAL.size, entry.header)
    )
    rest = file.read(n_name + n_extra, at)
    if (magic, tuple(fixed), rest[:n_name]) != (LOCAL_MAGIC, entry.fixed, entry.raw_name):
        file.bad("has a local header that disagrees with the zip directory", entry.name)
    if not entry.fixed[1] & CHECK_FOLLOWS:
        # torch repeats the offset of an empty member here, if it is beyond 4 GiB
        stored, size = _widen(file, entry.name, (stored, size), rest[n_name:], spare=1)
        expected = (entry.crc, entry.size, entry.size)
    else:
        _extra_field(file, entry.name, rest[n_name:], ZIP64)
        expected = (0, 0, 0)
    if (crc, stored, size) != expected:
        file.bad("has a local header that disagrees with the zip directory", entry.name)
    start = at + n_name + n_extra
    _check_tail(file, entry, start + entry.size, end)
    return Member(entry.name, entry.crc, entry.size, start)


def _check_tail(file: File, entry: _Entry, at: int, end: int) -> None:
    """Between the content and `end` is its checksum record, if flagged, and nothing else."""
    follows = bool(entry.fixed[1] & CHECK_FOLLOWS)
    records = {16: CHECK, 24: CHECK64} if follows else {}
    if at > end:
        file.bad(f"runs {at - end} bytes into what comes after it", entry.name)
    if end - at not in (records or (0,)):
        file.bad(f"is followed by {end - at} bytes that belong to no member", entry.name)
    if follows:
        record = records[end - at]
        expected = (CHECK_MAGIC, entry.crc, entry.size, entry.size)
        if record.unpack(file.read(record.size, at)) != expected:
            file.bad("has a checksum record that disagrees with the zip directory", entry.name)
