"""From noise to latents: FLUX.2 Klein's noise levels, and Euler's method along them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.storage.strict_json import read_json

Latents = NDArray[np.float32]
"""[n, rows, columns, channels]: a token per 16 x 16 pixels, mean 0 and variance 1 per channel."""

Velocity = Callable[[Latents, float, NDArray[np.float32]], Latents]
"""(latents, noise level, captions [n, tokens, width]) -> noise minus picture, like the latents."""

PIXELS = 16
"""Width and height of a token in pixels."""

SETTLED = {
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "invert_sigmas": False,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""What a scheduler's config must say for the levels here to be its own."""


def check_scheduler(pipeline: Path) -> None:
    """Refuse a pipeline whose scheduler would choose other noise levels; none means Klein's."""
    path = pipeline / "scheduler" / "scheduler_config.json"
    if not path.parent.exists():
        return
    said = read_json(path)
    if not isinstance(said, dict):
        raise BadInput("is not an object", where=str(path), hint="fetch the pipeline again")
    for key, value in SETTLED.items():
        if said.get(key, value) != value or (value is True and key not in said):
            raise Unsupported(
                f"{key} is {str(said.get(key))[:40]}, and FLUX.2 Klein's is {value}",
                where=str(path),
                hint="give a pipeline of FLUX.2 Klein",
            )


def levels(tokens: int, steps: int) -> list[float]:
    """steps + 1 noise levels from 1 to 0, for a picture of so many tokens.

    s' = e^mu / (e^mu + 1 / s - 1) for s = 1 ... 1 / steps, with Klein's empirical mu.
    """
    shift = math.exp(_mu(tokens, steps))
    even = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
    return [float(np.float32(shift / (shift + (1 / float(s) - 1)))) for s in even] + [0.0]


def _mu(tokens: int, steps: int) -> float:
    """More tokens need more noise; fitted by Black Forest Labs at 10 and at 200 steps."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return slope * steps + at_200 - 200 * slope


def walk(
    velocity: Velocity,
    noise: Latents,
    captions: NDArray[np.float32],
    sigmas: list[float],
    watch: Callable[[], None] = lambda: None,
) -> list[Latents]:
    """Every state from noise to picture; watch is called after each step."""
    states = [noise]
    for now, after in pairwise(sigmas):
        v = velocity(states[-1], now, captions)
        states.append(states[-1] + np.float32(after - now) * v)
        watch()
    return states


def foresee(states: Sequence[Latents], sigmas: Sequence[float]) -> list[Latents]:
    """The picture that each step heads for, from the states of a walk: the last is the last state.

    z = (1 - sigma) * picture + sigma * noise, so that a step on a straight line meets the picture
    at noise level 0.
    """
    steps = zip(pairwise(states), pairwise(sigmas), strict=True)
    ahead = [a + np.float32(now / (now - after)) * (b - a) for (a, b), (now, after) in steps]
    return [*ahead[:-1], states[-1]]


def guided(velocity: Velocity, empty: NDArray[np.float32], weight: float) -> Velocity:
    """Classifier-free guidance away from the empty caption [1, tokens, width]."""

    def steered(z: Latents, sigma: float, captions: NDArray[np.float32]) -> Latents:
        free = velocity(z, sigma, np.repeat(empty, len(captions), 0))
        result: Latents = free + np.float32(weight) * (velocity(z, sigma, captions) - free)
        return result

    return steered
