"""Prove that packs are right, level by level; each level includes the ones before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import unknown
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.threads import choose_threads
from bonsai_quant.packs.find import find_packs, look, no_pack
from bonsai_quant.runners import RUNNERS
from bonsai_quant.verification.kernels import KERNELS
from bonsai_quant.verification.levels import LEVELS
from bonsai_quant.verification.levels.check import Check
from bonsai_quant.verification.levels.files import check_folder
from bonsai_quant.verification.levels.job import Job

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
        return Verdict((_check_damaged(Path(pack)),))
    job = Job(
        folders,
        against=against,
        calibration=calibration,
        lora=(lora,) if isinstance(lora, str) else tuple(lora),
        pipeline=pipeline,
        backends=backends,
        layers=layers,
        threads=choose_threads(threads)[0],
        progress=progress,
    )
    return Verdict(tuple(_run(job, level)))


def _run(job: Job, last: str) -> list[Check]:
    """The checks of every level up to `last`, or up to a required one that fails."""
    checks: list[Check] = []
    for level in LEVELS.values():
        job.progress.phase(f"checking level {level.name}")
        for check in level.checks:
            checks += check(job)
        failed = any(c.status == "failed" for c in checks)
        if level.name == last or (level.required and failed):
            break
    return checks


def _check_damaged(path: Path) -> Check:
    """What another program's manifest says of a folder whose weights are nothing that is known."""
    folder = look(path)
    if folder.foreign is not None and (check := check_folder(folder)).status == "failed":
        return check
    raise no_pack(path)


def _check_choices(level: str, backends: Sequence[str]) -> None:
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
