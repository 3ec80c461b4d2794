"""The stages of a pack in words, for its card and for whoever reads the answers of commands."""

from __future__ import annotations

from .provenance_record import (
    CalibrationStage,
    FoldingStage,
    ProvenanceRecord,
    Stage,
    TrainingStage,
)


def stage_words(stage: Stage) -> str:
    """What one stage did, in a line."""
    if isinstance(stage, CalibrationStage):
        behind = (
            f"behind {stage.mode} layers by `{stage.solver}`"
            if stage.solver
            else ("in full precision")
        )
        return (
            f"inputs of the layers on {stage.prompts.number} prompts, {behind}, "
            f"seed {stage.seed}; sha256 `{stage.sha256}`"
        )
    if isinstance(stage, FoldingStage):
        return f"the source rewritten to round better: {', '.join(stage.moves)}"
    if isinstance(stage, TrainingStage):
        return _training(stage)
    return f"by the solver `{stage.recipe.get('solver', 'exact')}`"


def _training(stage: TrainingStage) -> str:
    what = "scales and kept tensors: " if stage.kind == "tuning" else ""
    text = (
        f"{what}{stage.updates:,} updates of {stage.batch} states, "
        f"{stage.prompts.number:,} prompts, seed {stage.seed}; "
        f"recipe `{stage.recipe.name}`, sha256 `{stage.recipe.sha256}`"
    )
    if stage.held_out and "error" in stage.held_out:
        text += f"; error on held-out prompts {stage.held_out['error']:.4f}"
    return text


def sameness(record: ProvenanceRecord | None) -> str:
    """What it takes to get the same codes again; "" where any machine gives them."""
    computed = [s for s in (record.stages if record else ())
                if isinstance(s, CalibrationStage | TrainingStage)]  # fmt: skip
    if not computed:
        return ""
    text = (
        "Training and calibration add up numbers, and the order decides their last bits: the same "
        "codes need the same version of torch, the same kind of processor and the same number of "
        "threads"
    )
    known = computed[-1].compute
    if known is None:
        return f"{text}. Which these were is not recorded."
    where = f"a CPU with {known.instructions}" if known.device == "cpu" else known.device
    many = f" in each of {known.processes} processes" if known.processes > 1 else ""
    return f"{text}. Here: torch {known.torch}, {where}, {known.threads} threads{many}."
