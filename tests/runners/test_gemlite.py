"""The gemlite runner without a GPU: its kernels interpreted, its layout and its rule as they are.

What only a card can show, how fast it is, is measured by tools/gpu_check.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from bonsai_quant import convert
from bonsai_quant.core.errors import EnvironmentFault, Unsupported, UsageError
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners import _packs_on_cuda, open_runner
from bonsai_quant.runners.gemlite import card, rule, tuned
from bonsai_quant.runners.gemlite.linear import PAD, from_pack
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.torch.adapter import LowRank
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from bonsai_quant.runners.torch.transformer import packed_transformer
from bonsai_quant.sources.shipped import shipped_folder
from bonsai_quant.verification.levels.images import psnr
from tests.docs.conftest import SIZES
from tests.support import loras, warm
from tests.support.pipelines import save_pipeline

pytestmark = pytest.mark.heavy
CPU = torch.device("cpu")
CIRCLE = "a red circle left of a blue square"
STRENGTH = 2.5
"""Of a LoRA: the picture is another one, and still one."""
ALL = ("bonsai", "mlx", "gemlite", "unpacked")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pipeline of one block of either kind, one head wide."""
    return save_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline", heads=1, blocks=(1, 1))


@pytest.fixture(scope="module", params=["ternary", "binary"])
def made(request, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "out"
    convert(str(tiny), mode=request.param, formats=ALL, out=out, transformer_only=True)
    return out


@pytest.mark.parametrize(("rows", "out", "width", "bits", "way"), [
    (1, 3072, 3072, 2, "gemlite"), (32, 27648, 3072, 1, "gemlite"),
    (33, 3072, 3072, 2, "decode"), (4608, 9216, 3072, 2, "decode"),
    (1, 3080, 3072, 2, "decode"), (1, 3072, 3000, 2, "decode"), (1, 3072, 3072, 4, "decode"),
])  # fmt: skip
def test_the_rule(rows, out, width, bits, way):
    assert rule.way_of(rows, out, width, bits) == way


def test_the_rule_has_a_variable(monkeypatch):
    monkeypatch.setenv(rule.VARIABLE, "1536")
    assert [rule.way_of(n, 3072, 3072, 2) for n in (1536, 1537)] == ["gemlite", "decode"]
    monkeypatch.setenv(rule.VARIABLE, "0")
    assert rule.way_of(1, 3072, 3072, 2) == "decode"
    monkeypatch.setenv(rule.VARIABLE, "many")
    with pytest.raises(UsageError, match=f"{rule.VARIABLE} is 'many' -> set it to a number"):
        rule.way_of(1, 3072, 3072, 2)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_format_gives_gemlites_bytes_and_the_same_weights(made, name, dtype):
    pack, plain = open_pack(made / name), packed_transformer(open_pack(made / "bonsai"))
    theirs = open_pack(made / "gemlite")
    for t in pack.info.packed:
        layer = from_pack(pack, t, dtype, CPU, Counter())
        w_q, scales, zeros, _, _ = theirs.parts(t)
        assert np.array_equal(layer.W_q, w_q)
        for held, stored in ((layer.scales, scales), (layer.zeros, zeros)):
            assert held.dtype == dtype
            assert np.array_equal(held.float(), stored)
            assert held.untyped_storage().nbytes() >= (held.numel() + PAD) * held.itemsize
        assert layer.metadata[:5] == [0, layer.bits, 128, 2**layer.bits - 1, 8 // layer.bits]
        assert layer.metadata[5] == layer.metadata[6] == layer.metadata[8]
        dense = plain.get_submodule(t.linear)
        assert torch.equal(layer.rows(0, t.shape[0]), dense.rows(0, t.shape[0]))
        assert torch.equal(layer.rows(3, 40), dense.rows(3, 40))


def a_layer(monkeypatch, made):
    """A linear whose products are all decoded."""
    monkeypatch.setenv(rule.VARIABLE, "0")
    pack = open_pack(made / "bonsai")
    return from_pack(pack, pack.info.packed[0], torch.bfloat16, CPU, Counter())


def test_a_decoded_product_is_that_of_the_dense_weight_and_is_counted(monkeypatch, made):
    layer = a_layer(monkeypatch, made)
    x = torch.randn(2, 3, layer.in_features)
    dense = layer.rows(0, layer.out_features)
    assert torch.allclose(layer(x), functional.linear(x, dense), atol=1e-5)
    layer(x.bfloat16())
    assert layer.ways == {"decode": 2}


@pytest.mark.parametrize("limit", ["0", "32"])
def test_an_adapter_is_added_to_the_product_either_way(monkeypatch, made, limit):
    layer = a_layer(monkeypatch, made)
    x = torch.randn(3, layer.in_features)
    plain = layer(x)
    monkeypatch.setenv(rule.VARIABLE, limit)
    monkeypatch.setattr(layer, "_by_gemlite", lambda x, rows: plain.clone())
    up, down = torch.randn(layer.out_features, 4), torch.randn(4, layer.in_features)
    layer.adapter = LowRank(up, down)
    assert torch.allclose(layer(x), plain + x @ down.T @ up.T, atol=1e-5, rtol=1e-4)
    assert layer.ways == ({"decode": 2} if limit == "0" else {"decode": 1, "gemlite": 1})


def test_a_cast_to_its_own_dtype_keeps_the_room_after_the_scales(monkeypatch, made):
    layer = a_layer(monkeypatch, made)
    before = layer.scales.data_ptr(), layer.zeros.data_ptr()
    assert (layer.to(torch.bfloat16).scales.data_ptr(), layer.zeros.data_ptr()) == before


@pytest.mark.skipif(find_spec("gemlite") is None, reason="gemlite is not installed")
def test_interpreted_kernels_give_the_torch_runners_velocities(tiny, tmp_path):
    """Both round activations to float16, whose unit is 2^-11, and sum in float32.

    They differ where sums of another order, or parts that GEMV adds up in float16, round to a
    neighbour: by less than a unit of the whole velocity, and gemlite is not much farther than torch
    from what float32 gives. 4e-4, and 1.08 times as far, were measured.
    """
    packs = []
    for mode, name in (("ternary", "bonsai"), ("binary", "gemlite")):
        convert(str(tiny), mode=mode, formats=(name,), out=tmp_path / mode, transformer_only=True)
        packs.append(str(tmp_path / mode / name))
    child = warm.Process(
        "tests.support.interpreted_gemlite", [tiny, *packs],
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )  # fmt: skip
    out, err = child.communicate()
    assert child.returncode == 0, err[-2000:]
    for result in json.loads(out.splitlines()[-1]):
        assert result["computes"] == "float16"
        assert result["ways"] == {"gemlite": 14}
        assert result["mine_from_half"] < 2**-11 * 2
        assert result["mine_from_exact"] < 1.5 * result["half_from_exact"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gemlite") is None, reason="gemlite is not installed")
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_interpreted_kernels_paint_what_the_torch_runner_paints(mode, tmp_path):
    """Every product of every step, on a pack that ships: 62 dB and more were measured."""
    kernels = {"TRITON_INTERPRET": "1", rule.VARIABLE: "4608"}
    for backend in ("torch", "gemlite"):
        subprocess.run(
            [sys.executable, "-m", "bonsai_quant", "generate", f"mini-klein-{mode}", "-p",
             "a red circle left of a blue square", "-o", tmp_path / f"{backend}.png",
             "--backend", backend],
            check=True, capture_output=True, env=os.environ | kernels,
        )  # fmt: skip
    a, b = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("torch", "gemlite"))
    assert psnr(a, b) > 50


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gemlite") is None, reason="gemlite is not installed")
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_a_lora_beside_interpreted_kernels_paints_what_merged_weights_paint(mode, tmp_path):
    """On a pack that ships. Merged in float32 with the same codes: no code of our adapters."""
    pack, source = shipped_folder(f"mini-klein-{mode}"), shipped_folder("mini-klein")
    pairs = loras.pairs(SIZES["real"], seed=3)
    file = loras.STYLES["diffusers"](tmp_path / "style.safetensors", pairs)
    kernels = {"TRITON_INTERPRET": "1", rule.VARIABLE: "4608"}
    for name, more in (("with", ["--lora", f"{file}:{STRENGTH}"]), ("without", [])):
        subprocess.run(
            [sys.executable, "-m", "bonsai_quant", "generate", pack, "-p", CIRCLE, "-o",
             tmp_path / f"{name}.png", "--backend", "gemlite", *more],
            check=True, capture_output=True, env=os.environ | kernels,
        )  # fmt: skip
    pipe, pictures = open_pipeline(pack, pipeline=str(source)), {}
    for name in ("without", "with"):
        if name == "with":
            for layer, pair in pairs.items():
                weight = pipe.transformer.get_submodule(layer).weight.data
                weight += torch.from_numpy(STRENGTH * loras.delta(pair)).float()
        (pictures[name],) = paint_dense(pipe, [CIRCLE], [0], read_benchmark(source).settings)
    found = {
        name: psnr(np.asarray(Image.open(tmp_path / f"{name}.png")), merged)
        for name, merged in pictures.items()
    }
    assert min(found.values()) > 40
    assert psnr(pictures["with"], pictures["without"]) < 30


@pytest.fixture
def installed(monkeypatch):
    """Packages at versions of the test's choice."""

    def set_to(**versions):
        for module in (card, __import__("bonsai_quant.core.requirements", fromlist=["_"])):
            monkeypatch.setattr(module, "installed", lambda name: versions.get(name, "9.0"))

    return set_to


@pytest.mark.parametrize(("versions", "says"), [
    ({"gemlite": None}, r"^gemlite not installed -> pip install .*\[gemlite\]"),
    ({"gemlite": None, "triton": None}, "^triton, gemlite not installed -> "),
    ({"gemlite": "0.5.1.post1"}, r"^gemlite 0.5.1.post1 is too old; .* -> pip install"),
    ({"gemlite": "0.7.0"}, r"^gemlite 0.7.0 is too new; .* -> pip install 'gemlite>=0.6,<0.7', or"),
])  # fmt: skip
def test_a_missing_or_other_gemlite_is_one_line(installed, versions, says):
    installed(**versions)
    with pytest.raises(EnvironmentFault, match=says) as e:
        card.open_card()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("cuda", "there", "capability", "says"), [
    (None, False, (9, 0), "is built without CUDA -> install a torch with CUDA, or pass"),
    ("12.8", False, (9, 0), "^no CUDA device: .* -> pass --backend torch$"),
    ("12.8", True, (7, 5), "^Tesla T4 has compute capability 7.5, without bfloat16 .* -> pass"),
])  # fmt: skip
def test_a_missing_or_old_card_is_one_line(monkeypatch, installed, cuda, there, capability, says):
    installed(gemlite="0.6.0")
    fake_card(monkeypatch, cuda, there, capability, "Tesla T4")
    with pytest.raises(EnvironmentFault, match=says):
        card.open_card()
    assert not card.has_card()


def fake_card(monkeypatch, cuda="12.8", there=True, capability=(9, 0), name="NVIDIA H100 80GB"):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)


@pytest.fixture
def library(monkeypatch):
    """A gemlite that remembers what it is asked."""
    asked = []

    def write(path):
        asked.append("cache_config")
        with open(path, "w") as f:
            json.dump(there.config, f)

    there = SimpleNamespace(
        asked=asked, config={"GEMM": {"(16, 128)": {"BLOCK_SIZE_M": 16}}}, cache_config=write,
        load_config=lambda path: asked.append(("load", path)),
        set_native_atomic_bfp16=lambda on: asked.append(("atomic", on)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "gemlite", there)
    return there


def test_a_card_is_opened_and_sums_are_kept_in_float32(monkeypatch, installed, library):
    installed(gemlite="0.6.0")
    fake_card(monkeypatch)
    assert card.open_card() == torch.device("cuda")
    assert card.has_card()
    assert library.asked == [("atomic", False)]


def test_a_gemlite_that_does_not_import_is_one_line(monkeypatch, installed):
    installed(gemlite="0.6.0")
    fake_card(monkeypatch)
    monkeypatch.setitem(sys.modules, "gemlite", None)
    with pytest.raises(EnvironmentFault, match="^gemlite does not import: .* -> pip install"):
        card.open_card()


@pytest.fixture
def cache(monkeypatch, tmp_path, installed):
    installed(gemlite="0.6.0.post2")
    fake_card(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bonsai-quant/gemlite/0.6.0.post2/nvidia-h100-80gb.json"


GPU = torch.device("cuda")


def test_what_was_tuned_is_kept_for_the_card_and_version(cache, library, monkeypatch, caplog):
    caplog.set_level("INFO")
    tuned.load(GPU)
    assert library.asked == []
    tuned.keep(GPU)
    assert json.loads(cache.read_text()) == library.config
    assert str(cache) in caplog.text
    caplog.clear()
    tuned.keep(GPU)
    assert caplog.text == ""
    tuned.load(GPU)
    assert library.asked[-1] == ("load", str(cache))
    fake_card(monkeypatch, name="NVIDIA L4")
    library.asked.clear()
    tuned.load(GPU)
    tuned.load(CPU)
    tuned.keep(CPU)
    assert library.asked == []


@pytest.mark.parametrize("text", ["", "[]", '{"GEMM": 3}', '{"GEMM": {"(1, 2)": {"B": "x"}}}'])
def test_a_broken_file_is_passed_over_and_written_anew(cache, library, caplog, text):
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    tuned.load(GPU)
    assert "is passed over" in caplog.text
    assert library.asked == []
    tuned.keep(GPU)
    assert json.loads(cache.read_text()) == library.config


def test_a_folder_that_cannot_be_made_costs_a_warning(cache, library, tmp_path, caplog):
    (tmp_path / "bonsai-quant").write_text("a file")
    tuned.keep(GPU)
    assert "is not kept" in caplog.text


def test_auto_takes_it_where_the_rule_is_for_it(made, tiny, monkeypatch, tmp_path):
    pipeline = locate(str(made / "bonsai"), pipeline=str(tiny))
    fake_card(monkeypatch)
    assert not _packs_on_cuda(pipeline)  # no driver
    monkeypatch.setattr("bonsai_quant.runners.NVIDIA", tmp_path)
    assert not _packs_on_cuda(pipeline)  # 36 tokens in a single block
    monkeypatch.setenv(rule.VARIABLE, "36")
    assert _packs_on_cuda(pipeline)
    assert not _packs_on_cuda(locate(str(tiny)))
    fake_card(monkeypatch, there=False)
    assert not _packs_on_cuda(pipeline)


def test_a_pipeline_is_no_pack(tiny):
    with pytest.raises(Unsupported, match="is not a pack, and the gemlite runner runs packs -> "):
        open_runner(locate(str(tiny)), "gemlite")


def test_whoever_gets_no_kernel_is_told(made, tiny, monkeypatch, caplog):
    """On a CPU in place of the card: all products are decoded."""
    monkeypatch.setattr(card, "open_card", lambda: CPU)
    monkeypatch.setenv(rule.VARIABLE, "0")
    opened = open_runner(locate(str(made / "gemlite"), pipeline=str(tiny)), "gemlite")
    state = np.zeros((1, 2, 2, 64), np.float32), 0.5, np.zeros((1, 3, 192), np.float32)
    with opened.transformer() as velocity:
        assert velocity(*state).shape == (1, 2, 2, 64)
    assert opened.ways == {"decode": 14}
    assert "more than 0 rows: weights were decoded" in caplog.text
    assert rule.VARIABLE in caplog.text
