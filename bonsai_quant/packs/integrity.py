"""Whether a pack's files are its manifest's, to the byte; and holding them while they load."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bonsai_quant.core.errors import VerificationFailed
from bonsai_quant.storage import fs

from .foreign_manifest import Listed, listed_files
from .foreign_manifest import wrong_file as wrong_listed
from .manifest import NAME as MANIFEST
from .manifest import Manifest
from .read import Pack

WEIGHT_ENDINGS = (".safetensors", ".pt", ".bin", ".pth", ".ckpt", ".gguf", ".npz", ".onnx",
                  ".onnx.data", ".onnx_data")  # fmt: skip


def wrong_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a pack's files, the manifest taken as the truth."""
    problems = []
    for f in manifest.files:
        if problem := _wrong_file(folder, f.path, f.size, f.sha256):
            problems.append(f"{f.path}: {problem}")
    listed = {f.path for f in manifest.files} | {MANIFEST}
    for path in _files_below(folder):
        if path not in listed and path.endswith(WEIGHT_ENDINGS):
            problems.append(f"{path}: is not in the manifest; some loaders would read it")
    return problems


def _wrong_file(folder: Path, path: str, size: int, sha256: str) -> str:
    full = folder / path
    try:
        info = os.lstat(full)
    except OSError:
        return "is missing"
    if not stat.S_ISREG(info.st_mode):
        return "is not a regular file"
    if info.st_size != size:
        return f"is {info.st_size} bytes, the manifest says {size}"
    digest = fs.sha256_file(full)[1]
    return "" if digest == sha256 else f"has sha256 {digest}, the manifest says {sha256}"


def _files_below(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(at, name), folder)


def require_whole(pack: Pack, *, hint: str = "fetch or convert it again") -> None:
    """Refuse a pack whose files are not those of its manifest; of others' only the weights."""
    if pack.manifest is None:
        listed = listed_weights(pack)
        problem = wrong_listed(pack.folder, listed) if listed else ""
        problems = [f"{listed.path}: {problem}"] if listed and problem else []
    else:
        problems = wrong_files(pack.folder, pack.manifest)
    if problems:
        raise VerificationFailed(problems[0], where=str(pack.folder), hint=hint)


def listed_weights(pack: Pack) -> Listed | None:
    """What the manifest, whoever wrote it, says of the weight file; None when it says nothing."""
    path = pack.path.relative_to(pack.folder).as_posix()
    if pack.manifest is None:
        files = listed_files(pack.foreign, pack.folder) or ()
    else:
        files = tuple(Listed(f.path, f.size, f.sha256) for f in pack.manifest.files)
    return next((f for f in files if f.path == path), None)


@contextmanager
def held(pack: Pack, *, check: bool = True) -> Iterator[Pack]:
    """The pack with its weight file open, so that what is hashed is what is then read.

    check: hash it first; VerificationFailed where it is not the manifest's. Where no manifest says
    a hash there is nothing to hold it against.
    """
    fd, _ = fs.open_regular(pack.path)
    try:
        listed = listed_weights(pack) if check else None
        if listed and listed.sha256:
            digest = fs.sha256_fd(fd, pack.path)[1]
            if digest != listed.sha256:
                raise VerificationFailed(
                    f"has sha256 {digest}, the manifest says {listed.sha256}",
                    where=str(pack.path),
                    hint="fetch or convert it again",
                )
        yield replace(pack, fd=fd)
    finally:
        os.close(fd)
