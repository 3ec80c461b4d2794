"""Level file: every file is the manifest's, and nothing else that a loader would read is there."""

from __future__ import annotations

from pathlib import Path

from ..errors import BonsaiError
from ..integrity import wrong_files
from ..manifest import NAME as MANIFEST
from ..manifest import is_foreign_manifest, read_manifest
from .check import Check


def check_files(folder: Path) -> Check:
    """Sizes, hashes, and files that are not listed."""
    if not (folder / MANIFEST).exists() or is_foreign_manifest(folder):
        return Check("file", folder.name, "not run", "no manifest of this program to check against")
    try:
        manifest = read_manifest(folder)
        problems = wrong_files(folder, manifest)
    except BonsaiError as e:
        return Check("file", folder.name, "failed", str(e))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Check("file", folder.name, "failed", problems[0] + more)
    total = sum(f.size for f in manifest.files)
    return Check("file", folder.name, "passed", f"{len(manifest.files)} files, {total} bytes")
