"""Whole transformers on the device "meta", in a GPU's place: every line runs, and shapes fit.

No numbers, and a product does not mind a factor that was left on the CPU: the result tells where
the last one was, and what dtype it had.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.gemlite import rule
from bonsai_quant.runners.gemlite.linear import from_pack
from bonsai_quant.runners.torch.packed_linear import PackedLinear
from bonsai_quant.runners.torch.transformer import filled_transformer, packed_transformer

pytestmark = pytest.mark.heavy
META, HALF = torch.device("meta"), torch.bfloat16


def velocity(model):
    with torch.inference_mode():
        half = {"device": META, "dtype": HALF}
        return nn.Module.to(model, META, HALF)(
            hidden_states=torch.zeros(1, 4, 64, **half),
            encoder_hidden_states=torch.zeros(1, 3, 192, **half),
            timestep=torch.full((1,), 0.5, **half),
            img_ids=torch.zeros(4, 4, device=META),
            txt_ids=torch.zeros(3, 4, device=META),
            return_dict=False,
        )[0]


def gemlites(pack):
    return filled_transformer(pack, lambda p, t: from_pack(p, t, HALF, META, Counter()))


@pytest.mark.parametrize("make", [packed_transformer, gemlites])
def test_a_transformer_runs_on_a_device(make, standin_packs, monkeypatch):
    monkeypatch.setenv(rule.VARIABLE, "0")
    v = velocity(make(open_pack(standin_packs / "bonsai")))
    assert (v.shape, v.dtype, v.device) == ((1, 4, 64), HALF, META)


def test_a_weight_of_another_width_would_be_seen(standin_packs, monkeypatch):
    def narrow(self, start, stop):
        return torch.zeros(stop - start, self.in_features - 1, device=META)

    monkeypatch.setattr(PackedLinear, "rows", narrow)
    with pytest.raises(RuntimeError, match="same reduction dim"):
        velocity(packed_transformer(open_pack(standin_packs / "bonsai")))
