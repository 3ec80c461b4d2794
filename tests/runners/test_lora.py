"""LoRAs beside a pack's weights: the picture of the merged weights, and errors by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bonsai_quant import generate
from bonsai_quant.core.errors import BadInput, OutputExists, Unsupported, UsageError
from bonsai_quant.packs.picture_facts import shown_facts
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from tests.docs.conftest import SIZES
from tests.support import loras

pytestmark = pytest.mark.heavy

MODEL = SIZES["standin"]
CIRCLE = "a red circle"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two LoRAs, as kohya and as diffusers write them, and what they hold."""
    folder = tmp_path_factory.mktemp("loras")
    first = loras.pairs(MODEL, seed=1, only=loras.in_blocks)
    second = loras.pairs(MODEL, seed=2)
    fused = loras.original(first, MODEL)
    kohya = loras.spelled(fused, "lora_unet_", loras.DOWN_UP, loras.ALPHA, flat=True)
    loras.save(folder / "first.safetensors", kohya)
    loras.STYLES["diffusers"](folder / "second.safetensors", second)
    return folder, first, second


@pytest.fixture
def paint(standin, standin_packs, tmp_path):
    """paint(name, **options) -> the picture of one seed, and its file."""

    def call(name="a.png", **options):
        generate(standin_packs / "bonsai", [CIRCLE], out=tmp_path / name, pipeline=str(standin),
                 **options)  # fmt: skip
        return np.asarray(Image.open(tmp_path / name)), tmp_path / name

    return call


def psnr(one, other):
    error = np.square((one.astype(float) - other) / 255).mean()
    return np.inf if error == 0 else -10 * np.log10(error)


def test_the_picture_is_that_of_the_merged_weights(standin, standin_packs, files, paint):
    folder, first, second = files
    plain, _ = paint("plain.png")
    given = [f"{folder}/first.safetensors:0.5", f"{folder}/second.safetensors"]
    picture, path = paint("lora.png", lora=given)
    pipe = open_pipeline(standin_packs / "bonsai", pipeline=str(standin))
    for pairs, scale in ((first, 0.5), (second, 1.0)):
        for name, pair in pairs.items():
            weight = pipe.transformer.get_submodule(name).weight.data
            weight += torch.from_numpy(scale * loras.delta(pair)).float()
    (merged,) = paint_dense(pipe, [CIRCLE], [0], read_benchmark(standin).settings)
    assert psnr(picture, merged) > 40
    assert psnr(picture, plain) < 30
    said = json.loads(Image.open(path).text["bonsai-quant"])["lora"]
    assert {a["name"]: a["scale"] for a in said} == {"first.safetensors": 0.5,
                                                     "second.safetensors": 1.0}  # fmt: skip
    assert "first.safetensors:0.5" in dict(shown_facts(path))["lora"]


def test_with_scale_0_nothing_changes(files, paint):
    plain, _ = paint("plain.png")
    picture, _ = paint("none.png", lora=f"{files[0]}/second.safetensors:0")
    assert np.array_equal(picture, plain)


def test_a_run_is_not_gone_on_with_by_another_lora(files, paint):
    options = {"size": "64", "steps": 1}
    paint(lora=f"{files[0]}/second.safetensors", **options)
    paint(lora=f"{files[0]}/second.safetensors", resume=True, **options)
    for other in ((), f"{files[0]}/second.safetensors:0.5"):
        with pytest.raises(OutputExists, match="was painted with lora"):
            paint(lora=other, resume=True, **options)


def test_what_is_refused(standin, files, paint, tmp_path):
    lora = f"{files[0]}/second.safetensors"
    with pytest.raises(UsageError, match="the mlx runner takes no LoRA"):
        paint(lora=lora, backend="mlx")
    with pytest.raises(Unsupported, match="LoRAs run beside the weights of a pack"):
        generate(standin, [CIRCLE], out=tmp_path / "b.png", lora=lora)
    with pytest.raises(UsageError, match="'high' is not a scale"):
        paint(lora=f"{lora}:high")
    with pytest.raises(BadInput, match="more than float32 holds"):
        paint(lora=f"{lora}:1e40")


def test_modules_of_other_models_are_left_out_when_asked(files, paint, tmp_path):
    _, _, second = files
    mixed = loras.spelled(second, "transformer.") | {
        "text_encoder.layers.0.q.lora_A.weight": loras.ones(4, 8),
        "text_encoder.layers.0.q.lora_B.weight": loras.ones(8, 4),
    }
    path = loras.save(tmp_path / "mixed.safetensors", mixed)
    with pytest.raises(Unsupported, match="1 modules that are not the transformer's") as e:
        paint(lora=str(path))
    assert "--lora-partial" in e.value.hint
    assert paint(lora=str(path), lora_partial=True)
