"""Level step: velocities of the packed transformer, the dense decoded one, and the source's.

Both see the same states, those on the source's own way from noise to picture (the pack's, where
there is no source), and the same captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.memory import room_for
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners import REFERENCE, open_runner
from bonsai_quant.runners.runner import Runner, start
from bonsai_quant.runners.sampling import PIXELS, Latents, Velocity, levels, walk

from .check import Check, Status
from .job import Job
from .pictures import (
    PROMPTS,
    SEEDS,
    merged_lora,
    open_runners,
    pipeline_for,
    relative_error,
    settings_of,
)

LIMITS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative error of a velocity whose weights are the same numbers.

float32: sums of up to 12,288 products in another order differ by sqrt(12,288) * 2^-24 = 7e-6 of
their size, 25 blocks one after the other by a few times that. bfloat16: the unit is 2^-8 = 4e-3,
and every block rounds several times. float16: the unit is 2^-11, an eighth of that.
"""
LEAST_COSINE = 0.5
"""Below this a velocity has lost its source.

At mini-klein's worst noise level rounding alone leaves 0.68 in binary and 0.83 in ternary, and with
the halves of the last norm exchanged 0.29 and 0.37.
"""


def check_steps(job: Job) -> list[Check]:
    """Every runner beside diffusers' own class on dense decoded weights; then the source."""
    runners, checks = open_runners(job, "step")
    if not runners:
        return checks
    pack, against = job.packs[0], job.against
    try:
        probe = Probe(pipeline_for(pack, job), runners, against)
    except BonsaiError as e:
        return [*checks, Check("step", pack.folder.name, "not run", str(e))]
    try:
        dense = probe.dense(pack)
    except BonsaiError as e:
        checks += [
            Check("step", f"{r.pipeline.name}: {r.name}", "not run", str(e)) for r in runners
        ]
        dense = []
    for runner in runners if dense else ():
        checks.append(_against_dense(runner, probe, dense))
    if against:
        velocities = dense or probe.velocities(runners[0])
        merged = merged_lora(pack, against, "step")
        checks.append(merged or _against_source(pack, against, probe, velocities, runners[0]))
    return checks


class Probe:
    """Captions, and states [n, rows, columns, channels] at each noise level, to try velocities on.

    own: the velocities there of the transformer whose states they are: the source's, or the
    pack's where there is no source.  final: where they lead.
    """

    def __init__(self, pipeline: Pipeline, runners: Sequence[Runner], against: str | None) -> None:
        self.settings = settings_of(pipeline)
        self.captions = _captions(runners, self.settings.max_sequence_length)
        noise = start(SEEDS, self.settings, pipeline.channels)
        tokens = (self.settings.height // PIXELS) * (self.settings.width // PIXELS)
        self.sigmas = levels(tokens, self.settings.num_inference_steps)
        self.states: list[Latents] = []
        self.own: list[Latents] = []
        leader = open_runner(locate(against), REFERENCE) if against else runners[0]
        with leader.transformer() as velocity:
            self.final = walk(self._recorded(velocity), noise, self.captions, self.sigmas)[-1]

    def _recorded(self, velocity: Velocity) -> Velocity:
        def recorded(z: Latents, sigma: float, captions: NDArray[np.float32]) -> Latents:
            self.states.append(z)
            self.own.append(velocity(z, sigma, captions))
            return self.own[-1]

        return recorded

    def at(self, velocity: Velocity) -> list[Latents]:
        """A transformer's velocity at every state."""
        pairs = zip(self.states, self.sigmas[:-1], strict=True)
        return [velocity(z, sigma, self.captions) for z, sigma in pairs]

    def velocities(self, runner: Runner) -> list[Latents]:
        """The velocity of a runner's transformer at every state."""
        with runner.transformer() as velocity:
            return self.at(velocity)

    def dense(self, pack: Pack) -> list[Latents]:
        """The same of diffusers' own class, with the pack's weights in float32."""
        import torch

        from bonsai_quant.runners.torch.dense import dense_transformer
        from bonsai_quant.runners.torch.runner import velocity_of

        weights = sum(t.size for t in pack.info.tensors)
        room_for(4 * weights, "the dense transformer in float32")
        model = dense_transformer(pack)
        with torch.inference_mode():
            return self.at(lambda *state: velocity_of(model, *state))

    def rollout(self, velocity: Velocity) -> Latents:
        """The latents that a transformer reaches by itself from the same noise."""
        return walk(velocity, self.states[0], self.captions, self.sigmas)[-1]


def _against_dense(runner: Runner, probe: Probe, dense: list[Latents]) -> Check:
    errors = [relative_error(a, b) for a, b in zip(probe.velocities(runner), dense, strict=True)]
    limit = LIMITS[runner.computes]
    status: Status = "passed" if max(errors) <= limit else "failed"
    return Check(
        "step",
        f"{_folder(runner.pipeline)}: {runner.name} = dense decoded in diffusers",
        status,
        f"relative error {max(errors):.1e} of the velocity at most, {runner.computes} allows "
        f"{limit:.0e}",
        {"relative_error": max(errors), "limit": limit},
    )


def _folder(pipeline: Pipeline) -> str:
    return pipeline.pack.folder.name if pipeline.pack else pipeline.name


def _captions(runners: Sequence[Runner], length: int) -> NDArray[np.float32]:
    """By the first runner that can load the text encoder: not all read every quantization."""
    for runner in runners[:-1]:
        try:
            return runner.encode(PROMPTS, length)
        except BonsaiError:
            continue
    return runners[-1].encode(PROMPTS, length)


def _against_source(
    pack: Pack, against: str, probe: Probe, velocities: list[Latents], runner: Runner
) -> Check:
    """Figures at each noise level; a failure where the velocity has nothing of the source's."""
    rows = [
        {"noise_level": sigma, "cosine": _cosine(v, own), "relative_error": relative_error(v, own)}
        for sigma, v, own in zip(probe.sigmas[:-1], velocities, probe.own, strict=True)
    ]
    with runner.transformer() as velocity:
        drift = relative_error(probe.rollout(velocity), probe.final)
    table = " | ".join(
        "{noise_level:.3f}: {cosine:.3f}, {relative_error:.3f}".format(**r) for r in rows
    )
    detail = f"noise level: cosine, relative error | {table} | "
    detail += f"its own way ends {drift:.3f} from the source's"
    lost = min(r["cosine"] for r in rows) < LEAST_COSINE
    if lost:
        detail = f"the velocity is not the source's, cosine below {LEAST_COSINE}; {detail}"
    status: Status = "failed" if lost else "measured"
    figures = {"levels": rows, "own_way": drift}
    return Check("step", f"{pack.folder.name} ~ {against}", status, detail, figures)


def _cosine(a: Latents, b: Latents) -> float:
    x, y = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) or 1.0))
