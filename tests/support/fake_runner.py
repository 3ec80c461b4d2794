"""A runner that paints at once and counts: `generate` without torch and without weights."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bonsai_quant.packs.pipeline import Pipeline
from tests.support.pipelines import BENCHMARK

CHANNELS = 4


class FakeRunner:
    """Velocities depend on the caption alone, pictures on the latents alone.

    painted: the seeds-and-prompts order is that of decoding, one entry for each picture.
    """

    name, computes = "fake", "float32"

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.encoded: list[list[str]] = []
        self.loads: list[str] = []
        self.steps = self.decoded = 0
        self.stop_after: int | None = None

    def encode(self, prompts, length):
        self.encoded.append(list(prompts))
        self.loads.append("encoder")
        return np.stack([np.full((length, 2), _number(p), np.float32) for p in prompts])

    def encode_images(self, images):
        return []

    @contextmanager
    def transformer(self, references=()):
        self.loads.append("transformer")

        def velocity(z, sigma, captions):
            self.steps += 1
            return z - captions[0, 0, 0]

        yield velocity

    @contextmanager
    def decoder(self):
        self.loads.append("decoder")

        def decode(z):
            if self.decoded == self.stop_after:
                raise KeyboardInterrupt
            self.decoded += 1
            flat = np.repeat(np.repeat(z[..., :3], 16, 1), 16, 2)
            return np.tanh(flat)

        yield decode

    def active_bytes(self):
        return 1


def _number(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 256


def install(monkeypatch, folder: Path) -> FakeRunner:
    """Let `generate` paint with one such runner, whatever the place; folder: its pipeline's."""
    transformer = folder / "transformer"
    transformer.mkdir(parents=True, exist_ok=True)
    (transformer / "config.json").write_text(json.dumps({"in_channels": CHANNELS}))
    (folder / "benchmark.json").write_text(json.dumps(BENCHMARK))
    (folder / "model_index.json").write_text("{}")
    runner = FakeRunner(Pipeline("fake", folder, None))
    module = "bonsai_quant.runners.generate"
    monkeypatch.setattr(
        f"{module}.locate", lambda name, pipeline=None: Pipeline(name, folder, None)
    )
    monkeypatch.setattr(f"{module}.open_runner", lambda *_: runner)
    monkeypatch.setattr(f"{module}._warn_of_long", lambda *_: None)
    monkeypatch.setattr(f"{module}.check_memory", lambda *_: None)
    return runner
