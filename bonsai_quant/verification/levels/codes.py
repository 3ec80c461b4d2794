"""Level codes: legal values, the same weights in every format, and the source's quantized again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import PackInfo, PackTensor, Progress
from bonsai_quant.packs.read import Pack

from .check import Check
from .likeness import unlike

if TYPE_CHECKING:
    from bonsai_quant.conversion.plan import Plan
    from bonsai_quant.conversion.quantize_tensor import QuantizedTensor
    from bonsai_quant.packs.manifest import Manifest

ROWS = 1024
"""Rows decoded to float32 at a time."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a source is quantized again with, beside the recipe that the manifest holds."""

    calibration: str | None = None
    lora: tuple[str, ...] = ()


def check_codes(packs: Sequence[Pack], threads: int, progress: Progress) -> list[Check]:
    """Every pack alone, and each against the first: the same float32 weights, bit for bit."""
    checks = []
    for pack in packs:
        other = packs[0] if pack is not packs[0] else None
        subject = pack.folder.name + (f" = {other.folder.name}" if other else "")
        problem, rounded = _first_problem(pack, other, threads, progress)
        detail = problem or f"{len(pack.info.packed)} packed and {len(pack.info.kept)} kept tensors"
        if rounded and not problem:
            detail += f"; {rounded} kept values are finer than fp16, which rounds them"
        checks.append(Check("codes", subject, "failed" if problem else "passed", detail))
    return checks


def _first_problem(
    pack: Pack, other: Pack | None, threads: int, progress: Progress
) -> tuple[str, int]:
    """The first illegal or differing tensor, in name order, or ''; and kept values rounded."""
    if other and [(t.name, t.shape) for t in pack.info.tensors] != [
        (t.name, t.shape) for t in other.info.tensors
    ]:
        return f"{pack.folder} and {other.folder} hold different tensors", 0

    total = sum(t.size for t in pack.info.tensors)

    def one(tensor: PackTensor) -> tuple[str, int]:
        look = _differs if tensor.packed else _kept_differs
        try:
            problem, rounded = look(pack, other, tensor)
        except BonsaiError as e:
            return str(e), 0
        progress(tensor.size, 1, total)
        return problem, rounded

    rounded = 0
    with ThreadPoolExecutor(threads) as pool:
        for problem, n in pool.map(one, pack.info.tensors):
            if problem:
                return problem, 0
            rounded += n
    return "", rounded


def _kept_differs(pack: Pack, other: Pack | None, tensor: PackTensor) -> tuple[str, int]:
    values, rounded = pack.kept_and_rounded(tensor)
    if other is None or np.array_equal(values.view(np.uint16), other.kept(tensor).view(np.uint16)):
        return "", rounded
    return f"{tensor.name}: kept values differ from {other.folder.name}", rounded


def _differs(pack: Pack, other: Pack | None, tensor: PackTensor) -> tuple[str, int]:
    mine = pack.parts(tensor)
    layer = pack.layer(tensor, mine)
    if other is None:
        return "", 0
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
            ), 0
    return "", 0


def check_against(
    pack: Pack, source: str, given: Given, threads: int | None, progress: Progress
) -> Check:
    """Quantize the source again, with the recipe that the manifest names.

    A pack without a recipe, or made from another source as distilled ones are, is held against
    the source's weights by their likeness.
    """
    from bonsai_quant.conversion.checks import Checks
    from bonsai_quant.conversion.stream import run

    subject = f"{pack.folder.name} = {source}"
    said = pack.manifest if pack.manifest and pack.manifest.source.files else None
    if missing := _not_given(said, given):
        return Check("codes", subject, "not run", missing)
    work = _planned(pack, said, source, threads, given)
    if _inventory(work.info) != _inventory(pack.info):
        return Check("codes", subject, "failed", "the source holds other tensors")
    if other := _other_than(said, given, work):
        return Check("codes", subject, "failed", other)
    found: dict[str, tuple[str, float, str]] = {}
    lock = threading.Lock()

    def compare(finished: QuantizedTensor) -> None:
        differs, likeness = _differs_from(pack, finished), unlike(pack, finished)
        with lock:
            found[finished.planned.tensor.name] = (differs, *likeness)

    digests = run(work, compare, checks=Checks(zeros=False, magnitudes=False), progress=progress)
    same = said is not None and {f["name"]: f["sha256"] for f in said.source.files} == digests
    return _verdict(subject, found, same, said)


def _not_given(said: Manifest | None, given: Given) -> str:
    """What is needed to quantize again and was not given, or ''."""
    if said and said.source.lora and not given.lora:
        names = ", ".join(f"{a.name}:{a.scale:g}" for a in said.source.lora)
        return f"{names} was merged into the source -> pass --lora"
    if said and said.calibration and given.calibration is None:
        return f"{said.recipe['solver']} was guided by a calibration -> pass --calibration"
    return ""


def _other_than(said: Manifest | None, given: Given, work: Plan) -> str:
    """What was given and is not what the pack was made with, or ''."""
    if said is None:
        return ""
    if said.calibration and work.calibration and work.calibration.sha256 != said.calibration:
        return f"{given.calibration} is not the one that guided it"
    due = {(a.sha256, a.scale, a.config): a for a in said.source.lora}
    mine = {(a.sha256, a.scale, a.config): a for a in work.loras}
    if wrong := sorted(mine.keys() - due.keys(), key=str):
        a = mine[wrong[0]]
        return f"{a.path} at scale {a.scale:g} is not what was merged into its source"
    if absent := sorted(due.keys() - mine.keys(), key=str):
        return f"{due[absent[0]].name} was merged into its source, too"
    return ""


def _planned(
    pack: Pack, said: Manifest | None, source: str, threads: int | None, given: Given
) -> Plan:
    from bonsai_quant.conversion.plan import plan

    recipe = Recipe.model_validate(said.recipe) if said else None
    return plan(
        source,
        recipe=recipe,
        mode=None if recipe else pack.info.mode,
        threads=threads,
        calibration=given.calibration if said and said.calibration else None,
        lora=given.lora,
        lora_partial=said is not None and any(a.ignored for a in said.source.lora),
        transformer_only=True,
    )


def _verdict(
    subject: str, found: dict[str, tuple[str, float, str]], same: bool, said: Manifest | None
) -> Check:
    """found: by tensor, how it differs, its cosine with the source's, and why that is too low."""
    problems = {name: f[0] if same else f[2] for name, f in found.items()}
    wrong = min((name for name, problem in problems.items() if problem), default=None)
    if wrong is not None:
        return Check("codes", subject, "failed", f"{wrong}: {problems[wrong]}")
    if same:
        return Check("codes", subject, "passed", "quantized again: the same codes and values")
    least = min(found, key=lambda n: found[n][1])
    why = "made from another source" if said else "no recipe to repeat"
    detail = f"{why}; every tensor resembles the source's, {least} least of all"
    return Check("codes", subject, "passed", f"{detail}: cosine {found[least][1]:.3f}")


def _inventory(info: PackInfo) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(t.name, t.shape, t.packed) for t in info.tensors]


def _differs_from(pack: Pack, finished: QuantizedTensor) -> str:
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
