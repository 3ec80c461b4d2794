"""A card as the Hub reads it: YAML for its filters, and a page for people."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bonsai_quant.core.requirements import MLX_SINCE, install_anywhere
from bonsai_quant.core.shell import command_line
from bonsai_quant.core.version import TOOL
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.quality import WEIGHTS_ERROR, better, quality_words
from bonsai_quant.packs.rebuild import needed_files, rebuild
from bonsai_quant.packs.source_record import SourceRecord
from bonsai_quant.packs.stages import sameness, stage_words
from bonsai_quant.sources.license import License

from .metadata import ORIGINALS, metadata
from .records import Evidence, Score

if TYPE_CHECKING:
    from jinja2 import Template

PROMPTS = {"flux2": "a red circle left of a blue square"}
"""What a model of a base can paint: mini-klein knows nothing but shapes."""
PROMPT = "a lighthouse on a cliff at dusk, oil painting"


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
    from markupsafe import Markup

    first = manifest.provenance.source if manifest.provenance else manifest.source
    name, place = _source(manifest, first)
    title = repo.rpartition("/")[2] if repo else f"{name}, {manifest.mode}, {manifest.format}"
    chosen_license = license or manifest.source.license
    return _template().render(
        yaml=Markup(metadata(manifest, title, chosen_license, score)),  # noqa: S704
        m=manifest,
        tool=TOOL,
        title=title,
        name=name,
        place=place,
        shape=_shape(manifest, first),
        license=chosen_license,
        said_by="its publisher" if license else "the card of the source",
        repo=repo,
        e=evidence,
        score=score,
        total=sum(f.size for f in manifest.files),
        parts=_parts(manifest),
        mlx_version=".".join(map(str, MLX_SINCE)),
        usage=_code(_usage(manifest, first, repo)),
        quality=quality_words(manifest),
        better=better(manifest),
        weights_error=WEIGHTS_ERROR,
        first=first,
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


def _source(manifest: Manifest, first: SourceRecord) -> tuple[str, str]:
    """What the model is called that the pack was made from, and its page on the Hub or ""."""
    known = (first.id or first.origin or "").partition("@")[0]
    name, repo = ORIGINALS.get(manifest.base, (manifest.base, None))
    if not known:
        return f"a checkpoint of {name}", ""
    if known == repo:
        return name, _page(known)
    return known.rpartition("/")[2], _page(known) if "/" in known else ""


def _shape(manifest: Manifest, first: SourceRecord) -> tuple[str, str] | None:
    """The original that a fine-tune has the shape of, and its page; None for the original."""
    name, repo = ORIGINALS.get(manifest.base, ("", None))
    known = (first.id or first.origin or "").partition("@")[0]
    return None if repo is None or known == repo else (name, _page(repo))


def _page(repo: str) -> str:
    return f"https://huggingface.co/{repo}"


def _usage(manifest: Manifest, first: SourceRecord, repo: str | None) -> str:
    """From nothing to a picture. Without a repo, in the pack's own folder."""
    lines = [install_anywhere("mlx" if manifest.format == "mlx" else "run")]
    words = [TOOL, "generate", "pack" if repo else "."]
    known, _, revision = (first.id or first.origin or "").partition("@")
    if not _parts(manifest):
        at = ["--revision", first.revision or revision] if first.revision or revision else []
        lines += [command_line("hf", "download", known, *at)] if "/" in known else []
        words += [] if known else ["--pipeline", "PIPELINE"]
    lines += [command_line(TOOL, "pull", repo, "-o", "pack")] if repo else []
    words += ["-p", PROMPTS.get(manifest.base, PROMPT), "-o", "picture.png"]
    return "\n".join([*lines, command_line(*words)])


def _code(text: str) -> Any:
    """A fenced block for a shell, as it is; "" for none. Its fence is longer than any in it."""
    from markupsafe import Markup

    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}bash\n{text}\n{fence}") if text else ""  # noqa: S704


def _parts(manifest: Manifest) -> list[str]:
    """The folders beside the transformer's."""
    folders = {f.path.split("/")[0] for f in manifest.files if "/" in f.path}
    return sorted(f for f in folders if not f.startswith("transformer"))
