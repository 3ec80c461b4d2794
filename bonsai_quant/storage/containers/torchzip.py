"""The container of PyTorch `.pt` files, written without torch and in any order.

A `.pt` is a zip of stored entries: data.pkl (names and shapes), a few short texts, then one entry
per tensor, the data of each at a multiple of 64 bytes:

    local header | name | [zip64] | FB padding | data | crc and sizes      for each entry
    central directory | zip64 end | zip64 locator | end

Every byte but the serialization id is the one that torch.save 2.13 writes for the same dict, so a
loader that computes offsets instead of reading them finds the tensors too. All offsets follow from
names, dtypes and shapes; the checksums are filled in when the data is known.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import TensorSpec

from . import storedzip as z
from .safetensors import ALIGN
from .torchpickle import MAX_PICKLE, STORAGE, problem, write_pickle


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of the zip. header, start: offsets in the file of its header and of its content.

    text: the content, unless it is the data of `tensor`.
    """

    name: bytes
    header: int
    start: int
    size: int
    text: bytes | None
    tensor: str

    @property
    def wide(self) -> tuple[int, ...]:
        """What 32 bits cannot hold, in the order of a zip64 record: size twice, then offset."""
        sizes = (self.size, self.size) if self.size >= z.MAX32 else ()
        return (*sizes, self.header) if self.header >= z.MAX32 else sizes

    @property
    def end(self) -> int:
        """Offset after the content and the checksum record, which an empty entry lacks."""
        check = z.CHECK64 if self.wide else z.CHECK
        return self.start + self.size + (check.size if self.size else 0)


@dataclass(frozen=True, slots=True)
class ZipLayout:
    """Where everything goes. size: of the file, in bytes.  offsets: of each tensor's data."""

    size: int
    offsets: dict[str, int]
    entries: tuple[Entry, ...]


def layout(specs: Sequence[TensorSpec], root: str = "state_dict") -> ZipLayout:
    """Place the tensors, in this order, in a `.pt` whose entries are named `<root>/...`."""
    _check(specs)
    entries: list[Entry] = []
    at = 0
    for name, content in _contents(specs):
        entries.append(_place(f"{root}/{name}".encode(), content, at))
        at = entries[-1].end
    size = at + sum(len(_central(e, 0)) for e in entries) + len(_end(0, 0, 0))
    return ZipLayout(size, {e.tensor: e.start for e in entries if e.text is None}, tuple(entries))


def frames(layout: ZipLayout, crc32: Mapping[str, int]) -> list[tuple[int, bytes]]:
    """Every (offset, bytes) of the file that is not tensor data. crc32: of each tensor's data."""
    out: list[tuple[int, bytearray]] = [(0, bytearray())]
    central = bytearray()
    for entry in layout.entries:
        crc = zlib.crc32(entry.text) if entry.text is not None else crc32[entry.tensor]
        out[-1][1].extend(_local(entry) + (entry.text or b""))
        if entry.text is None and entry.size:
            out.append((entry.start + entry.size, bytearray()))
        if entry.size:
            check = z.CHECK64 if entry.wide else z.CHECK
            out[-1][1].extend(check.pack(z.CHECK_MAGIC, crc, entry.size, entry.size))
        central += _central(entry, crc)
    out[-1][1].extend(central + _end(len(layout.entries), layout.entries[-1].end, len(central)))
    return [(offset, bytes(segment)) for offset, segment in out]


def _check(specs: Sequence[TensorSpec]) -> None:
    seen: set[str] = set()
    for spec in specs:
        where = f"tensor {spec.name[:80]}"
        if spec.dtype not in STORAGE:
            raise Unsupported(f"dtype {spec.dtype} cannot be put in a .pt file", where=where,
                              hint=f"use one of {', '.join(STORAGE)}")  # fmt: skip
        if what := problem(spec):
            raise BadInput(what, where=where, hint="rename or reshape it")
        if spec.name in seen:
            raise BadInput("stands twice", where=where, hint="give each tensor its own name")
        seen.add(spec.name)
    if len(specs) > z.MAX_ENTRIES - 6:
        raise Unsupported(f"{len(specs)} tensors are more than a .pt file's {z.MAX_ENTRIES - 6}",
                          hint="split them over several files")  # fmt: skip


def _contents(specs: Sequence[TensorSpec]) -> Iterator[tuple[str, bytes | TensorSpec]]:
    """Name below the root and content of each entry, in torch.save's order."""
    pickle = write_pickle(specs)
    if len(pickle) > MAX_PICKLE:
        raise Unsupported(f"the names take {len(pickle)} bytes, more than the {MAX_PICKLE} allowed",
                          hint="split the tensors over several files")  # fmt: skip
    yield "data.pkl", pickle
    yield ".format_version", b"1"
    yield ".storage_alignment", b"%d" % ALIGN
    yield "byteorder", b"little"
    for key, spec in enumerate(specs):
        yield f"data/{key}", spec
    yield "version", b"3\n"
    # torch puts 40 digits of name hashes and checksums here, and shows them in its logs only
    number = int.from_bytes(hashlib.sha256(pickle).digest(), "big")
    yield ".data/serialization_id", b"%040d" % (number % 10**40)


def _place(name: bytes, content: bytes | TensorSpec, at: int) -> Entry:
    if isinstance(content, bytes):
        draft = Entry(name, at, 0, len(content), content, "")
    else:
        draft = Entry(name, at, 0, content.nbytes, None, content.name)
    start = at + z.LOCAL.size + len(name) + len(_zip64(draft.wide)) + 4  # 4: head of the padding
    return replace(draft, start=start + -start % ALIGN)


def _zip64(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", z.ZIP64, 8 * len(values), *values) if values else b""


def _flags(entry: Entry) -> int:
    return z.UTF8 | (z.CHECK_FOLLOWS if entry.size else 0)


def _local(entry: Entry) -> bytes:
    """Local header, name and padding; its checksum and sizes are zero, they follow the data."""
    wide = list(entry.wide)
    if entry.size >= z.MAX32:
        wide[1] = 0  # torch does not know the stored size here yet
    extra = _zip64(tuple(wide))
    pad = entry.start - entry.header - z.LOCAL.size - len(entry.name) - len(extra) - 4
    extra += struct.pack("<2sH", b"FB", pad) + b"Z" * pad
    lengths = (len(entry.name), len(extra))
    head = z.LOCAL.pack(z.LOCAL_MAGIC, 0, _flags(entry), 0, 0, 0, 0, 0, 0, *lengths)
    return head + entry.name + extra


def _central(entry: Entry, crc: int) -> bytes:
    size, extra = min(entry.size, z.MAX32), _zip64(entry.wide)
    lengths = (len(entry.name), len(extra), 0, 0, 0, 0, min(entry.header, z.MAX32))
    head = z.CENTRAL.pack(z.CENTRAL_MAGIC, 0, 0, _flags(entry), 0, 0, 0, crc, size, size, *lengths)
    return head + entry.name + extra


def _end(count: int, start: int, size: int) -> bytes:
    """Zip64 end record, its locator, and the old end record, whose fields may be saturated."""
    length = z.END64.size - 12
    wide = z.END64.pack(z.END64_MAGIC, length, 0x31E, 45, 0, 0, count, count, size, start)
    few = min(count, z.MAX16)
    end = z.END.pack(z.END_MAGIC, 0, 0, few, few, min(size, z.MAX32), min(start, z.MAX32), 0)
    return wide + z.LOCATOR.pack(z.LOCATOR_MAGIC, 0, start + size, 1) + end
