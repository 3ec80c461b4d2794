"""What the plug-in does not load, and what it says."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from safetensors.torch import load_file, save_file

from bonsai_quant import export
from bonsai_quant.core.errors import BadInput, BonsaiError, EnvironmentFault, Unsupported
from bonsai_quant.diffusers import open_pipeline, register
from bonsai_quant.diffusers.config import BonsaiConfig

pytestmark = pytest.mark.heavy

FILE = "diffusion_pytorch_model.safetensors"
LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def made(standin, standin_packs, tmp_path_factory):
    """The stand-in's ternary pack for the plug-in, its transformer alone."""
    import bonsai_quant.diffusers  # noqa: F401

    out = tmp_path_factory.mktemp("made") / "pack"
    export(standin_packs / "bonsai", format="diffusers", out=out)
    return out


@pytest.fixture
def pack(made, tmp_path):
    return shutil.copytree(made, tmp_path / "pack")


def settings(**changes):
    """Change what the transformer's config says of its weights."""

    def change(folder):
        path = folder / "transformer/config.json"
        config = json.loads(path.read_text())
        config["quantization_config"] |= changes
        path.write_text(json.dumps(config))

    return change


def config(**changes):
    def change(folder):
        path = folder / "transformer/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(change):
    def rewrite(folder):
        path = folder / "transformer" / FILE
        save_file(change(load_file(path)), path, {"format": "pt"})

    return rewrite


def without(name):
    return lambda held: {n: t for n, t in held.items() if n != name}


CASES = {
    "a setting of another version": (settings(rotated=True), Unsupported, "has 'rotated'"),
    "3 bits": (settings(bits=3), Unsupported, "codes of 3 bits in groups of 128"),
    "groups of 64": (settings(group_size=64), Unsupported, "2 bits in groups of 64"),
    "codes of the other mode": (settings(bits=1), BadInput, "codes: has the shape"),
    "no scales": (tensors(without(f"{LAYER}.scales")), BadInput, f"such as {LAYER}.scales"),
    "a kept layer that is named packed": (
        settings(modules_to_not_convert=[]), BadInput, "layer x_embedder|layer .*: Flux2"),
    "a deeper model": (config(num_layers=2), BadInput, "such as transformer_blocks.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_broken_pack_is_refused_by_name(pack, case):
    change, kind, message = CASES[case]
    change(pack)
    with pytest.raises(kind, match=message) as e:
        Flux2Transformer2DModel.from_pretrained(pack, subfolder="transformer")
    assert e.value.hint


def test_the_weights_of_another_format_are_refused(pack, standin_packs, tmp_path):
    export(standin_packs / "bonsai", format="sdnq", out=tmp_path / "sdnq")
    shutil.copy(tmp_path / "sdnq/transformer" / FILE, pack / "transformer" / FILE)
    with pytest.raises(BadInput, match="lacks .* of this Flux2Transformer2DModel") as e:
        Flux2Transformer2DModel.from_pretrained(pack, subfolder="transformer")
    assert "export PACK -f diffusers" in e.value.hint


def test_a_model_of_another_family_is_refused(pack, standin):
    folder = shutil.copytree(standin / "vae", pack / "vae")
    change = json.loads((pack / "transformer/config.json").read_text())["quantization_config"]
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": change}))
    with pytest.raises(BadInput, match="AutoencoderKLFlux2"):
        AutoencoderKLFlux2.from_pretrained(folder)


def test_dense_weights_are_not_rounded(standin):
    with pytest.raises(Unsupported, match="full precision") as e:
        Flux2Transformer2DModel.from_pretrained(
            standin, subfolder="transformer", quantization_config=BonsaiConfig(bits=2)
        )
    assert "convert SOURCE" in e.value.hint


def test_only_float_types_are_computed_in(pack):
    with pytest.raises(Unsupported, match="float64"):
        Flux2Transformer2DModel.from_pretrained(
            pack, subfolder="transformer", torch_dtype=torch.float64
        )


def test_open_pipeline_says_what_to_export(pack, standin, standin_packs, tmp_path):
    for folder, message, hint in (
        (standin_packs / "bonsai", "is a pack in bonsai", f"export {standin_packs}/bonsai -f diff"),
        (pack, "holds the transformer alone", f"export {pack} -f diffusers --pipeline SOURCE"),
        (standin, "is a model in full precision", "convert"),
        (tmp_path / "nowhere", "there is no such folder", "convert"),
    ):
        with pytest.raises(BonsaiError, match=message) as e:
            open_pipeline(folder)
        assert hint in e.value.hint


def test_packed_weights_are_not_joined(pack):
    model = Flux2Transformer2DModel.from_pretrained(pack, subfolder="transformer")
    with pytest.raises(Unsupported, match="there is no cat of it"):
        model.fuse_qkv_projections()


@pytest.mark.parametrize(
    ("versions", "message"),
    [({"diffusers": None}, "diffusers not installed"),
     ({"accelerate": None}, "accelerate not installed"),
     ({"diffusers": "0.37.1"}, "diffusers 0.37.1 has no FLUX.2 Klein; 0.38")],
)  # fmt: skip
def test_what_must_be_installed_is_said(versions, message, monkeypatch):
    from bonsai_quant.core import requirements

    def installed(name):
        return versions.get(name, "9.9")

    monkeypatch.setattr(requirements, "installed", installed)
    monkeypatch.setattr(register, "installed", installed)
    with pytest.raises(EnvironmentFault, match=message) as e:
        register.register()
    assert "pip install" in e.value.hint
