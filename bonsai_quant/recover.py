"""From a source to a recovered pack in one call: train as a recipe says, then convert."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .convert import Converted, check_free, convert
from .distill import distill
from .errors import UsageError
from .recovery import load_recovery
from .schema import DEFAULT_FORMATS, Progress, no_progress
from .settings import DEFAULT_SOURCE


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was made. trained: the pipeline between, already on the grid of the packs."""

    trained: Path
    packs: Converted


def recover(
    source: str = DEFAULT_SOURCE,
    *,
    recipe: str | Path,
    out: str | Path,
    formats: Sequence[str] | str = DEFAULT_FORMATS,
    prompts: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Recovered:
    """Distil a source into `<OUT>-trained` and pack that, without any loss, into OUT.

    The arguments are those of `distill` and `convert`. With `resume`, a training that is already
    finished is packed as it is.
    """
    said = load_recovery(recipe, None)
    if said.distillation is None:
        raise UsageError(
            "trains nothing: it has no `distillation`", where=str(recipe), hint="use `convert`"
        )
    packs, trained = Path(out), Path(f"{Path(out)}-trained")
    check_free(packs, overwrite=overwrite)
    if not (resume and os.path.lexists(trained)):
        distill(
            source, recipe=recipe, out=trained, prompts=prompts, seed=seed, overwrite=overwrite,
            resume=resume, progress=progress,
        )  # fmt: skip
    made = convert(
        str(trained), recipe=said.recipe, out=packs, formats=formats, overwrite=overwrite
    )
    return Recovered(trained, made)
