"""Level codes, with a source: its weights quantized again give the same codes and scales."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import PackInfo
from bonsai_quant.packs.read import Pack
from bonsai_quant.sources.remote import download
from bonsai_quant.storage import fs

from .check import Check
from .job import Job

if TYPE_CHECKING:
    from bonsai_quant.conversion.plan import Plan
    from bonsai_quant.conversion.quantize_tensor import QuantizedTensor
    from bonsai_quant.packs.manifest import Manifest


def check_against(job: Job) -> list[Check]:
    """Quantize the source again, with the recipe that the manifest names.

    A pack without a recipe, or made from another source as trained ones are, is held against the
    source's weights by their likeness.
    """
    return [_check(job.packs[0], job.against, job)] if job.against and job.packs else []


def _check(pack: Pack, source: str, job: Job) -> Check:
    from bonsai_quant.conversion.checks import Checks
    from bonsai_quant.conversion.stream import run

    subject = f"{pack.folder.name} = {source}"
    manifest = pack.manifest if pack.manifest and pack.manifest.source.files else None
    if missing := _missing_option(manifest, job):
        return Check("codes", subject, "not run", missing)
    if problem := _other_calibration(manifest, job):
        return Check("codes", subject, "failed", problem)
    plan = _plan(pack, manifest, source, job)
    if _inventory(plan.info) != _inventory(pack.info):
        return Check("codes", subject, "failed", "the source holds other tensors")
    if problem := _other_inputs(manifest, job, plan):
        return Check("codes", subject, "failed", problem)
    if manifest is None or not _is_its_source(manifest, plan, job):
        return _alike(pack, plan, subject, job)
    differences: dict[str, str] = {}
    lock = threading.Lock()

    def look(finished: QuantizedTensor) -> None:
        difference = _difference(pack, finished)
        with lock:
            differences[finished.planned.tensor.name] = difference

    checks = Checks(zeros=False, magnitudes=False)
    run(plan, look, checks=checks, progress=job.progress, label="quantizing the source again")
    if wrong := _first(differences):
        return Check("codes", subject, "failed", wrong)
    detail, figures = _outputs(plan)
    return Check(
        "codes", subject, "passed", f"quantized again: the same codes and values{detail}", figures
    )


def _outputs(plan: Plan) -> tuple[str, dict[str, float]]:
    """What was measured on the way, where codes came from a calibration that keeps probes."""
    from bonsai_quant.conversion.calibration.record import CodesRecord

    if plan.calibration is None or not isinstance(plan.calibration.record, CodesRecord):
        return "", {}
    layers = plan.calibration.record.layers.values()
    error, nearest = (
        sum(getattr(layer, kind) for layer in layers) / len(layers) for kind in ("error", "nearest")
    )
    detail = (
        f"; on the calibration's inputs every layer has the recorded error of its outputs, "
        f"{error:.4f} on average; the nearest codes have {nearest:.4f}"
    )
    return detail, {"output_error": error, "nearest_output_error": nearest}


def _is_its_source(manifest: Manifest, plan: Plan, job: Job) -> bool:
    """Whether a pack was made from these very files."""
    files = {f.name: f.path for f in download(plan.source, job.progress).files}
    recorded = {f.name: (f.size, f.sha256) for f in manifest.source.files}
    if {n: p.stat().st_size for n, p in files.items()} != {n: r[0] for n, r in recorded.items()}:
        return False
    return all(fs.sha256_file(path) == recorded[name] for name, path in files.items())


def _alike(pack: Pack, plan: Plan, subject: str, job: Job) -> Check:
    """A pack that cannot be made again: whether it is nevertheless one of this source."""
    from bonsai_quant.verification.likeness import compare  # which imports numba

    found = compare(pack, plan, job.threads, job.progress)
    if wrong := _first(found.problems):
        return Check("codes", subject, "failed", wrong)
    least = min(found.cosines, key=lambda name: found.cosines[name])
    why = "made from another source" if pack.manifest else "no recipe to repeat"
    detail = (
        f"{why}; every tensor resembles the source's in its rows, columns and groups, {least} "
        f"least of all: cosine {found.cosines[least]:.3f}; {found.off} groups are switched off"
    )
    figures = {"least_cosine": found.cosines[least], "groups_off": found.off}
    return Check("codes", subject, "passed", detail, figures)


def _first(problems: dict[str, str]) -> str:
    """The first problem by name, and how many other tensors have one; '' where there is none."""
    wrong = sorted(name for name, problem in problems.items() if problem)
    if not wrong:
        return ""
    more = f"; and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
    return f"{wrong[0]}: {problems[wrong[0]]}{more}"


def _missing_option(manifest: Manifest | None, job: Job) -> str:
    """What is needed to quantize again and was not given, or ''."""
    if manifest and manifest.source.lora and not job.lora:
        names = ", ".join(f"{a.name}:{a.scale:g}" for a in manifest.source.lora)
        return f"{names} was merged into the source -> pass --lora"
    if manifest and manifest.calibration and job.calibration is None:
        return f"{manifest.recipe['solver']} was guided by a calibration -> pass --calibration"
    return ""


def _other_calibration(manifest: Manifest | None, job: Job) -> str:
    """That another calibration was given than the pack was made with, or ''."""
    from bonsai_quant.conversion.calibration.record import RECORD

    if manifest is None or not manifest.calibration or job.calibration is None:
        return ""
    record = Path(job.calibration) / RECORD
    if not record.is_file() or fs.sha256_file(record)[1] == manifest.calibration:
        return ""
    return f"{job.calibration} is not the one that guided it"


def _other_inputs(manifest: Manifest | None, job: Job, plan: Plan) -> str:
    """What was given and is not what the pack was made with, or ''."""
    if manifest is None:
        return ""
    expected = {(a.sha256, a.scale, a.config): a for a in manifest.source.lora}
    given = {(a.sha256, a.scale, a.config): a for a in plan.loras}
    if wrong := sorted(given.keys() - expected.keys(), key=str):
        lora = given[wrong[0]]
        return f"{lora.path} at scale {lora.scale:g} is not what was merged into its source"
    if absent := sorted(expected.keys() - given.keys(), key=str):
        return f"{expected[absent[0]].name} was merged into its source, too"
    return ""


def _plan(pack: Pack, manifest: Manifest | None, source: str, job: Job) -> Plan:
    from bonsai_quant.conversion.plan import plan

    recipe = Recipe.model_validate(manifest.recipe) if manifest else None
    return plan(
        source,
        recipe=recipe,
        mode=None if recipe else pack.info.mode,
        threads=job.threads,
        calibration=job.calibration if manifest and manifest.calibration else None,
        lora=job.lora,
        lora_partial=manifest is not None and any(a.ignored for a in manifest.source.lora),
        transformer_only=True,
    )


def _inventory(info: PackInfo) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(t.name, t.shape, t.packed) for t in info.tensors]


def _difference(pack: Pack, quantized: QuantizedTensor) -> str:
    """The first code, scale or kept value of a pack that is not the source's, or ''."""
    tensor = quantized.planned.tensor
    if quantized.kept is not None:
        same = np.array_equal(pack.kept(tensor).view(np.uint16), quantized.kept.view(np.uint16))
        return "" if same else "kept values are not those of the source"
    assert quantized.layer is not None
    layer = pack.layer(tensor)
    for kind, ours, expected in (
        ("code byte", layer.codes, quantized.layer.codes),
        ("scale", layer.scales, quantized.layer.scales),
    ):
        wrong = ours != expected
        if wrong.any():
            row, at = (int(i) for i in np.argwhere(wrong)[0])
            return f"row {row}, {kind} {at}: {ours[row, at]}, expected {expected[row, at]}"
    return ""
