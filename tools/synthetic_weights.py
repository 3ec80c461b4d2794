"""Random weights that look like trained ones: rows and columns of different size, heavy tails.

A tensor's numbers depend only on (seed, its name, its shape).
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import torch

GAIN = 1.4  # times 1/sqrt(fan_in): std 0.025 at 3072 inputs, as in trained transformers
SPREAD = 0.3  # sigma of the lognormal row and column scales
CHUNK = 1 << 22  # weights drawn at a time; another value draws other weights


def draw_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """One tensor: [n] norm weights of about 1, or an [out, in] matrix."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest, "little")))
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * rng.standard_normal(shape)).to(dtype)
    return _draw_matrix(rng, shape[0], shape[1], dtype)


def _draw_matrix(
    rng: np.random.Generator, n_out: int, n_in: int, dtype: torch.dtype
) -> torch.Tensor:
    """weight = row scale x column scale x heavy-tailed noise: [out, in], rms GAIN / sqrt(in)."""
    rows = _unit_rms(np.exp(SPREAD * rng.standard_normal(n_out)))
    cols = np.exp(SPREAD * rng.standard_normal(n_in))
    loud = rng.choice(n_in, size=max(1, n_in // 512), replace=False)
    cols[loud] *= rng.uniform(4, 8, len(loud))  # trained models have a few such input channels
    cols = _unit_rms(cols) * np.float32(GAIN / np.sqrt(n_in))
    weight = torch.empty(n_out, n_in, dtype=dtype)
    step = max(1, CHUNK // n_in)
    for start in range(0, n_out, step):
        noise = rng.standard_normal((min(step, n_out - start), n_in), dtype=np.float32)
        tails = rng.integers(0, 1 << 16, noise.shape, dtype=np.uint16)
        noise *= _tail_factors().take(tails, mode="wrap")
        noise *= rows[start : start + step, None]
        weight[start : start + step] = torch.from_numpy(noise * cols)
    return weight


@cache
def _tail_factors() -> np.ndarray:
    """Equally likely factors that make normals half Gaussian, half Student t6: [65536] float32.

    t = z sqrt(6/x) with x chi-square of 6 degrees, whose CDF is 1 - e^-h (1 + h + h^2/2), h = x/2.
    """
    x = np.linspace(0, 80, 800_001)
    cdf = 1 - np.exp(-x / 2) * (1 + x / 2 + x**2 / 8)
    student = np.sqrt(6 / np.interp((np.arange(1 << 15) + 0.5) / (1 << 15), cdf, x))
    return _unit_rms(np.concatenate([np.ones(1 << 15), student]))


def _unit_rms(scales: np.ndarray) -> np.ndarray:
    """The same scales [n] with a mean square of 1, float32."""
    return (scales / np.sqrt(np.mean(scales**2))).astype(np.float32)
