"""What is taken for bytes of another dtype, and what error feedback may do to weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.value_checks import check_plausible
from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import LayerStats, StoredTensor, TensorSpec

SHAPE = (2, 128)
STORED = StoredTensor(TensorSpec("proj.weight", "BF16", SHAPE), Path("model.safetensors"), 0)
PLANNED = SimpleNamespace(
    pieces=(SimpleNamespace(stored=STORED),), tensor=SimpleNamespace(size=2 * 128)
)
FAR_OFF = LayerStats(
    "proj.weight", SHAPE, "binary", 512, 36, energy=2.56, relative_error=0.99, sqnr_db=0.1,
    cosine=0.2, zero_share=0.0, scale_min=0.001, scale_max=0.5, groups_below_grid=0,
)  # fmt: skip


def check(guided: bool) -> None:
    sums = np.full((2, 5), 1.28)
    check_plausible(FAR_OFF, sums, PLANNED, Checks(), blank=False, guided=guided)


def test_rounding_that_leaves_nothing_tells_of_another_dtype():
    with pytest.raises(BadInput, match="is BF16 its true dtype"):
        check(guided=False)


def test_error_feedback_may_move_weights_as_far_as_they_are_large():
    check(guided=True)
