"""What decides a conversion: the options that `plan`, `convert` and their commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.recipe import Recipe
from bonsai_quant.packs.formats import DEFAULT_FORMATS


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Everything but the source and the output folder. The defaults are those of the command line.

    mode, solver: override the recipe.
    recipe: a file, a shipped recipe's name, or a recipe; `klein-4b-<mode>` when None.
    calibration: a folder that `calibrate` wrote, for the solvers that need one.
    lora: FILE or FILE:SCALE each, added to the weights before they are solved.
    lora_partial: leave out what those files hold for other models, such as the text encoder.
    formats: names, or one text with commas.
    revision: branch, tag or commit on the Hub.
    threads: all cores when None.
    max_memory: bytes that must be enough.
    strict: warnings about the source's index are errors.
    transformer_only: leave the pipeline's other components out of the packs.
    """

    mode: str | None = None
    recipe: str | Path | Recipe | None = None
    solver: str | None = None
    calibration: str | Path | None = None
    lora: Sequence[str] | str = ()
    lora_partial: bool = False
    formats: Sequence[str] | str = DEFAULT_FORMATS
    revision: str | None = None
    threads: int | None = None
    max_memory: int | None = None
    strict: bool = False
    transformer_only: bool = False
