"""An sdnq pack with its pipeline, in stock diffusers with the sdnq package."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from bonsai_quant import export
from bonsai_quant.packs.find import look
from bonsai_quant.packs.pipeline import locate
from tests.support import warm

pytestmark = pytest.mark.heavy

PAINT = """
import sys, torch, sdnq
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
packed, dense = sys.argv[1:]
pipeline = Flux2KleinPipeline.from_pretrained(packed, torch_dtype=torch.float32)
pictures = []
for transformer in (pipeline.transformer,
                    Flux2Transformer2DModel.from_pretrained(dense, torch_dtype=torch.float32)):
    pipeline.transformer = transformer
    noise = torch.Generator().manual_seed(0)
    pictures.append(pipeline(prompt="a red circle", height=64, width=64, num_inference_steps=1,
                             guidance_scale=1.0, generator=noise, output_type="pt").images)
assert pictures[0].std() > 0
assert torch.equal(*pictures)
"""


@pytest.fixture(scope="module")
def whole(standin, standin_packs, tmp_path_factory):
    """A ternary pack of the stand-in as a whole pipeline."""
    out = tmp_path_factory.mktemp("sdnq") / "whole"
    export(standin_packs / "bonsai", format="sdnq", out=out, pipeline=str(standin))
    return out


def test_stock_diffusers_paints_what_the_dense_weights_paint(whole, standin_packs, tmp_path):
    pytest.importorskip("sdnq")
    export(standin_packs / "bonsai", format="unpacked", out=tmp_path / "dense")
    (tmp_path / "paint.py").write_text(PAINT)
    process = warm.Process(
        str(tmp_path / "paint.py"),
        [whole, tmp_path / "dense" / "transformer"],
        env=os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"},
    )
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_its_index_is_the_sources(whole, standin):
    theirs, ours = (json.loads((f / "model_index.json").read_text()) for f in (standin, whole))
    assert {k: ours[k] for k in theirs if k != "is_distilled"} == {
        k: v for k, v in theirs.items() if k != "is_distilled"
    }


def test_this_program_takes_it_for_a_pack_that_is_complete(whole):
    assert look(whole).format == "sdnq"
    pipeline = locate(str(whole))
    assert pipeline.pack is not None
    assert pipeline.folder == whole


def test_it_is_told_apart_from_a_checkpoint_without_its_manifest(whole, standin, tmp_path):
    shutil.copytree(whole / "transformer", tmp_path / "transformer")
    assert look(tmp_path).format == "sdnq"
    assert look(standin).format is None
