"""Every fault of a packed layer, planted in every layer of the packs that ship: how many are found.

The figures stand in docs/running.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bonsai_quant.conversion.plan import plan
from bonsai_quant.packs.read import open_pack
from bonsai_quant.sources.shipped import DATA
from bonsai_quant.verification.likeness import limits, packed
from tests.support import damage

pytestmark = pytest.mark.slow
FAULTS = damage.ALONE | {
    "1 % of the codes changed": damage.change_codes(0.01),
    "20 % of the codes changed": damage.change_codes(0.2),
}
FOUND = {
    ("ternary", "1 % of the codes changed"): 30,
    ("binary", "1 % of the codes changed"): 0,
    ("binary", "scales of a row halved"): 22,
    ("binary", "two groups exchanged"): 31,
}
"""Of 32 layers; of any other fault, all."""


class Damaged:
    """A pack whose layers are other ones."""

    def __init__(self, pack, name, layer) -> None:
        self.info, self._pack, self._name, self._layer = pack.info, pack, name, layer

    def layer(self, tensor):
        """The damaged one."""
        assert tensor.linear == self._name
        right = self._pack.layer(tensor)
        return replace(
            right, codes=damage.pack_codes(self._layer.codes, right.bits), scales=self._layer.scales
        )


def found(pack, planned, change, median) -> bool:
    name = planned.tensor.linear
    layer = damage.read(pack, name)
    change(layer, np.random.default_rng(1))
    seen = packed.judge(Damaged(pack, name, layer), planned)
    least, most = limits.LAYER_SHARE
    return bool(seen.problem) or not least <= seen.share / median <= most


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_a_fault_in_every_layer(mode, fault):
    pack = open_pack(DATA / f"mini-klein-{mode}")
    tensors = plan("mini-klein", mode=mode, transformer_only=True).tensors
    layers = [t for t in tensors if t.tensor.packed]
    median = float(np.median([packed.judge(pack, t).share for t in layers]))
    if fault == "transposed":
        layers = [t for t in layers if t.tensor.shape[0] == t.tensor.shape[1]]
    n = sum(found(pack, t, FAULTS[fault], median) for t in layers)
    assert n == FOUND.get((mode, fault), len(layers))
