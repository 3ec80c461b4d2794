"""What every training run shares: resumable state, a curve on disk, a progress bar."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

SAVE_EVERY = 120.0
"""Seconds between checkpoints."""


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Run:
    """One training run in one folder: `state.pt` to go on from, and `curve.csv`.

    parts: everything with a `state_dict`: models, optimizers, averages.
    A run that is killed goes on from its last checkpoint, with the same random numbers, since
    those of a step depend on the seed and the step alone.
    """

    def __init__(self, folder: Path, steps: int, seed: int, **parts: torch.nn.Module) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.steps, self.seed, self.parts = folder, steps, seed, parts
        self.step, self.spent, self._recent = 0, 0.0, {}
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", map_location=device(), weights_only=True)
            self.step, self.spent = state["step"], state["spent"]
            for name, part in parts.items():
                part.load_state_dict(state[name])

    def __iter__(self) -> Iterator[int]:
        """Each step that is left, saving on the way; seeds torch's generator for each."""
        saved = started = time.monotonic()
        before = self.spent
        bar = tqdm(total=self.steps, initial=self.step, desc=self.folder.name, mininterval=5)
        while self.step < self.steps:
            torch.manual_seed(self.seed * 1_000_003 + self.step)
            yield self.step
            self.step += 1
            bar.update()
            now = time.monotonic()
            self.spent = before + now - started
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
        bar.close()
        self.save()

    def ends_round(self, every: int) -> bool:
        """Whether the step that is being taken ends a round of so many, or the run."""
        done = self.step + 1
        return done % every == 0 or done == self.steps

    def save(self) -> None:
        """Write the state under another name first, so that a kill leaves a whole one."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        part = self.folder / "state.part"
        torch.save(state | {"step": self.step, "spent": self.spent}, part)
        os.replace(part, self.folder / "state.pt")

    def note(self, *, every: int = 50, **values: torch.Tensor | float) -> None:
        """Add to the running means; write a row of the curve now and then."""
        for name, value in values.items():
            self._recent.setdefault(name, []).append(
                float(value.detach() if isinstance(value, torch.Tensor) else value)
            )
        if (self.step + 1) % every == 0:
            row = {name: f"{sum(v) / len(v):.5f}" for name, v in self._recent.items()}
            self.write("curve.csv", step=self.step + 1, seconds=f"{self.spent:.0f}", **row)
            self._recent.clear()

    def write(self, name: str, **row: object) -> None:
        """Append a row to a CSV file of the run."""
        path = self.folder / name
        new = not path.exists()
        with path.open("a", newline="") as f:
            w = csv.DictWriter(f, row)
            if new:
                w.writeheader()
            w.writerow(row)


def schedule(steps: int, *, warm: int = 100, fall: float = 0.4) -> Callable[[int], float]:
    """Share of the full learning rate at a step: up, level, and down in the last part, `fall`."""

    def share(step: int) -> float:
        up = (step + 1) / warm
        down = (steps - step) / (fall * steps)
        return min(1.0, up, down)

    return share
