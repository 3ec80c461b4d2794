"""The commands that make a pack again, as a shell takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import yaml

from bonsai_quant.core.shell import command_line
from bonsai_quant.core.version import TOOL
from bonsai_quant.quantization.solvers import CALIBRATED

from .deployment import DEPLOYMENTS
from .manifest import Manifest
from .provenance_record import (
    CalibrationStage,
    FoldingStage,
    PromptsRecord,
    ProvenanceRecord,
    RecipeRecord,
    RoundingStage,
    TrainingStage,
)
from .source_record import SourceRecord

OUT = "packs"


def rebuild(manifest: Manifest | None, source: str | None = None) -> str:
    """The commands that make a pack again, one a line; "" where nobody says how it was made.

    A recipe that does not ship is written first.  source: where the manifest does not name it.
    What a user has to bring is named by its file: prompts, LoRAs, and CALIBRATION or PACK where
    nothing tells how these were made.
    """
    if manifest is None or not manifest.source.files:
        return ""
    record = manifest.provenance
    if record is None:
        return _Commands(_place(manifest.source, source)).convert(manifest).text()
    commands = _Commands(_place(record.source, source))
    if record.recovery is not None:
        return commands.recover(manifest, record, record.recovery).text()
    return commands.steps(manifest, record).text()


def needed_files(record: ProvenanceRecord | None) -> list[PromptsRecord]:
    """The users' lists of prompts that the commands name, each once."""
    prompts = [s.prompts for s in (record.stages if record else ())
               if isinstance(s, CalibrationStage | TrainingStage)]  # fmt: skip
    return list({p.file: p for p in prompts if p.file}.values())


def _place(record: SourceRecord, source: str | None) -> str:
    name = f"{record.id}@{record.revision}" if record.id and record.revision else record.id
    return name or source or "SOURCE"


class _Commands:
    """Lines for a shell, one after another. place: the source of the next command."""

    def __init__(self, place: str) -> None:
        self.place, self.lines = place, list[str]()
        self.origin, self.trained = place, ""
        self.calibration, self.start = "CALIBRATION", "PACK"
        self.files: dict[str, str] = {}
        self.folders: set[str] = set()

    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def recover(
        self, manifest: Manifest, record: ProvenanceRecord, recipe: RecipeRecord
    ) -> _Commands:
        """One command for all stages."""
        words = ["recover", self.place, "--recipe", self._recipe(recipe)]
        given = [s for s in record.stages if isinstance(s, CalibrationStage | TrainingStage)]
        for stage in given[-1:]:
            words += _chosen(stage.prompts, stage.seed)
        return self._add(*words, "--format", manifest.format, "-o", OUT)

    def steps(self, manifest: Manifest, record: ProvenanceRecord) -> _Commands:
        """A command for each stage, and one that packs."""
        stages = list(record.stages)
        if stages and isinstance(stages[-1], RoundingStage):
            stages.pop()  # that is the last command, in the manifest's own format
        for at, stage in enumerate(stages):
            if isinstance(stage, CalibrationStage):
                self._calibrate(stage, _layers_of(record.stages[at + 1 :]))
            elif isinstance(stage, FoldingStage):
                self._fold(stage)
            elif isinstance(stage, TrainingStage):
                self._train(stage)
            else:
                self._round(stage)
        return self.convert(manifest)

    def convert(self, manifest: Manifest) -> _Commands:
        """The conversion that the manifest itself is about."""
        parts = manifest.source.parts or manifest.format not in DEPLOYMENTS
        words = ["convert", self.place, *self._rounding(manifest.recipe, manifest.mode)]
        if manifest.calibration:
            words += ["--calibration", self.calibration]
        for lora in manifest.source.lora:
            words += ["--lora", f"{lora.name}:{lora.scale:g}"]
        words += ["--format", manifest.format, *([] if parts else ["--transformer-only"])]
        return self._add(*words, "-o", OUT)

    def _calibrate(self, stage: CalibrationStage, recipe: dict[str, Any] | None) -> None:
        words = ["calibrate", self.place]
        words += ["--mode", stage.mode] if stage.mode else []
        words += self._layers(recipe) if recipe else []
        words += ["--solver", stage.solver] if stage.solver else []
        for flag, n in (("--n-prompts", stage.n_prompts), ("--at-once", stage.at_once)):
            words += [] if n is None else [flag, str(n)]
        self.calibration = self._folder("calibration")
        self._add(*words, *_chosen(stage.prompts, stage.seed), "-o", self.calibration)

    def _fold(self, stage: FoldingStage) -> None:
        folder, moves = self._folder("folded"), ",".join(stage.moves)
        self._add("fold", self.place, "--calibration", self.calibration, "--moves", moves,
                  "-o", folder)  # fmt: skip
        self.place, self.calibration = folder, "CALIBRATION"

    def _round(self, stage: RoundingStage) -> None:
        words = ["convert", self.place, *self._rounding(stage.recipe, str(stage.recipe["mode"]))]
        if stage.recipe.get("solver") in CALIBRATED:
            words += ["--calibration", self.calibration]
        self.start = self._folder("rounded")
        self._add(*words, "--format", "bonsai", "-o", self.start)

    def _train(self, stage: TrainingStage) -> None:
        if self.trained and stage.start:  # it begins with what an earlier training gave
            self.start = self._folder("rounded")
            self._add("convert", self.trained, "--mode", stage.mode, "--format", "bonsai",
                      "-o", self.start)  # fmt: skip
            self.place = self.origin
        command, folder = ("tune", "tuned") if stage.kind == "tuning" else ("distill", "trained")
        words = [command, self.place, "--recipe", self._recipe(stage.recipe)]
        words += ["--start", self.start] if stage.start else []
        folder = self._folder(folder)
        self._add(*words, *_chosen(stage.prompts, stage.seed), "-o", folder)
        self.origin, self.place = self.place, folder
        self.trained, self.calibration, self.start = folder, "CALIBRATION", "PACK"

    def _rounding(self, recipe: dict[str, Any], mode: str) -> list[str]:
        return ["--mode", mode, "--solver", str(recipe.get("solver", "exact")),
                *self._layers(recipe)]  # fmt: skip

    def _layers(self, recipe: dict[str, Any]) -> list[str]:
        """A recipe is needed where it treats layers in different ways, and for nothing else."""
        if not recipe.get("layers"):
            return []
        rules = {"mode": recipe["mode"], "layers": recipe["layers"]}
        return ["--recipe", self._file("layers.yaml", rules)]

    def _recipe(self, record: RecipeRecord) -> str:
        return record.name if record.content is None else self._file(record.name, record.content)

    def _file(self, name: str, content: dict[str, Any]) -> str:
        """Write a recipe, once; -> its name."""
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
        plain = name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) else "recipe.yaml"
        chosen = next(n for n in _names(plain) if self.files.get(n, text) == text)
        if chosen not in self.files:
            self.files[chosen] = text
            lines = text.splitlines()
            end = next(e for e in _names("END") if e not in lines)
            self.lines += [f"cat > {chosen} << '{end}'", *lines, end]
        return chosen

    def _folder(self, name: str) -> str:
        """A folder's name that no earlier command has."""
        chosen = next(n for n in _names(name) if n not in self.folders)
        self.folders.add(chosen)
        return chosen

    def _add(self, *words: str) -> _Commands:
        self.lines.append(command_line(TOOL, *words))
        return self


def _names(name: str) -> Iterator[str]:
    """NAME, NAME-2, NAME-3 ..."""
    yield name
    yield from (f"{name}-{i}" for i in count(2))


def _chosen(prompts: PromptsRecord, seed: int) -> list[str]:
    """The options that differ from the defaults."""
    words = ["--prompts", prompts.file] if prompts.file else []
    return [*words, "--seed", str(seed)] if seed else words


def _layers_of(later: list[Any]) -> dict[str, Any] | None:
    """The recipe of the rounding that a calibration is for."""
    return next((s.recipe for s in later if isinstance(s, RoundingStage)), None)
