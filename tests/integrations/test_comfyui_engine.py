"""The node in ComfyUI's own engine, whose folder BONSAI_COMFYUI names, against diffusers.

The model is one of Klein's kind with its 128 latent channels, which ComfyUI takes for granted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.clients.comfyui import ENGINE, NODE, answers, velocity
from bonsai_quant import convert
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import velocity_of
from tests.support import comfyui_session, models

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(ENGINE not in os.environ, reason=f"{ENGINE} names no folder of ComfyUI"),
]

LORA = 0.8
KEY = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
EXACT = 1e-5
"""Relative error that sums in another order leave; 5e-7 was measured."""


@pytest.fixture(scope="module", params=["ternary", "binary"])
def made(request, tmp_path_factory):
    """Packs, inputs, and a LoRA on every packed layer with what it adds to each."""
    root = tmp_path_factory.mktemp(request.param)
    weights = models.tensors(models.SMALL, spread=0.08)  # layers that matter to the velocity
    source = models.save_folder(root / "source", weights, models.SMALL)
    convert(str(source), mode=request.param, formats="bonsai,comfyui,comfyui-packed",
            out=root / "packs")  # fmt: skip
    pack = open_pack(root / "packs/bonsai")
    draw, tensors, deltas = torch.Generator().manual_seed(0), {}, {}
    for t in pack.info.packed:
        down = torch.randn(8, t.shape[1], generator=draw) / t.shape[1] ** 0.5
        up = torch.randn(t.shape[0], 8, generator=draw) * 0.05
        name = f"transformer.{t.linear}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
        deltas[t.name] = 4 / 8 * up @ down
    files = {n: str(open_pack(root / "packs" / n).path) for n in ("comfyui", "comfyui-packed")}
    lora = Path(files["comfyui-packed"]).with_name("lora.safetensors")
    save_file(tensors, lora)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4, 8, 6, 128)).astype(np.float32)
    captions = rng.standard_normal((4, 32, 384)).astype(np.float32)
    inputs = SimpleNamespace(z=z, sigma=0.7, captions=captions)
    return SimpleNamespace(mode=request.param, root=root, pack=pack, dense=files["comfyui"],
                           packed=files["comfyui-packed"], lora=str(lora), deltas=deltas,
                           inputs=inputs)  # fmt: skip


def expected(made, strength=0.0) -> np.ndarray:
    """diffusers' velocity in float32, with the LoRA added to the decoded weights."""
    model = dense_transformer(made.pack)
    with torch.inference_mode():
        state = model.state_dict()
        for name, delta in made.deltas.items() if strength else ():
            state[name] += strength * delta
        return velocity_of(model, made.inputs.z, made.inputs.sigma, made.inputs.captions)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_velocities_are_those_of_diffusers_and_codes_stay_packed(made):
    runs = [{"file": f, "loras": []} for f in (made.dense, made.packed)]
    (dense, packed), facts = answers(runs, **vars(made.inputs))
    wanted = expected(made)
    assert error(dense, wanted) < EXACT
    assert error(packed, wanted) < EXACT
    dense_bytes, packed_bytes = (f["dtypes"] for f in facts)
    weights = sum(t.size for t in made.pack.info.packed)
    assert packed_bytes["uint8"] == weights * made.pack.info.bits // 8
    assert packed_bytes["bfloat16"] == dense_bytes["bfloat16"] - 2 * weights + 2 * weights // 128
    assert packed_bytes.keys() == {"uint8", "bfloat16"}


def test_one_input_is_as_good_as_four(made):
    one = velocity(made.root / "packs/comfyui-packed", made.inputs.z[:1], made.inputs.sigma,
                   made.inputs.captions[:1])  # fmt: skip
    assert error(one, expected(made)[:1]) < EXACT


def test_a_lora_is_the_merge_before_rounding_and_comes_off_without_a_trace(made):
    loras = [[], [(made.lora, LORA)], []]
    found, facts = answers([{"file": made.packed, "loras": x} for x in loras], **vars(made.inputs))
    assert error(found[1], expected(made, LORA)) < EXACT
    assert error(found[0], expected(made, LORA)) > 0.01
    assert np.array_equal(found[0], found[2])
    assert len({f["sha256"] for f in facts}) == 1


def adapter(made, kind: str) -> str:
    """A file that needs the whole weight, or adds to kept tensors; names of both layouts."""
    draw, tensors = torch.Generator().manual_seed(2), {}
    theirs, ours = (
        "diffusion_model.double_blocks.1.img_attn.qkv",
        "single_transformer_blocks.0.attn",
    )
    sizes = {f"{theirs}": (768, 256), f"transformer.{ours}.to_out": (256, 256 + 768)}
    if kind == "kept":
        sizes = {"transformer.x_embedder": (256, 128), f"{theirs}": (768, 256)}
    for name, (out, n) in sizes.items():
        if kind == "lokr":
            tensors[f"{name}.lokr_w1"] = torch.randn(16, 16, generator=draw) * 0.1
            tensors[f"{name}.lokr_w2"] = torch.randn(out // 16, n // 16, generator=draw) * 0.1
            continue
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, n, generator=draw) / n**0.5
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4, generator=draw) * 0.1
        if kind == "dora":
            tensors[f"{name}.dora_scale"] = 1 + torch.rand(out, 1, generator=draw)
    path = made.root / f"{kind}.safetensors"
    save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize("kind", ["lokr", "dora", "kept"])
def test_other_adapters_do_what_they_do_to_a_dense_model(made, kind):
    """ComfyUI's own merge into float32 weights is the measure; kept tensors are rounded to bf16."""
    loras = [(adapter(made, kind), 1.0), (made.lora, LORA)]
    runs = [{"file": f, "loras": x, "dtype": "float32"}
            for f, x in ((made.packed, loras), (made.dense, loras), (made.dense, []))]  # fmt: skip
    (packed, dense, plain), _ = answers(runs, **vars(made.inputs))
    assert error(plain, dense) > 0.02
    assert error(packed, dense) < (1e-2 if kind == "kept" else EXACT)


@pytest.fixture(scope="module")
def session(made, tmp_path_factory):
    """What an afternoon with the node gave."""
    folder = tmp_path_factory.mktemp("session")
    names = {"engine": os.environ[ENGINE], "node": str(NODE), "key": KEY}
    names |= {k: getattr(made, k) for k in ("packed", "dense", "lora")}
    (folder / "request.json").write_text(json.dumps(names))
    z = np.ascontiguousarray(made.inputs.z.transpose(0, 3, 1, 2))
    np.savez(folder / "inputs.npz", z=z, sigma=np.float32(made.inputs.sigma),
             captions=made.inputs.captions)  # fmt: skip
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, comfyui_session.__file__, folder], check=True,
                   env=os.environ | {"PYTHONPATH": path}, cwd=folder)  # fmt: skip
    words = json.loads((folder / "answers.json").read_text())
    with np.load(folder / "answers.npz") as found:
        return SimpleNamespace(made=made, words=words, arrays=dict(found))


def test_the_workflow_fits_comfyui(session):
    assert session.words["workflow"] == []


def test_its_own_sampler_paints_the_same_packed_and_dense(session):
    a = session.arrays
    assert error(a["packed before"], a["dense before"]) < EXACT
    assert error(a["packed with"], a["dense with"]) < EXACT
    assert error(a["packed with"], a["packed before"]) > 0.01
    assert np.array_equal(a["packed before"], a["packed after"])


def test_layers_that_move_in_and_out_keep_the_lora_once(session):
    a = session.arrays
    wanted = expected(session.made, LORA).transpose(0, 3, 1, 2)
    for state in ("loaded", "some unloaded", "some loaded again", "little memory", "by few rows"):
        assert error(a[state], wanted) < EXACT, state
    assert error(a["taken off"], expected(session.made).transpose(0, 3, 1, 2)) < EXACT


def test_merging_nodes_see_the_decoded_weights(session):
    wanted = expected(session.made).transpose(0, 3, 1, 2)
    assert error(session.arrays["merged"], wanted) < EXACT


def test_codes_are_never_taken_for_weights(session):
    assert "cannot be saved with a LoRA" in session.words["save"]
    assert "do not work on packed layers" in session.words["hook"]
