"""Update after update, with validations and checkpoints between them, until the end or a stop."""

from __future__ import annotations

import logging
from time import monotonic

from bonsai_quant.core.progress import Progress
from bonsai_quant.core.stopping import Stopped, StopRequest, stopping_by_itself

from .run_files import RunFiles
from .trainer import Trainer
from .validation import Validation

log = logging.getLogger(__name__)


def train(
    trainer: Trainer,
    validation: Validation,
    run_files: RunFiles,
    save_every: float,
    progress: Progress,
) -> None:
    """Take every update that is left.

    save_every: seconds between checkpoints. A stop writes one, too, and then raises `Stopped`: the
    update in progress is taken to its end first, and a validation that it calls for is left to the
    run that goes on.
    """
    settings, saved = trainer.settings, monotonic()
    progress.phase("training", settings.steps, "updates")
    progress.advance(trainer.step)
    held_out = ""
    with stopping_by_itself() as request:
        while True:
            if _validation_is_due(trainer, run_files):
                held_out = _validate(trainer, validation, run_files)
            if trainer.step == settings.steps:
                return
            loss = trainer.update()
            run_files.curve.add(trainer.step, loss=loss, **trainer.rates())
            progress.note(f"loss {loss:.4f}{held_out}")
            progress.advance()
            if trainer.processes.agree(request.asked or monotonic() - saved > save_every):
                run_files.keep(trainer)
                saved = monotonic()
                _stop_if_asked(request, trainer)


def _stop_if_asked(request: StopRequest, trainer: Trainer) -> None:
    """The first process decides for all, since a signal does not reach them at the same time."""
    if not trainer.processes.agree(request.asked):
        return
    reached = f"stopped at update {trainer.step:,} of {trainer.settings.steps:,}"
    raise Stopped(request.code, reached if trainer.processes.first else "")


def _validation_is_due(trainer: Trainer, run_files: RunFiles) -> bool:
    """At the start, every so many updates and at the end, once each."""
    step, settings = trainer.step, trainer.settings
    due = step % settings.validate_every == 0 or step == settings.steps
    return due and all(row["step"] != step for row in run_files.held_out.rows)


def _validate(trainer: Trainer, validation: Validation, run_files: RunFiles) -> str:
    """Measure on the held-out prompts; -> the figures behind a comma, to be shown."""
    figures = validation.measure(trainer)
    run_files.held_out.add(trainer.step, **figures)
    run_files.draw()
    if trainer.processes.first:
        text = ", ".join(f"{k} {v:.4f}" for k, v in figures.items())
        log.info("after %d updates: held-out %s", trainer.step, text)
    return f", held-out {next(iter(figures.values())):.4f}"
