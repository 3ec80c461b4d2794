"""mini-klein's packs as diffusers loads them, with the dense model beside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bonsai_quant import export


@pytest.fixture(scope="package", params=["ternary", "binary"])
def whole(request, tmp_path_factory) -> SimpleNamespace:
    """A shipped pack as a whole pipeline for the plug-in. dense: its transformer in float32."""
    import torch
    from diffusers import Flux2Transformer2DModel

    import bonsai_quant.diffusers  # noqa: F401

    out, pack = tmp_path_factory.mktemp(request.param), f"mini-klein-{request.param}"
    export(pack, format="diffusers", out=out / "whole", pipeline="mini-klein")
    export(pack, format="unpacked", out=out / "dense")
    dense = Flux2Transformer2DModel.from_pretrained(
        out / "dense", subfolder="transformer", torch_dtype=torch.float32
    )
    return SimpleNamespace(mode=request.param, folder=out / "whole", dense=dense)


@pytest.fixture
def pipeline(whole):
    """It, loaded as anybody loads it."""
    from diffusers import Flux2KleinPipeline

    pipe = Flux2KleinPipeline.from_pretrained(whole.folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def paint(pipeline):
    """paint(transformer) -> a picture of one seed [1, 3, 64, 64] in 0..1."""
    import torch

    def call(transformer=None):
        held = pipeline.transformer
        pipeline.transformer = transformer or held
        made = pipeline(
            prompt="a red circle", height=64, width=64, num_inference_steps=2, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0), output_type="pt", max_sequence_length=32,
        ).images  # fmt: skip
        pipeline.transformer = held
        return made

    return call
