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
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.runner import Runner, start
from bonsai_quant.runners.sampling import PIXELS, Latents, Velocity, levels, walk

from .check import Check, Status
from .pictures import PROMPTS, SEEDS, apart, merged_away, place_of, runners, settings_of

LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative error of a velocity whose weights are the same numbers.

float32: sums of up to 12,288 products in another order differ by sqrt(12,288) * 2^-24 = 7e-6 of
their size, 25 blocks one after the other by a few times that. bfloat16: the unit is 2^-8 = 4e-3,
and every block rounds several times.
"""
LEAST_COSINE = 0.5
"""Below this a velocity has lost its source.

At mini-klein's worst noise level rounding alone leaves 0.68 in binary and 0.83 in ternary, and with
the halves of the last norm exchanged 0.29 and 0.37.
"""


def check_steps(
    packs: Sequence[Pack], backends: Sequence[str], pipeline: str | None, against: str | None
) -> list[Check]:
    """Every backend against stock diffusers on dense decoded weights; then against the source."""

    def find(pack: Pack) -> Pipeline:
        return place_of(pack, pipeline, against)

    able, checks = runners(packs, backends, find, "step")
    if not able:
        return checks
    try:
        probe = Probe(find(packs[0]), able, against)
    except BonsaiError as e:
        return [*checks, Check("step", packs[0].folder.name, "not run", str(e))]
    try:
        dense = probe.dense(packs[0])
    except BonsaiError as e:
        checks += [Check("step", f"{r.place.name}: {r.name}", "not run", str(e)) for r in able]
        dense = []
    for runner in able if dense else ():
        checks.append(_agrees(runner, probe, dense))
    if against and able:
        got = dense or probe.velocities(able[0])
        merged = merged_away(packs[0], against, "step")
        checks.append(merged or _against_source(packs[0], against, probe, got, able[0]))
    return checks


class Probe:
    """Captions, and states [n, rows, columns, channels] at each noise level, to try velocities on.

    own: the velocities there of the transformer whose states they are: the source's, or the
    pack's where there is no source.  final: where they lead.
    """

    def __init__(self, place: Pipeline, able: Sequence[Runner], against: str | None) -> None:
        self.settings = settings_of(place)
        self.captions = _captions(able, self.settings.max_sequence_length)
        noise = start(SEEDS, self.settings, place.channels)
        tokens = (self.settings.height // PIXELS) * (self.settings.width // PIXELS)
        self.sigmas = levels(tokens, self.settings.num_inference_steps)
        self.states: list[Latents] = []
        self.own: list[Latents] = []
        leader = open_runner(locate(against), "torch") if against else able[0]
        with leader.transformer() as velocity:
            self.final = walk(self._noting(velocity), noise, self.captions, self.sigmas)[-1]

    def _noting(self, velocity: Velocity) -> Velocity:
        def noted(z: Latents, sigma: float, captions: NDArray[np.float32]) -> Latents:
            self.states.append(z)
            self.own.append(velocity(z, sigma, captions))
            return self.own[-1]

        return noted

    def at(self, velocity: Velocity) -> list[Latents]:
        """What a transformer says at every state."""
        levels_of = zip(self.states, self.sigmas[:-1], strict=True)
        return [velocity(z, sigma, self.captions) for z, sigma in levels_of]

    def velocities(self, runner: Runner) -> list[Latents]:
        """What a runner's transformer says at every state."""
        with runner.transformer() as velocity:
            return self.at(velocity)

    def dense(self, pack: Pack) -> list[Latents]:
        """What diffusers' own class says with the pack's weights in float32."""
        import torch

        from bonsai_quant.runners.torch.dense import dense_transformer
        from bonsai_quant.runners.torch.runner import velocity_of

        weights = sum(t.size for t in pack.info.tensors)
        room_for(4 * weights, "the dense transformer in float32")
        model = dense_transformer(pack)
        with torch.inference_mode():
            return self.at(lambda *state: velocity_of(model, *state))

    def rollout(self, velocity: Velocity) -> Latents:
        """Where a transformer's own way leads from the same noise."""
        return walk(velocity, self.states[0], self.captions, self.sigmas)[-1]


def _agrees(runner: Runner, probe: Probe, dense: list[Latents]) -> Check:
    errors = [apart(a, b) for a, b in zip(probe.velocities(runner), dense, strict=True)]
    limit = LIMITS[runner.computes]
    status: Status = "passed" if max(errors) <= limit else "failed"
    return Check(
        "step",
        f"{_folder(runner.place)}: {runner.name} = dense decoded in diffusers",
        status,
        f"relative error {max(errors):.1e} of the velocity at most, {runner.computes} allows "
        f"{limit:.0e}",
        {"relative_error": max(errors), "limit": limit},
    )


def _folder(place: Pipeline) -> str:
    return place.pack.folder.name if place.pack else place.name


def _captions(able: Sequence[Runner], length: int) -> NDArray[np.float32]:
    """By the first runner that can load the text encoder: not all read every quantization."""
    for runner in able[:-1]:
        try:
            return runner.encode(PROMPTS, length)
        except BonsaiError:
            continue
    return able[-1].encode(PROMPTS, length)


def _against_source(
    pack: Pack, against: str, probe: Probe, got: list[Latents], runner: Runner
) -> Check:
    """Figures at each noise level; a failure where the velocity has nothing of the source's."""
    rows = [
        {"noise_level": sigma, "cosine": _cosine(mine, own), "relative_error": apart(mine, own)}
        for sigma, mine, own in zip(probe.sigmas[:-1], got, probe.own, strict=True)
    ]
    with runner.transformer() as velocity:
        drift = apart(probe.rollout(velocity), probe.final)
    told = " | ".join(
        "{noise_level:.3f}: {cosine:.3f}, {relative_error:.3f}".format(**r) for r in rows
    )
    detail = f"noise level: cosine, relative error | {told} | "
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
