"""A card as the Hub reads it: YAML for its filters, and a page for people."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bonsai_quant.core.requirements import MLX_SINCE
from bonsai_quant.core.version import TOOL
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.rebuild import needed_files, rebuild
from bonsai_quant.packs.stages import sameness, stage_words
from bonsai_quant.sources.license import OTHER, License

from .records import Evidence, Score

if TYPE_CHECKING:
    from jinja2 import Template

ORIGINALS = {
    "flux2-klein-4b": ("FLUX.2 Klein 4B", "black-forest-labs/FLUX.2-klein-4B"),
    "flux2-klein-9b": ("FLUX.2 Klein 9B", "black-forest-labs/FLUX.2-klein-9B"),
    "flux2-dev": ("FLUX.2 dev", "black-forest-labs/FLUX.2-dev"),
}
"""Base -> what people call it, and its repo on the Hub."""
BITS = {"ternary": "1.58-bit", "binary": "1-bit"}


def render_card(
    manifest: Manifest,
    *,
    repo: str | None = None,
    license: License | None = None,
    evidence: Evidence | None = None,
    score: Score | None = None,
) -> str:
    """README.md of a pack. repo: where it will be.  license: in place of the source's own.

    Every figure is of the manifest or of the report; what was not measured is said to be so.
    """
    source = manifest.source
    own = source.id or source.origin or manifest.base
    title, original = ORIGINALS.get(manifest.base, (own, None))
    chosen_license = license or source.license
    return _template().render(
        yaml=_yaml(manifest, chosen_license),
        m=manifest,
        tool=TOOL,
        title=f"{title}, {manifest.mode}, {manifest.format}",
        name=title,
        original=original,
        license=chosen_license,
        said_by="its publisher" if license else "the card of the source",
        repo=repo or "OWNER/NAME",
        e=evidence,
        score=score,
        total=sum(f.size for f in manifest.files),
        parts=_parts(manifest),
        mlx_version=".".join(map(str, MLX_SINCE)),
        first=manifest.provenance.source if manifest.provenance else source,
        stage_words=stage_words,
        rebuild=_code(rebuild(manifest)),
        needed_files=needed_files(manifest.provenance),
        sameness=sameness(manifest.provenance),
    )


@cache
def _template() -> Template:
    """card.md, compiled once: that takes longer than all else of a small conversion."""
    from jinja2 import Environment

    text = files("bonsai_quant.packs.card").joinpath("card.md").read_text("utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, newline_sequence="\n"
    )
    return environment.from_string(text)


def _code(text: str) -> Any:
    """A fenced block for a shell, as it is; "" for none. Its fence is longer than any in it."""
    from markupsafe import Markup

    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}bash\n{text}\n{fence}") if text else ""  # noqa: S704


def _parts(manifest: Manifest) -> list[str]:
    """The folders beside the transformer's."""
    folders = {f.path.split("/")[0] for f in manifest.files if "/" in f.path}
    return sorted(f for f in folders if not f.startswith("transformer"))


def _yaml(manifest: Manifest, license: License | None) -> Any:
    import yaml
    from markupsafe import Markup

    fields: dict[str, Any] = {}
    if license:
        fields["license"] = license.id
        if license.id == OTHER:
            fields |= {"license_name": license.name, "license_link": license.link}
    if models := _base_models(manifest):
        fields |= {"base_model": models, "base_model_relation": "quantized"}
    fields |= {
        "library_name": FORMATS[manifest.format].library or TOOL,
        "pipeline_tag": "text-to-image",
        "language": ["en"],
        "tags": _tags(manifest),
        "inference": False,
    }
    return Markup(yaml.safe_dump(fields, sort_keys=False, allow_unicode=False))  # noqa: S704


def _base_models(manifest: Manifest) -> list[str]:
    """The original, and the fine-tune that was converted, where these are on the Hub."""
    original = ORIGINALS.get(manifest.base, ("", None))[1]
    origin = (manifest.source.origin or "").partition("@")[0]
    on_hub = [m for m in (original, origin, manifest.source.id) if m and "/" in m]
    return list(dict.fromkeys(on_hub))


def _tags(manifest: Manifest) -> list[str]:
    family = ("flux",) if manifest.base.startswith("flux2") else ()
    own = FORMATS[manifest.format].tags
    return [manifest.mode, BITS[manifest.mode], *own, "diffusion", *family, TOOL]
