"""Level file: every file is the manifest's, and nothing else that a loader would read is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.numbers import size
from bonsai_quant.packs.find import PackFolder
from bonsai_quant.packs.foreign_manifest import listed_files, wrong_file
from bonsai_quant.packs.integrity import wrong_files

from .check import Check
from .job import Job


def check_files(job: Job) -> list[Check]:
    """Every folder by its own manifest."""
    return [check_folder(folder) for folder in job.folders]


def check_folder(folder: PackFolder) -> Check:
    """Sizes, hashes, and files that are not listed; what another program lists, too."""
    name = folder.path.name
    try:
        if folder.foreign is not None:
            return _check_listed(folder.path, folder.foreign, folder.weights)
        manifest = folder.own_manifest()
        if manifest is None:
            return Check("file", name, "not run", "no manifest to check against")
        problems = wrong_files(folder.path, manifest)
    except BonsaiError as e:
        return Check("file", name, "failed", str(e))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Check("file", name, "failed", problems[0] + more)
    total = sum(f.size for f in manifest.files)
    return Check("file", name, "passed", f"{len(manifest.files)} files, {size(total)}")


def _check_listed(folder: Path, manifest: Mapping[str, Any], weights: Path | None) -> Check:
    """By the manifest of another program. It need not list everything, but the weights."""
    files = listed_files(manifest, folder)
    if files is None:
        why = "another program's manifest, without a list of files that is understood"
        return Check("file", folder.name, "not run", why)
    for file in files:
        if problem := wrong_file(folder, file):
            return Check("file", folder.name, "failed", f"{file.path}: {problem}")
    if weights and weights.relative_to(folder).as_posix() not in {f.path for f in files}:
        why = f"another program's manifest, which does not list {weights.name}"
        return Check("file", folder.name, "not run", why)
    hashed = sum(f.sha256 is not None for f in files)
    detail = f"{len(files)} files of another program's manifest, {hashed} of them by sha256"
    return Check("file", folder.name, "passed", detail)
