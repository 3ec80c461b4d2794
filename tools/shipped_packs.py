"""Make the packs that ship, and their manifests, from what a `recover` left.

    bonsai-quant recover mini-klein --recipe mini-klein-ternary -f bonsai -o ternary
    python tools/shipped_packs.py stages ternary mini-klein-ternary OUT

packs again from ternary-calibration, ternary-rounded and ternary-trained, and writes a manifest
with all that their records say.

    python tools/shipped_packs.py keep mini-klein-ternary OUT --note TEXT --held-out 200,0.01,0.9

writes a pack that ships again, its weight file unchanged, with what is known where no records of
its stages were kept: the recipe, and the errors against the source, measured anew.
OUT/bonsai, without its card, is what goes to bonsai_quant/data.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bonsai_quant.conversion.calibration import open_calibration
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.conversion.options import ConversionOptions
from bonsai_quant.conversion.plan import Plan, plan, plan_conversion
from bonsai_quant.conversion.provenance import KEY, WEIGHTS, calibration_stage
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.provenance import Provenance, source_record
from bonsai_quant.packs.provenance_record import (
    CalibrationStage,
    ComputeRecord,
    PromptsRecord,
    ProvenanceRecord,
    RoundingStage,
    Stage,
    TrainingStage,
)
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.packs.write import PackWriter
from bonsai_quant.quantization.dequantize import weights as decoded
from bonsai_quant.sources.license import read_license
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging
from bonsai_quant.training.recipe import Recovery, load_recovery, recipe_record
from bonsai_quant.training.settings import CalibrationSettings, DistillationSettings
from bonsai_quant.training.source_weights import WeightErrors, as_weights
from bonsai_quant.training.trajectories.prompts import choose_prompts, prompts_record
from bonsai_quant.training.write_pipeline import WEIGHTS as TRANSFORMER

SOURCE = "mini-klein"
LOST = "not recorded"
"""In place of the hash of a record that nobody kept."""


@click.group()
def main() -> None:
    """Packs that ship, with manifests that say how they were made."""


@main.command()
@click.argument("prefix")
@click.argument("recipe")
@click.argument("out")
@click.option("--compute", default="", help="JSON of where the stages ran, if they do not say.")
def stages(prefix: str, recipe: str, out: str, compute: str) -> None:
    """Pack PREFIX-trained into OUT, with the records of all stages."""
    folders = [Path(f"{prefix}-{name}") for name in ("calibration", "rounded", "trained")]
    recovery = load_recovery(recipe, None)
    where = ComputeRecord(**json.loads(compute)) if compute else None
    with tempfile.TemporaryDirectory() as work:
        trained = Path(shutil.copytree(folders[2], Path(work) / "trained"))
        path = trained / "distillation.json"
        said = json.loads(path.read_text())
        if KEY not in said:
            record = _recorded(folders, recipe, recovery, said, where)
            said[KEY] = record.model_dump(mode="json")
            said[WEIGHTS] = fs.sha256_file(trained / TRANSFORMER)[1]
            path.write_text(json.dumps(said, indent=2) + "\n")
        final = recovery.recipe.model_copy(update={"solver": "exact"})
        packing = plan_conversion(str(trained), ConversionOptions(recipe=final, formats="bonsai"))
        named = replace(packing, recovery=recipe_record(recipe, recovery))
        made = write_packs(named, Path(out))
    click.echo(made.manifests["bonsai"].model_dump_json(indent=2))


def _recorded(
    folders: list[Path], recipe: str, recovery: Recovery, said: dict[str, Any],
    where: ComputeRecord | None,
) -> ProvenanceRecord:  # fmt: skip
    """What the folders of an earlier version tell: it wrote no provenance."""
    settings = recovery.calibration or CalibrationSettings()
    calibration = calibration_stage(open_calibration(folders[0])).model_copy(
        update={"n_prompts": settings.n_prompts, "at_once": settings.at_once, "compute": where}
    )
    rounded = open_pack(require_packs(folders[1])[0])
    assert rounded.manifest is not None
    training = _training(recipe, recovery, PromptsRecord(**said["prompts"]), said["start"])
    assert training.settings == said["settings"], "trained with other settings than the recipe's"
    training = training.model_copy(
        update={"seed": said["seed"], "held_out": said["held_out"], "compute": where}
    )
    recipe_used = rounded.manifest.recipe
    made: list[Stage] = [
        calibration, RoundingStage(version=__version__, recipe=recipe_used), training
    ]  # fmt: skip
    trained = plan(str(folders[2]), recipe=recovery.recipe, solver="exact", formats="bonsai")
    new = {t.tensor.name: as_weights(t) for t in trained.tensors if t.tensor.packed}
    return _compared(new.items(), made)


def _training(recipe: str, recovery: Recovery, prompts: PromptsRecord, start: str) -> TrainingStage:
    settings = recovery.distillation or DistillationSettings()
    return TrainingStage(
        version=__version__, mode=recovery.recipe.mode, recipe=recipe_record(recipe, recovery),
        settings=settings.model_dump(mode="json", by_alias=True), updates=settings.steps,
        batch=settings.batch, seed=0, prompts=prompts, start=start,
    )  # fmt: skip


def _compared(new: Iterable[tuple[str, np.ndarray]], made: list[Stage]) -> ProvenanceRecord:
    """The record of these stages, with the errors of new weights against the source's."""
    source = plan(SOURCE, mode="ternary", formats="bonsai")
    known, errors = {t.tensor.name: t for t in source.tensors}, WeightErrors()
    for name, weights in new:
        errors.add(known[name].tensor.linear, as_weights(known[name]), weights)
    return ProvenanceRecord(
        source=source_record(source.source, _digests(source), ()),
        stages=made,
        relative_error=errors.relative_error,
        layers=errors.layers,
    )


def _digests(source: Plan) -> dict[str, str]:
    return {f.name: fs.sha256_file(f.path)[1] for f in source.source.files}


@main.command()
@click.argument("name")
@click.argument("out")
@click.option("--note", required=True, help="What a reader must know.")
@click.option("--held-out", required=True, help="STEP,ERROR,SCORE of the last validation.")
def keep(name: str, out: str, note: str, held_out: str) -> None:
    """Write the shipped pack NAME again, with what is known of it. Its recipe has its name."""
    pack, recovery = open_pack(require_packs(Path(name))[0]), load_recovery(name, None)
    pipeline, settings = locate(SOURCE), recovery.calibration or CalibrationSettings()
    measured = choose_prompts(pipeline, None, settings.n_prompts)
    calibration = CalibrationStage(
        version=__version__, sha256=LOST, mode=recovery.recipe.mode,
        solver=recovery.recipe.solver, prompts=prompts_record(measured, None),
        n_prompts=settings.n_prompts, at_once=settings.at_once,
        states=4 * settings.n_prompts, seed=0,
    )  # fmt: skip
    limit = (recovery.distillation or DistillationSettings()).prompts
    learned = prompts_record(choose_prompts(pipeline, None, limit), None)
    training = _training(name, recovery, learned, LOST)
    figures = dict(zip(("step", "error", "score"), map(float, held_out.split(",")), strict=True))
    rounding = RoundingStage(version=__version__, recipe=recovery.recipe.model_dump(mode="json"))
    made: list[Stage] = [
        calibration, rounding, training.model_copy(update={"held_out": figures})
    ]  # fmt: skip
    weights = {t.name: decoded(pack.layer(t)) for t in pack.info.packed}
    record = _compared(weights.items(), made).model_copy(
        update={"note": note, "recovery": recipe_record(name, recovery)}
    )
    click.echo(_written_again(pack, record, Path(out)).model_dump_json(indent=2))


def _written_again(pack: Pack, record: ProvenanceRecord, out: Path) -> Manifest:
    manifest = pack.manifest
    assert manifest is not None
    source = manifest.source.model_copy(update={"license": read_license(locate(SOURCE).folder)})
    provenance = Provenance(
        recipe=load_recovery(None, manifest.mode).recipe.model_validate(manifest.recipe),
        source=source,
        measured=manifest.measured,
        layers_csv=(pack.folder / "layers.csv").read_bytes(),
        record=record,
    )
    with Staging(out, overwrite=False) as staging:
        writer = PackWriter(staging, "bonsai", "bonsai", pack.info, resume=False)
        try:
            for tensor in pack.info.tensors:
                if tensor.packed:
                    writer.packed(tensor, pack.layer(tensor))
                else:
                    writer.kept(tensor, pack.kept_and_rounded(tensor)[0])
            made = writer.finish(provenance)
        finally:
            writer.weights.close()
        staging.commit(writer.written(made))
    return made


if __name__ == "__main__":
    main()
