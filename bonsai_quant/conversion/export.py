"""Another format from a pack in any format: nothing of it is solved or rounded again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.core.threads import choose_threads
from bonsai_quant.packs.deployment import DEPLOYMENTS, Beside, Deployment, deployments
from bonsai_quant.packs.deployment.write import deploy
from bonsai_quant.packs.integrity import require_whole
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.pipeline import find_pipeline
from bonsai_quant.packs.provenance import Provenance
from bonsai_quant.packs.read import Pack, open_one
from bonsai_quant.packs.source_record import SourceRecord
from bonsai_quant.packs.write import PackWriter
from bonsai_quant.sources.components import find_components
from bonsai_quant.storage import fs
from bonsai_quant.storage.disk import require_free_disk
from bonsai_quant.storage.staging import Staging

from .plan import check_formats
from .planned_files import planned_files

log = logging.getLogger(__name__)


def export(
    pack: str | Path,
    *,
    format: str,
    out: str | Path,
    pipeline: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Write the pack at `pack` in another format; OUT is that format's folder itself.

    pack: a pack's folder, or what `convert` wrote (the first format in it is read).
    pipeline: whose other parts go beside the transformer: a path, a shipped model's name, or a Hub
    id that the cache holds.  Without it the pack holds the transformer only.
    """
    from bonsai_quant.packs.output import check_free

    (name,) = check_formats([format])
    workers, _ = choose_threads(threads)
    source, target = open_one(Path(pack)), Path(out)
    check_free(target, overwrite=overwrite)
    require_whole(source, hint="convert again")
    _check_apart(source.folder, target)
    others = _others(name, pipeline, target) if pipeline else {}
    require_free_disk(sum(f.size for f in planned_files(source.info, [name], others)), target)
    with Staging(target, overwrite=overwrite) as staging:
        writer = PackWriter(staging, "", name, source.info, resume=False)
        try:
            rounded = _copy(source, writer, workers, progress)
            beside = Beside()
            for deployment in others.values():
                beside = deploy(staging, "", deployment, threads=workers, progress=progress)
            manifest = writer.finish(_provenance(source, rounded), beside)
        finally:
            writer.weights.close()
        staging.commit(writer.written(manifest))
    return manifest


def _others(name: str, pipeline: str, out: Path) -> dict[str, Deployment]:
    """What goes beside the transformer."""
    if name not in DEPLOYMENTS:
        raise UsageError(
            f"a pack in the format {name} holds the transformer only", hint="leave --pipeline out"
        )
    folder = find_pipeline(pipeline)
    _check_apart(folder, out)
    parts = find_components(folder)
    if parts is None:
        raise BadInput(
            "is no whole pipeline in 16 bits",
            where=str(folder),
            hint="give a pipeline's folder as diffusers saves it",
        )
    return deployments(parts, [name])


def _check_apart(folder: Path, out: Path) -> None:
    here, there = folder.resolve(), out.resolve()
    if here == there or there.is_relative_to(here) or here.is_relative_to(there):
        raise UsageError(
            f"the output {out} and {folder} overlap",
            hint="choose an output outside of it with -o",
        )


def _copy(pack: Pack, writer: PackWriter, threads: int, progress: Progress) -> int:
    """Every tensor; -> number of kept values that no 16 bits held, in packs of other programs."""
    tensors = pack.info.tensors
    progress.phase("exporting", len(tensors), "tensors", work=sum(t.size for t in tensors))

    def one(tensor: PackTensor) -> int:
        rounded = 0
        if tensor.packed:
            writer.packed(tensor, pack.layer(tensor))
        else:
            values, rounded = pack.kept_and_rounded(tensor)
            writer.kept(tensor, values)
        progress.advance(work=tensor.size)
        return rounded

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(one, tensors))


def _provenance(pack: Pack, rounded: int) -> Provenance:
    """What the pack says of its own making; unknown for packs of other programs."""
    manifest = pack.manifest
    if manifest is None:
        how = "unknown: not made by this program"
        if rounded:
            how += f"; {rounded} kept values were rounded to what fp16 and bf16 both hold"
            log.warning("%s: %s", pack.folder, how.partition("; ")[2])
        recipe = Recipe(description=how, mode=pack.info.mode)
        source = SourceRecord(id=None, revision=None, layout="unknown", files=[])
        return Provenance(recipe, source, None, None)
    csv = pack.folder / "layers.csv"
    return Provenance(
        Recipe.model_validate(manifest.recipe),
        manifest.source,
        manifest.measured,
        fs.read_small(csv) if csv.is_file() else None,
        manifest.calibration,
        manifest.provenance,
    )
