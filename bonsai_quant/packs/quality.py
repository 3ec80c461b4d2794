"""What is known of the pictures of a pack, by the way in which it was made, and what is better.

The figures are those of data/kept.json, which benchmarks/retention.py writes: shares of
mini-klein's score that packs of each way kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from bonsai_quant.core.shell import command_line
from bonsai_quant.core.version import TOOL
from bonsai_quant.sources.shipped import NAMES

from .manifest import Manifest
from .provenance_record import FoldingStage, TrainingStage

Kind = Literal["rounding only", "calibrated", "trained", "not rounded", "unknown"]
WEIGHTS_ERROR = (
    "The error of the weights does not tell how well a pack paints: packs that paint better often "
    "have a larger one."
)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the source's score that is kept, with its 95 % interval: all in 0..1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        low, high = (f"{100 * x:.1f}" for x in (self.low, self.high))
        return f"{100 * self.value:.1f} % (95 %: {low} to {high})"


@cache
def _measured() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        files("bonsai_quant").joinpath("data", "kept.json").read_text("utf-8")
    )
    return data


def measured_on() -> str:
    """The model that the figures are of."""
    return str(_measured()["model"])


def kept_by(mode: str, way: str) -> Share | None:
    """What packs of a way kept of mini-klein's score; None where it was not measured.

    way: a solver's name, `folded`, or `trained`.
    """
    share = _measured()["kept"].get(mode, {}).get(way)
    return Share(**share) if share else None


def kind_of(manifest: Manifest) -> Kind:
    """How the pack's codes came to be."""
    stages = manifest.provenance.stages if manifest.provenance else []
    lossless = manifest.measured is not None and manifest.measured.lossless
    if any(isinstance(s, TrainingStage) for s in stages):
        # Rounding what was trained for another grid undoes the training.
        return "trained" if lossless else "rounding only"
    if manifest.calibration is not None:
        return "calibrated"
    if manifest.measured is None or not manifest.recipe.get("solver"):
        return "unknown"
    if lossless or not manifest.counts.packed:
        return "trained" if manifest.source.origin and manifest.counts.packed else "not rounded"
    return "rounding only"


def way_of(manifest: Manifest) -> str | None:
    """The way that data/kept.json knows it by; None where it is none of those.

    A recipe that treats layers in different ways, or another start than the source's own weights,
    makes packs that nobody measured.
    """
    kind, stages = kind_of(manifest), manifest.provenance.stages if manifest.provenance else []
    folded = any(isinstance(s, FoldingStage) for s in stages)
    if kind == "trained":
        return "tuned" if _only_tuned(manifest) else "trained"
    if manifest.recipe.get("layers") or kind not in ("rounding only", "calibrated"):
        return None
    solver = str(manifest.recipe["solver"])
    if any(isinstance(s, TrainingStage) for s in stages):
        return None
    if folded:
        return "folded" if solver == "gptq" else None
    return solver


def _only_tuned(manifest: Manifest) -> bool:
    """Whether no training changed a code."""
    stages = manifest.provenance.stages if manifest.provenance else []
    kinds = {s.kind for s in stages if isinstance(s, TrainingStage)}
    return kinds == {"tuning"}


def quality_words(manifest: Manifest) -> str:
    """One sentence about the pictures of packs that were made like this one."""
    kind, model = kind_of(manifest), measured_on()
    if kind == "unknown":
        return "how this pack was made is not known"
    if kind == "not rounded":
        return "nothing was rounded: the pack holds the values of its source"
    how = {
        "rounding only": f"rounding only, by the solver {manifest.recipe['solver']}",
        "calibrated": f"calibrated, then rounded by the solver {manifest.recipe['solver']}",
        "trained": "scales and kept tensors trained" if _only_tuned(manifest) else "trained",
    }[kind]
    training = manifest.provenance.training if manifest.provenance else None
    if kind == "trained" and training is not None:
        how += f" for {training.updates:,} updates"
    way = way_of(manifest)
    share = kept_by(manifest.mode, way) if way else None
    if share is None:
        return f"{how}; what such packs keep was not measured"
    like = f"packs trained by the recipes of {model}" if kind == "trained" else "such packs"
    return f"{how}; measured on {model}: {like} kept {share} of its score"


def better(manifest: Manifest, source: str | None = None, out: str = "recovered") -> str:
    """The command that gives a better pack of the same model; "" where none is known.

    source: as the user named it; by default as the manifest names it, or SOURCE.
    """
    if kind_of(manifest) not in ("rounding only", "calibrated") or manifest.source.lora:
        return ""
    first = manifest.provenance.source if manifest.provenance else manifest.source
    name = source or first.id or "SOURCE"
    family = name if name in NAMES else first.origin if first.origin in NAMES else None
    recipe = f"{family}-{manifest.mode}" if family else f"klein-4b-{manifest.mode}-trained"
    return command_line(TOOL, "recover", name, "--recipe", recipe, "-o", out)
