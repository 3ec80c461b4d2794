"""How alike two pictures are to the eye: structural similarity.

On pictures of mini-klein, SSIM orders a rounded pack's pictures by whether the checker passes them
better than FLIP does; see docs/how-to/compare.md for the figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.requirements import LIKENESS, missing

WINDOW = 11
"""Pixels of a side of the Gaussian window that torchmetrics compares by."""


def no_ssim(shape: tuple[int, ...]) -> str:
    """Why `ssim` cannot be measured of pictures [height, width], or ''."""
    if problem := missing(LIKENESS):
        return problem
    return "" if min(shape) >= WINDOW else "the pictures are too small"


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> list[float]:
    """Structural similarity (Wang et al., 2004) of pictures [n, height, width, 3]: 1 where equal.

    The mean over the three colours, with a Gaussian window of 1.5 pixels.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(p.astype(np.float32) / 255).permute(0, 3, 1, 2) for p in (a, b))
    values = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    return [round(float(v), 6) for v in values]
