"""What a conversion will do to every tensor, to the byte, from headers alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bonsai_quant.core.errors import BadInput, Unsupported, UsageError, unknown
from bonsai_quant.core.recipe import Recipe, apply_overrides
from bonsai_quant.core.schema import GROUP, Action, PackInfo, PackTensor, PlannedTensor
from bonsai_quant.core.shell import command_line
from bonsai_quant.core.threads import Setting, choose_threads
from bonsai_quant.packs.deployment import DEPLOYMENTS, Deployment, child_bytes, deployments
from bonsai_quant.packs.formats import DEFAULT_FORMATS, FORMAT_NAMES
from bonsai_quant.packs.provenance_record import RecipeRecord
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.sources.checkpoint import Source
from bonsai_quant.sources.lora import Adapter, open_adapters
from bonsai_quant.sources.open import open_source

from .calibration import Calibration, open_calibration
from .memory_need import conversion_memory
from .options import ConversionOptions
from .planned_files import PlannedFile, planned_files
from .settings import choose_recipe, parse_formats


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a conversion needs to know. `tensors` and `info.tensors` are sorted by name.

    beside: what goes beside the transformer, by format.  recovery: the recipe, when this is the
    last step of a `recover`.
    """

    source: Source
    recipe: Recipe
    info: PackInfo
    tensors: tuple[PlannedTensor, ...]
    formats: tuple[str, ...]
    files: tuple[PlannedFile, ...]
    memory_bytes: int
    threads: int
    settings: tuple[Setting, ...]
    calibration: Calibration | None = None
    loras: tuple[Adapter, ...] = ()
    beside: Mapping[str, Deployment] = field(default_factory=dict)
    recovery: RecipeRecord | None = None

    @property
    def source_bytes(self) -> int:
        """Bytes that will be read."""
        others = sum(d.source_bytes for d in self.beside.values())
        return sum(f.size for f in self.source.files) + others

    @property
    def child_bytes(self) -> int:
        """About what a process beside this one takes, which makes a text encoder; often none."""
        return max(map(child_bytes, self.beside.values()), default=0)

    @property
    def output_bytes(self) -> int:
        """Bytes of the files, those of unknown size left out."""
        return sum(f.size for f in self.files)


def plan(
    source: str,
    *,
    mode: str | None = None,
    recipe: str | Path | Recipe | None = None,
    solver: str | None = None,
    calibration: str | Path | None = None,
    lora: Sequence[str] | str = (),
    lora_partial: bool = False,
    formats: Sequence[str] | str = DEFAULT_FORMATS,
    revision: str | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    strict: bool = False,
    transformer_only: bool = False,
) -> Plan:
    """Decide the fate of every tensor; raises before any work when something cannot be done.

    source: a path, a shipped model's name, or `org/name[@revision]` on the Hub.
    The other arguments are the fields of `ConversionOptions`.
    """
    options = ConversionOptions(
        mode=mode, recipe=recipe, solver=solver, calibration=calibration, lora=lora,
        lora_partial=lora_partial, formats=formats, revision=revision, threads=threads,
        max_memory=max_memory, strict=strict, transformer_only=transformer_only,
    )  # fmt: skip
    return plan_conversion(source, options)


def plan_conversion(place: str, options: ConversionOptions) -> Plan:
    """See `plan`."""
    recipe, settings = choose_recipe(options.recipe, options.mode, options.solver)
    formats = check_formats(parse_formats(options.formats))
    threads, threads_setting = choose_threads(options.threads)
    complete = not options.transformer_only and any(f in DEPLOYMENTS for f in formats)
    source = open_source(
        place, revision=options.revision, strict=options.strict, components=complete
    )
    _check_base(source, recipe)
    loras = open_adapters(options.lora, source.model, partial=options.lora_partial)
    tensors = _decide(source, recipe, loras)
    _check_groups(source.place, tensors)
    packed = tuple(t.tensor for t in tensors)
    info = PackInfo(source.model.base, recipe.mode, dict(source.config), packed)
    calibration = _calibration(options.calibration, recipe, info, loras, source.place)
    beside = deployments(source.components, formats)
    memory = conversion_memory(info, tensors, threads, calibration, beside)
    _check_memory(memory, options.max_memory)
    return Plan(
        source=source,
        recipe=recipe,
        info=info,
        tensors=tensors,
        formats=formats,
        files=planned_files(info, formats, beside),
        memory_bytes=memory,
        threads=threads,
        settings=(*settings, threads_setting),
        calibration=calibration,
        loras=loras,
        beside=beside,
    )


def _check_memory(needed: int, allowed: int | None) -> None:
    if allowed is not None and allowed < needed:
        raise UsageError(
            f"--max-memory {allowed} is too little; this needs {needed} bytes",
            hint="raise it, or use fewer --threads",
        )


def _calibration(
    folder: str | Path | None,
    recipe: Recipe,
    info: PackInfo,
    loras: Sequence[Adapter],
    place: str,
) -> Calibration | None:
    """The calibration that the solver needs, checked to fit every packed layer."""
    needs = recipe.solver in CALIBRATED
    if needs and loras:
        raise Unsupported(
            f"the solver {recipe.solver!r} needs to know the inputs of the merged model's layers, "
            "and a calibration is of a checkpoint as it is",
            hint="merge with a recipe that keeps every layer and --format unpacked; calibrate and "
            "convert that",
        )
    if needs == (folder is not None):
        if folder is None:
            return None
        calibration = open_calibration(folder)
        calibration.check_recipe(recipe)
        calibration.check(info.packed)
        return calibration
    if needs:
        raise UsageError(
            f"the solver {recipe.solver!r} needs a calibration",
            hint=f"bonsai-quant calibrate {command_line(place)} --mode {recipe.mode} --solver "
            f"{recipe.solver} -o calibration; then the same with --calibration calibration",
        )
    raise UsageError(
        f"the solver {recipe.solver!r} uses no calibration",
        hint=f"pass --solver {' or '.join(CALIBRATED)} as well",
    )


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Known names, each once, in the order of FORMAT_NAMES."""
    for name in formats:
        if name not in FORMAT_NAMES:
            raise unknown("format", name, FORMAT_NAMES)
    if not formats:
        raise UsageError("no format asked for", hint=f"choose from {', '.join(FORMAT_NAMES)}")
    return tuple(f for f in FORMAT_NAMES if f in formats)


def explain(plan: Plan, name: str) -> PlannedTensor:
    """The planned tensor of that name (with or without `.weight`)."""
    for t in plan.tensors:
        if name in (t.tensor.name, t.tensor.linear):
            return t
    names = [t.tensor.linear for t in plan.tensors]
    near = difflib.get_close_matches(name[:200], names, 1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(
        f"no tensor {name[:200]!r}{guess}",
        hint="see the names in `plan --json`",
        typed=name if near else "",
        meant=near,
    )


def _check_base(source: Source, recipe: Recipe) -> None:
    if recipe.base and recipe.base != source.model.base:
        raise BadInput(
            f"is {source.model.base}, but the recipe is for {recipe.base}",
            where=source.place,
            hint="use another recipe",
        )


def _decide(source: Source, recipe: Recipe, loras: Sequence[Adapter]) -> tuple[PlannedTensor, ...]:
    packable = [t.name.removesuffix(".weight") for t in source.model.tensors if t.packable]
    overrides = apply_overrides(recipe, packable)
    planned = []
    for t in source.model.tensors:
        default: Action = recipe.mode if t.packable else "keep"
        action, rule = overrides.get(t.name.removesuffix(".weight"), (default, t.rule))
        # A scale of zero leaves the very bytes: even -0.0 + 0.0 would change a sign.
        deltas = (a.deltas[t.name] for a in loras if a.scale and t.name in a.deltas)
        tensor = PackTensor(t.name, t.shape, action)
        planned.append(PlannedTensor(tensor, rule, t.pieces, tuple(deltas)))
    return tuple(planned)


def _check_groups(place: str, tensors: Sequence[PlannedTensor]) -> None:
    odd = [t.tensor for t in tensors if t.tensor.packed and t.tensor.shape[1] % GROUP]
    if odd:
        names = ", ".join(f"{t.linear} (in = {t.shape[1]})" for t in odd)
        raise Unsupported(
            f"{len(odd)} layers have an input width that is not a multiple of {GROUP}: {names}",
            where=place,
            hint="keep them with a recipe",
        )
