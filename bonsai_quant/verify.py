"""Prove that packs are right, level by level; each level includes the ones before it.

file: every file is the manifest's, and nothing else is there.
codes: every value is legal, and all formats decode to the same float32 weights; with a source, its
weights quantized again give these codes.
kernel: the real kernels of MLX and gemlite on these bytes agree with float64 products.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .errors import BadInput, BonsaiError, Unsupported
from .manifest import NAME as MANIFEST
from .manifest import Manifest, is_foreign_manifest, read_manifest
from .pack import Pack, find_packs, open_pack
from .recipe import Recipe, unknown
from .schema import PackTensor, Progress, no_progress
from .settings import choose_threads
from .storage import fs

if TYPE_CHECKING:
    from .assembly import Finished

LEVELS = ("file", "codes", "kernel")
LATER_LEVELS = ("step", "image")
BACKENDS = ("mlx", "gemlite")
ROWS = 1024
"""Rows decoded to float32 at a time."""
WEIGHT_ENDINGS = (".safetensors", ".pt", ".bin", ".pth", ".ckpt", ".gguf", ".npz")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. detail: the first wrong thing, or the figures."""

    level: str
    subject: str
    status: Literal["passed", "failed", "not run"]
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one run."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """At least one check found something wrong."""
        return any(c.status == "failed" for c in self.checks)


def verify(
    pack: str | Path,
    *,
    level: str = "codes",
    against: str | None = None,
    backends: Sequence[str] = BACKENDS,
    layers: int = 3,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Verdict:
    """Check a pack's folder, or all packs that `convert` wrote into one.

    against: the source, quantized again and compared.  layers: how many each kernel is run on.
    A failed check is in the verdict; an error is raised only when nothing could be checked.
    """
    if level not in LEVELS:
        if level in LATER_LEVELS:
            raise Unsupported(f"level {level!r} is not there yet", hint=f"use {LEVELS[-1]}")
        raise unknown("level", level, LEVELS)
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    folders = find_packs(Path(pack))
    if not folders:
        raise BadInput(
            "holds no pack", where=str(pack), hint="give a folder made by `bonsai-quant convert`"
        )
    workers, _ = choose_threads(threads)
    checks = [_check_files(folder) for folder in folders]
    if level == "file" or any(c.status == "failed" for c in checks):
        return Verdict(tuple(checks))  # what is in damaged files proves nothing
    packs, opened = _open(folders)
    checks += opened
    checks += _check_codes(packs, workers, progress)
    if against and packs:
        checks.append(_check_against(packs[0], against, threads, progress))
    if level == "kernel":
        for p in packs:
            checks += check_kernels(p, backends, layers)
    return Verdict(tuple(checks))


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
    found = fs.sha256_file(full)[1]
    return "" if found == sha256 else f"has sha256 {found}, the manifest says {sha256}"


def _files_below(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(at, name), folder)


def _check_files(folder: Path) -> Check:
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


def _open(folders: Sequence[Path]) -> tuple[list[Pack], list[Check]]:
    packs, failed = [], []
    for folder in folders:
        try:
            packs.append(open_pack(folder))
        except BonsaiError as e:
            failed.append(Check("codes", folder.name, "failed", str(e)))
    return packs, failed


def _check_codes(packs: Sequence[Pack], threads: int, progress: Progress) -> list[Check]:
    """Every pack alone, and each against the first: the same float32 weights, bit for bit."""
    checks = []
    for pack in packs:
        other = packs[0] if pack is not packs[0] else None
        subject = pack.folder.name + (f" = {other.folder.name}" if other else "")
        problem = _first_problem(pack, other, threads, progress)
        detail = problem or f"{len(pack.info.packed)} packed and {len(pack.info.kept)} kept tensors"
        checks.append(Check("codes", subject, "failed" if problem else "passed", detail))
    return checks


def _first_problem(pack: Pack, other: Pack | None, threads: int, progress: Progress) -> str:
    """The first illegal or differing tensor, in name order; '' when there is none."""
    if other and [(t.name, t.shape) for t in pack.info.tensors] != [
        (t.name, t.shape) for t in other.info.tensors
    ]:
        return f"{pack.folder} and {other.folder} hold different tensors"

    total = sum(t.size for t in pack.info.tensors)

    def one(tensor: PackTensor) -> str:
        try:
            problem = _differs(pack, other, tensor)
        except BonsaiError as e:
            return str(e)
        progress(tensor.size, 1, total)
        return problem

    with ThreadPoolExecutor(threads) as pool:
        return next((p for p in pool.map(one, pack.info.tensors) if p), "")


def _differs(pack: Pack, other: Pack | None, tensor: PackTensor) -> str:
    if not tensor.packed:
        values = pack.kept(tensor)
        if other is None or np.array_equal(
            values.view(np.uint16), other.kept(tensor).view(np.uint16)
        ):
            return ""
        return f"{tensor.name}: kept values differ from {other.folder.name}"
    mine = pack.parts(tensor)
    layer = pack.layer(tensor, mine)
    if other is None:
        return ""
    theirs = other.parts(tensor)
    other_layer = other.layer(tensor, theirs)
    for start in range(0, tensor.shape[0], ROWS):
        stop = min(start + ROWS, tensor.shape[0])
        a = pack.format.dense(layer, mine, start, stop)
        b = other.format.dense(other_layer, theirs, start, stop)
        wrong = a.view(np.uint32) != b.view(np.uint32)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{tensor.name}: row {start + row}, column {column}: {a[row, column]:g}, but "
                f"{b[row, column]:g} in {other.folder.name}"
            )
    return ""


def _check_against(pack: Pack, source: str, threads: int | None, progress: Progress) -> Check:
    """Quantize the source again, with the recipe that the manifest names."""
    from .checks import Checks
    from .pipeline import run
    from .plan import plan

    subject = f"{pack.folder.name} = {source}"
    if pack.manifest is None:
        return Check("codes", subject, "not run", "no manifest says how the pack was made")
    work = plan(source, recipe=Recipe.model_validate(pack.manifest.recipe), threads=threads)
    if work.info.tensors != pack.info.tensors:
        return Check("codes", subject, "failed", "the source holds other tensors")
    problems: dict[str, str] = {}
    lock = threading.Lock()

    def compare(finished: Finished) -> None:
        if problem := _differs_from(pack, finished):
            with lock:
                problems[finished.planned.tensor.name] = problem

    run(work, compare, checks=Checks(zeros=False, magnitudes=False), progress=progress)
    if problems:
        name = min(problems)
        return Check("codes", subject, "failed", f"{name}: {problems[name]}")
    return Check("codes", subject, "passed", "quantized again: the same codes, scales and values")


def _differs_from(pack: Pack, finished: Finished) -> str:
    tensor = finished.planned.tensor
    if finished.kept is not None:
        same = np.array_equal(pack.kept(tensor).view(np.uint16), finished.kept.view(np.uint16))
        return "" if same else "kept values are not those of the source"
    assert finished.layer is not None
    layer = pack.layer(tensor)
    for what, mine, theirs in (
        ("code byte", layer.codes, finished.layer.codes),
        ("scale", layer.scales, finished.layer.scales),
    ):
        wrong = mine != theirs
        if wrong.any():
            row, at = (int(i) for i in np.argwhere(wrong)[0])
            return f"row {row}, {what} {at}: {mine[row, at]}, expected {theirs[row, at]}"
    return ""


def check_kernels(pack: Pack, backends: Sequence[str], layers: int) -> list[Check]:
    """Run each backend's own kernels on the smallest packed layers of different shapes."""
    from .kernels import check_pack

    if pack.format.name not in BACKENDS:
        return []
    if pack.format.name not in backends:
        return [Check("kernel", pack.folder.name, "not run", "not among the backends asked for")]
    results = check_pack(pack, _sample(pack.info.packed, layers))
    return [Check("kernel", f"{pack.folder.name}: {r.layer}", r.status, r.reason) for r in results]


def _sample(tensors: Sequence[PackTensor], n: int) -> list[PackTensor]:
    """At most n layers, of as many different shapes as there are, smallest first."""
    by_shape = {t.shape: t for t in reversed(tensors)}
    chosen = sorted(by_shape.values(), key=lambda t: (t.size, t.name))
    chosen += [t for t in tensors if t not in chosen]
    return chosen[:n]
