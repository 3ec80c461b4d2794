"""The packs that ship say how they were made, as far as it is known, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bonsai_quant.packs.card import render_card
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.quality import kept_by
from bonsai_quant.sources.shipped import DATA, PACKS
from bonsai_quant.storage import fs
from bonsai_quant.training.recipe import load_recovery, recipe_record

TRANSFORMER = DATA / "mini-klein/transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(params=PACKS)
def pack(request):
    return require_packs(DATA / request.param)[0]


def test_they_name_the_source_that_ships_and_their_recipe(pack):
    record = pack.manifest.provenance
    assert record.source.id == "mini-klein"
    (file,) = record.source.files
    assert (file.size, file.sha256) == fs.sha256_file(TRANSFORMER)
    name = f"mini-klein-{pack.manifest.mode}"
    recovery = load_recovery(name, None)
    assert record.recovery == recipe_record(name, recovery) == record.training.recipe
    assert record.training.settings == recovery.distillation.model_dump(mode="json", by_alias=True)


def test_their_errors_are_those_of_their_codes(pack):
    from tests.support.weights import decoded, of_source

    record, stored, error, energy = pack.manifest.provenance, of_source(DATA / "mini-klein"), 0, 0
    for name, weights in decoded(pack.path).items():
        e, w = (float(np.square(x).sum()) for x in (stored[name] - weights, stored[name]))
        assert record.layers[name] == pytest.approx(math.sqrt(e / w), abs=1e-6)
        error, energy = error + e, energy + w
    assert record.relative_error == pytest.approx(math.sqrt(error / energy), abs=1e-6)


def test_their_cards_quote_the_measured_share_and_the_note(pack):
    card = render_card(pack.manifest)
    assert f"{100 * kept_by(pack.manifest.mode, 'trained').value:.1f} %" in card
    assert pack.manifest.provenance.note in card
    assert f"recover mini-klein --recipe mini-klein-{pack.manifest.mode}" in card
    assert "The same codes and scales" not in card  # nobody has seen that they do
