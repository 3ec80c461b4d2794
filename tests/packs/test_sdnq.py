"""An sdnq pack as a whole pipeline. What stock diffusers paints: see test_text_encoder."""

from __future__ import annotations

import json
import shutil

import pytest

from bonsai_quant import export
from bonsai_quant.packs.find import look
from bonsai_quant.packs.pipeline import locate

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def whole(standin, standin_packs, tmp_path_factory):
    """A ternary pack of the stand-in as a whole pipeline."""
    out = tmp_path_factory.mktemp("sdnq") / "whole"
    export(standin_packs / "bonsai", format="sdnq", out=out, pipeline=str(standin))
    return out


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
