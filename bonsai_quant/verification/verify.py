"""Prove that packs are right, level by level; each level includes the ones before it.

file: every file is the manifest's, and nothing else is there.
codes: every value is legal, and all formats decode to the same float32 weights; with a source, its
weights quantized again give these codes.
kernel: the real kernels of MLX and gemlite on these bytes agree with float64 products.
step: the packed transformer's velocities are those of the dense decoded one; how near the source's.
image: so are the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import BadInput, BonsaiError, unknown
from bonsai_quant.core.schema import Progress, no_progress
from bonsai_quant.core.threads import choose_threads
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.manifest import is_foreign_manifest
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.runners import RUNNERS
from bonsai_quant.verification.levels.check import Check
from bonsai_quant.verification.levels.codes import Given, check_against, check_codes
from bonsai_quant.verification.levels.files import check_files
from bonsai_quant.verification.levels.images import check_images
from bonsai_quant.verification.levels.kernels import KERNELS, check_kernels
from bonsai_quant.verification.levels.steps import check_steps

LEVELS = ("file", "codes", "kernel", "step", "image")
BACKENDS = (*RUNNERS, *(k for k in KERNELS if k not in RUNNERS))


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
    calibration: str | None = None,
    lora: Sequence[str] | str = (),
    pipeline: str | None = None,
    backends: Sequence[str] = BACKENDS,
    layers: int = 3,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Verdict:
    """Check a pack's folder, or all packs that `convert` wrote into one.

    against: the source, quantized again and compared; its velocities and pictures, too.
    calibration: the folder that guided the pack's solver, to quantize again with.
    lora: FILE or FILE:SCALE each, what was merged into the source, to do that again.
    pipeline: where steps and images get a text encoder and the other parts [the pack's source].
    layers: how many each kernel is run on.
    A failed check is in the verdict; an error is raised only when nothing could be checked.
    """
    _check_choices(level, backends)
    folders = find_packs(Path(pack))
    if not folders:
        return Verdict((_damaged(Path(pack)),))
    workers, _ = choose_threads(threads)
    given = Given(calibration, (lora,) if isinstance(lora, str) else tuple(lora))
    checks = [check_files(folder) for folder in folders]
    if level == "file" or any(c.status == "failed" for c in checks):
        return Verdict(tuple(checks))  # what is in damaged files proves nothing
    packs, opened = _open(folders)
    checks += opened
    checks += check_codes(packs, workers, progress)
    if against and packs:
        checks.append(check_against(packs[0], against, given, threads, progress))
    if level == "codes" or not packs:
        return Verdict(tuple(checks))
    for p in packs:
        checks += check_kernels(p, backends, layers)
    able = [b for b in backends if b in RUNNERS]
    if level in ("step", "image"):
        checks += check_steps(packs, able, pipeline, against)
    if level == "image":
        checks += check_images(packs, able, pipeline, against)
    return Verdict(tuple(checks))


def _damaged(folder: Path) -> Check:
    """What another program's manifest says of a folder whose weights are nothing that is known."""
    if is_foreign_manifest(folder) and (check := check_files(folder)).status == "failed":
        return check
    raise BadInput(
        "holds no pack", where=str(folder), hint="give a folder made by `bonsai-quant convert`"
    )


def _check_choices(level: str, backends: Sequence[str]) -> None:
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)


def _open(folders: Sequence[Path]) -> tuple[list[Pack], list[Check]]:
    packs, failed = [], []
    for folder in folders:
        try:
            packs.append(open_pack(folder))
        except BonsaiError as e:
            failed.append(Check("codes", folder.name, "failed", str(e)))
    return packs, failed
