"""The manifest.json of another program: which files it lists, as far as it says so plainly."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs
from bonsai_quant.storage.links import refuse_outside

from .manifest import MAX_FILES, NAME

PATHS = ("remote_path", "path", "filename", "name")
"""Keys that have been seen to hold a file's path; where there are two, the first is the repo's."""
SIZES = ("size", "size_bytes", "bytes")
SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as another program's manifest lists it; None where that does not say."""

    path: str
    size: int | None
    sha256: str | None


def listed_files(manifest: Mapping[str, Any], folder: Path) -> tuple[Listed, ...] | None:
    """The files that a manifest lists; None without a list of paths with sizes or sha256.

    folder: where it lies.  BadInput at a path that is not a plain one below the folder.
    """
    entries = manifest.get("files")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FILES:
        return None
    files = tuple(f for f in map(_listed, entries) if f is not None)
    if len(files) < len(entries) or len({f.path for f in files}) < len(files):
        return None
    for file in files:
        if not _is_plain(file.path):
            raise BadInput(
                f"lists {file.path[:80]!r}, which is no plain path below the folder",
                where=str(folder / NAME),
                hint="do not use this pack",
            )
    return files


def model_version(manifest: Mapping[str, Any]) -> str:
    """What another program's manifest calls the model; '' where it does not."""
    version = manifest.get("model_version")
    return version[:80] if isinstance(version, str) else ""


def wrong_file(folder: Path, file: Listed) -> str:
    """What is wrong with a listed file, or ''. BadInput at a link that leaves the folder."""
    path = folder / file.path
    if not os.path.lexists(path):
        return "is missing"
    for at in (path, *path.parents[: file.path.count("/")]):
        refuse_outside(at, folder)
    fd, info = fs.open_regular(path)
    try:
        if file.size not in (None, info.st_size):
            return f"is {info.st_size} bytes, the manifest says {file.size}"
        if file.sha256 and (digest := fs.sha256_fd(fd, path)[1]) != file.sha256:
            return f"has sha256 {digest}, the manifest says {file.sha256}"
    finally:
        os.close(fd)
    return ""


def _listed(entry: object) -> Listed | None:
    """One entry; None when it is not of a form that is understood."""
    if not isinstance(entry, dict):
        return None
    path = next((entry[k] for k in PATHS if k in entry), None)
    size = next((entry[k] for k in SIZES if k in entry), None)
    digest = entry.get("sha256")
    if not isinstance(path, str) or (size is None and digest is None):
        return None
    if size is not None and (type(size) is not int or size < 0):
        return None
    match = SHA256.fullmatch(digest) if isinstance(digest, str) else None
    if digest is not None and match is None:
        return None
    return Listed(path, size, match[1].lower() if match else None)


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    legal = path.isprintable() and "\\" not in path and len(path) <= 1024
    return legal and len(parts) <= 8 and not any(p in ("", ".", "..") for p in parts)
