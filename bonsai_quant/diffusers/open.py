"""A pack as a pipeline of diffusers, or what to type where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.shell import command_line
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.pipeline import check_pipeline

if TYPE_CHECKING:
    from diffusers import Flux2KleinPipeline

FORMAT = "diffusers"


def open_pipeline(pack: str | Path, **options: Any) -> Flux2KleinPipeline:
    """`Flux2KleinPipeline.from_pretrained` of a pack's folder, which is looked at first.

    options: as `from_pretrained` takes them, such as torch_dtype.
    Raises BadInput (3) for what is no whole pipeline, Unsupported (4) for a pack in another format.
    """
    from diffusers import Flux2KleinPipeline

    folders = require_packs(Path(pack))
    found = next((f for f in folders if f.format == FORMAT), None)
    if found is None:
        name = folders[0].format or "an unknown format"
        raise Unsupported(
            f"is a pack in {name}; diffusers loads the format {FORMAT}",
            where=str(pack),
            hint=_export(pack),
        )
    if not (found.path / "model_index.json").is_file():
        raise BadInput(
            "holds the transformer alone",
            where=str(found.path),
            hint=f"add the other components: {_export(found.path)}",
        )
    check_pipeline(found.path)
    return Flux2KleinPipeline.from_pretrained(found.path, **options)


def _export(pack: str | Path) -> str:
    """The command that makes of a pack what diffusers loads."""
    command = command_line("bonsai-quant", "export", pack)
    return f"{command} -f {FORMAT} --pipeline SOURCE -o OUT"
