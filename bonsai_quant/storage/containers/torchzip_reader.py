"""Find the tensors of a PyTorch `.pt` file, without torch and without running its pickle.

`storedzip` reads the zip and `torchpickle_reader` walks data.pkl; here the two are brought
together: every member has a known name, every tensor lies contiguous inside its storage, and no two
share a byte. `read_index` checks the checksums of the small members, `check_crc` those of all.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import DTYPE_BYTES, StoredTensor, TensorSpec
from bonsai_quant.storage import fs

from .magic import describe_magic
from .storedzip import LOCAL_MAGIC, File, Member, read_members
from .torchpickle import MAX_PICKLE, PickledTensor, problem, strides
from .torchpickle_reader import read_pickle

MAX_SMALL = 1024
SMALL: dict[str, str] = {
    "version": r"([1-9]|10)\n?", "byteorder": "little|big", ".format_version": r"[1-9][0-9]{0,3}",
    ".storage_alignment": r"[1-9][0-9]{0,5}", ".data/serialization_id": "[0-9]*",
}  # fmt: skip
"""Members that hold neither names nor tensors, and what may stand in them."""
DATA = re.compile(r"data/(0|[1-9][0-9]{0,5})")
SCRIPT = ("constants.pkl", "code/", "model.json", ".data/ts_code")
"""Names that only a torch.jit archive or a torch.package has."""


def read_index(path: Path) -> tuple[StoredTensor, ...]:
    """Where the tensors of a `.pt` file are, in the order of their offsets."""
    with _opened(path) as file:
        members = _known_members(file)
        _check_texts(file, members)
        pickled = read_pickle(_content(file, members["data.pkl"], MAX_PICKLE), path)
    placed = [_place(path, members, name, tensor) for name, tensor in pickled.items()]
    placed.sort(key=lambda t: (t.offset, t.spec.nbytes, t.spec.name))
    _check_alone(path, placed)
    unused = members.keys() - SMALL.keys() - {"data.pkl"}
    if unused := unused - {f"data/{t.storage.key}" for t in pickled.values()}:
        file.bad("belongs to no tensor", min(unused))
    return tuple(placed)


def check_crc(path: Path) -> None:
    """Read the whole of a `.pt` file and compare the checksum of every member."""
    with _opened(path) as file:
        for member in read_members(file):
            crc = 0
            for at in range(0, member.size, fs.CHUNK):
                part = file.read(min(fs.CHUNK, member.size - at), member.start + at)
                crc = zlib.crc32(part, crc)
            _check_same(file, member, crc)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[File]:
    fd, info = fs.open_regular(path)
    try:
        file = File(fd, info.st_size, path)
        head = file.read(min(file.size, 512), 0)
        if not head.startswith(LOCAL_MAGIC):
            kind = "a tar archive" if head[257:262] == b"ustar" else describe_magic(head)
            raise BadInput(f"is not a zip of torch.save but {kind or 'something else'}",
                           where=(path,),
                           hint="save it anew with torch.save of torch 1.6 or later")  # fmt: skip
        yield file
    finally:
        os.close(fd)


def _known_members(file: File) -> dict[str, Member]:
    """Members by their name below the root folder, which all of them share."""
    every_member = read_members(file)
    root = every_member[0].name.split("/")[0] + "/"
    if alien := [m.name for m in every_member if not m.name.startswith(root)]:
        file.bad(f"is not in the folder {root[:80]} of the first member", alien[0])
    members = {m.name.removeprefix(root): m for m in every_member}
    for name, member in members.items():
        if name.startswith(SCRIPT):
            file.bad("is code: this is a torch.jit archive or torch.package, not a dict of tensors",
                     member.name)  # fmt: skip
        if name not in SMALL and name != "data.pkl" and not DATA.fullmatch(name):
            file.bad("is not a member that torch.save writes", member.name)
    if missing := {"data.pkl", "version"} - members.keys():
        file.bad(f"is a zip without {root}{min(missing)}: not one of torch.save")
    return members


def _check_texts(file: File, members: dict[str, Member]) -> None:
    for name in sorted(SMALL.keys() & members.keys()):
        text = _content(file, members[name], MAX_SMALL).decode("latin-1")
        if not re.fullmatch(SMALL[name], text, re.ASCII):
            file.bad(f"holds {text[:40]!r}, which torch would not write", members[name].name)
        if text == "big":
            raise Unsupported("holds big-endian numbers", where=(file.path, members[name].name),
                              hint="save it anew on a little-endian machine")  # fmt: skip


def _content(file: File, member: Member, limit: int) -> bytes:
    if member.size > limit:
        file.bad(f"is {member.size} bytes, more than the {limit} allowed", member.name)
    content = file.read(member.size, member.start)
    _check_same(file, member, zlib.crc32(content))
    return content


def _check_same(file: File, member: Member, crc: int) -> None:
    if crc != member.crc:
        file.bad(f"has the CRC-32 {crc:08x}, not {member.crc:08x} as announced", member.name)


def _place(
    path: Path, members: dict[str, Member], name: str, tensor: PickledTensor
) -> StoredTensor:
    """Where a tensor's bytes are, if the storage holds all of them in C order."""
    storage, spec = tensor.storage, TensorSpec(name, tensor.storage.dtype, tensor.shape)
    if what := problem(spec):
        _bad(path, name, what)
    member = members.get(f"data/{storage.key}")
    width = DTYPE_BYTES[storage.dtype]
    if member is None:
        _bad(path, name, f"lies in the storage {storage.key[:20]!r}, which is not in the file")
    if member.size != storage.numel * width:
        _bad(path, name, f"lies in a storage of {member.size} bytes, not the {storage.numel} x "
             f"{width} announced")  # fmt: skip
    _check_reach(path, name, tensor)
    return StoredTensor(spec, path, member.start + tensor.start * width)


def _check_reach(path: Path, name: str, tensor: PickledTensor) -> None:
    """The elements start .. start + numel of the storage, one after the other."""
    start, numel = tensor.start, tensor.storage.numel
    if len(tensor.stride) != len(tensor.shape) or not all(0 <= s < 1 << 62 for s in tensor.stride):
        _bad(path, name, f"has {len(tensor.stride)} strides, or negative or huge ones")
    steps = zip(tensor.shape, tensor.stride, strict=True)
    last = start + sum((d - 1) * s for d, s in steps) if math.prod(tensor.shape) else start - 1
    if not 0 <= start <= numel or last >= numel:
        _bad(path, name, f"reaches from element {start} to {last} of a storage of {numel}")
    wanted = zip(tensor.shape, tensor.stride, strides(tensor.shape), strict=True)
    if math.prod(tensor.shape) and any(d > 1 and s != step for d, s, step in wanted):
        raise Unsupported(f"is not contiguous: strides {list(tensor.stride)}",
                          where=(path, f"tensor {name}"),
                          hint="save tensor.contiguous() instead")  # fmt: skip


def _check_alone(path: Path, placed: list[StoredTensor]) -> None:
    """Tied weights would be counted, and quantized, twice."""
    held = [t for t in placed if t.spec.nbytes]
    for one, other in zip(held, held[1:], strict=False):
        if other.offset < one.offset + one.spec.nbytes:
            raise Unsupported(f"shares memory with tensor {one.spec.name}",
                              where=(path, f"tensor {other.spec.name}"),
                              hint="save a clone() of one of the two")  # fmt: skip


def _bad(path: Path, name: str, what: str) -> NoReturn:
    raise BadInput(what, where=(path, f"tensor {name[:80]}"),
                   hint="do not load it; save the tensors anew with torch.save")  # fmt: skip
