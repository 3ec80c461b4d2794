"""What a card says to the Hub's filters: license, base models, tags, and the score."""

from __future__ import annotations

from typing import Any

from bonsai_quant.core.version import TOOL
from bonsai_quant.hub.card_data import Result, front_matter
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.sources.license import OTHER, License

from .records import Score

ORIGINALS = {
    "flux2-klein-4b": ("FLUX.2 Klein 4B", "black-forest-labs/FLUX.2-klein-4B"),
    "flux2-klein-9b": ("FLUX.2 Klein 9B", "black-forest-labs/FLUX.2-klein-9B"),
    "flux2-dev": ("FLUX.2 dev", "black-forest-labs/FLUX.2-dev"),
}
"""Base -> what people call it, and its repo on the Hub."""
BITS = {"ternary": "1.58-bit", "binary": "1-bit"}
TASK = "text-to-image"


def metadata(manifest: Manifest, name: str, license: License | None, score: Score | None) -> str:
    """The YAML of a card. name: of the pack."""
    fields: dict[str, Any] = {}
    if license:
        fields["license"] = license.id
        if license.id == OTHER:
            fields |= {"license_name": license.name, "license_link": license.link}
    if models := base_models(manifest):
        fields |= {"base_model": models, "base_model_relation": "quantized"}
    fields |= {
        "library_name": FORMATS[manifest.format].library or TOOL,
        "pipeline_tag": TASK,
        "language": ["en"],
        "tags": _tags(manifest),
        "inference": False,
    }
    return front_matter(fields, name=name, results=_results(score) if score else ())


def _results(score: Score) -> list[Result]:
    """The share of right pictures, and what it is of the source's."""
    args = {"captions": score.captions, "pictures": score.pictures, "size": score.size,
            "steps": score.steps, "format": score.format}  # fmt: skip
    figures = [("pictures that show what the caption says, %", "accuracy", score.value)]
    if score.kept_value is not None:
        figures.append(("share of the source's score that is kept, %", "retention",
                        score.kept_value))  # fmt: skip
    return [
        Result(
            TASK,
            f"{TOOL} score, held-out captions of scenes",
            "bonsai-quant-scenes",
            score.split,
            metric,
            metric_id,
            value,
            args,
        )  # fmt: skip
        for metric, metric_id, value in figures
        if value is not None
    ]


def base_models(manifest: Manifest) -> list[str]:
    """The original, and the fine-tune that was converted, where these are on the Hub."""
    first = manifest.provenance.source if manifest.provenance else manifest.source
    original = ORIGINALS.get(manifest.base, ("", None))[1]
    origin = (first.origin or "").partition("@")[0]
    on_hub = [m for m in (original, origin, first.id) if m and "/" in m]
    return list(dict.fromkeys(on_hub))


def _tags(manifest: Manifest) -> list[str]:
    family = ("flux",) if manifest.base.startswith("flux2") else ()
    own = FORMATS[manifest.format].tags
    return [manifest.mode, BITS[manifest.mode], *own, "diffusion", *family, TOOL]
