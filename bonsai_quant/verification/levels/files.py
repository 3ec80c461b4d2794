"""Level file: every file is the manifest's, and nothing else that a loader would read is there."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.packs.find import weight_file
from bonsai_quant.packs.foreign_manifest import listed_files, wrong_file
from bonsai_quant.packs.integrity import wrong_files
from bonsai_quant.packs.manifest import NAME as MANIFEST
from bonsai_quant.packs.manifest import is_foreign_manifest, read_manifest

from .check import Check
from .job import Job


def check_files(job: Job) -> list[Check]:
    """Every folder by its own manifest."""
    return [check_folder(folder) for folder in job.folders]


def check_folder(folder: Path) -> Check:
    """Sizes, hashes, and files that are not listed; what another program lists, too."""
    if not (folder / MANIFEST).exists():
        return Check("file", folder.name, "not run", "no manifest to check against")
    try:
        if is_foreign_manifest(folder):
            return _check_listed(folder)
        manifest = read_manifest(folder)
        problems = wrong_files(folder, manifest)
    except BonsaiError as e:
        return Check("file", folder.name, "failed", str(e))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Check("file", folder.name, "failed", problems[0] + more)
    total = sum(f.size for f in manifest.files)
    return Check("file", folder.name, "passed", f"{len(manifest.files)} files, {total} bytes")


def _check_listed(folder: Path) -> Check:
    """By the manifest of another program. It need not list everything, but the weights."""
    files = listed_files(folder)
    if files is None:
        why = "another program's manifest, without a list of files that is understood"
        return Check("file", folder.name, "not run", why)
    for file in files:
        if problem := wrong_file(folder, file):
            return Check("file", folder.name, "failed", f"{file.path}: {problem}")
    weights = weight_file(folder)
    if weights and weights[2].relative_to(folder).as_posix() not in {f.path for f in files}:
        why = f"another program's manifest, which does not list {weights[2].name}"
        return Check("file", folder.name, "not run", why)
    hashed = sum(f.sha256 is not None for f in files)
    detail = f"{len(files)} files of another program's manifest, {hashed} of them by sha256"
    return Check("file", folder.name, "passed", detail)
