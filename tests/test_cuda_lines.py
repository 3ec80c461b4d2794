"""Every line that only an NVIDIA GPU reaches is walked here, on stand-ins for the card.

`asking` finds the functions. One without a walk fails, and so does a walk that misses a line. On a
device "meta" tensors have shapes and no numbers; what a card computes is not shown by this.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

# Before anything is traced: a trace makes imports slow.
import transformers  # noqa: E402, F401
from diffusers import Flux2KleinPipeline  # noqa: E402

from bonsai_quant.packs import stages  # noqa: E402
from bonsai_quant.packs.pipeline import locate  # noqa: E402
from bonsai_quant.runners.gemlite import card, interpreted, tuned  # noqa: E402
from bonsai_quant.runners.torch.runner import TorchRunner  # noqa: E402
from tests.support import cuda_walks  # noqa: E402, F401
from tests.support.cuda_lines import (  # noqa: E402
    CUDA,
    META,
    WALKS,
    asking,
    traced,
    walk,
)

pytestmark = pytest.mark.heavy
FUNCTIONS = asking()


@pytest.fixture
def here(monkeypatch, tmp_path, standin, standin_packs):
    """A machine with an H100, as far as torch.cuda is asked."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    for name, value in (
        ("is_available", True), ("get_device_capability", (9, 0)), ("get_device_name", "H100"),
        ("memory_allocated", 77), ("mem_get_info", (1000, 2000)), ("set_device", None),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, v=value: v)

    def modules(**found):
        for name, module in found.items():
            monkeypatch.setitem(sys.modules, name.replace("__", "."), module)

    return SimpleNamespace(
        patch=monkeypatch.setattr, setenv=monkeypatch.setenv, modules=modules, folder=tmp_path,
        pipeline=standin, packs=standin_packs,
    )  # fmt: skip


@pytest.mark.parametrize("key", FUNCTIONS)
def test_a_line_for_the_gpu_is_walked(key, here):
    assert key in WALKS, "write a walk for it here"
    with traced(FUNCTIONS[key]) as seen:
        WALKS[key](here)
    assert sorted(FUNCTIONS[key].lines - seen) == []


def test_there_is_no_walk_for_what_is_gone():
    assert set(WALKS) <= set(FUNCTIONS)


def test_lines_are_found(tmp_path, monkeypatch):
    """The finder itself: a module in which it must see four functions and each line."""
    monkeypatch.setattr("tests.support.cuda_lines.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(
        'def one(d):\n    if d.type != "cuda":\n        return 1\n    return 2\n'
        'class C:\n    def two(self, d):\n        if d == "cpu":\n            return 1\n'
        "        else:\n            return 2\n"
        "def three():\n    import torch\n    return torch.cuda.x()\n"
        'def four(d):\n    for _ in range(3):\n        if d == "cuda":\n            pass\n'
        'def none(d):\n    """cuda"""\n    return "on CUDA"\n'
    )
    assert {a.name: sorted(a.lines) for a in asking().values()} == {
        "one": [2, 4], "C.two": [7, 10], "three": [13], "four": [16, 17]
    }  # fmt: skip


@walk("packs/deployment/hqq_child.py:_quantized")
def _(here):
    from bonsai_quant.packs.deployment import hqq_child

    asked = []
    there = SimpleNamespace(from_pretrained=lambda *_, **__: "model")
    quantize = SimpleNamespace(quantize_model=lambda *_, **how: asked.append(how))
    here.modules(
        hqq__core__quantize=SimpleNamespace(BaseQuantizeConfig=lambda **how: how),
        hqq__models__hf__base=SimpleNamespace(AutoHQQHFModel=quantize),
        transformers=SimpleNamespace(Qwen3ForCausalLM=there),
    )
    assert hqq_child._quantized("folder") == "model"
    assert asked[0]["device"] == "cuda"


@walk("packs/stages.py:sameness")
def _(here):
    compute = SimpleNamespace(device="H100", torch="2.13", threads=1, processes=1)
    stage = stages.TrainingStage.model_construct(compute=compute)
    assert "torch 2.13, H100, 1 threads" in stages.sameness(SimpleNamespace(stages=[stage]))


@walk("runners/gemlite/card.py:open_card")
def _(here):
    asked = []
    here.modules(gemlite=SimpleNamespace(set_native_atomic_bfp16=asked.append))
    here.patch(card, "check_gemlite", lambda: None)
    assert (card.open_card(), asked) == (CUDA, [False])


@walk("runners/gemlite/card.py:_check_card")
def _(here):
    card._check_card()
    here.patch(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not card.has_card()


@walk("runners/gemlite/interpreted.py:StandIn.get_current_target")
def _(here):
    assert interpreted.StandIn().get_current_target().backend == "cuda"


@walk("runners/gemlite/interpreted.py:stand_in")
def _(here):
    here.setenv("TRITON_INTERPRET", "1")
    for name in ("capability", "properties"):
        here.patch(torch.cuda, f"get_device_{name}", None)
    active = []
    driver = SimpleNamespace(set_active=active.append)
    here.modules(triton=SimpleNamespace(runtime=SimpleNamespace(driver=driver)))
    interpreted.stand_in()
    assert torch.cuda.get_device_capability("cuda") == (9, 0)
    assert len(active) == 1


@walk("runners/gemlite/runner.py:GemliteRunner.__init__")
def _(here):
    from bonsai_quant.runners.gemlite.runner import GemliteRunner

    here.patch(card, "open_card", lambda: CUDA)
    runner = GemliteRunner(_pack(here))
    assert (runner.device, runner.dtype, runner.computes) == (CUDA, torch.bfloat16, "bfloat16")


@walk("runners/gemlite/tuned.py:load")
def _(here):
    path = _tuned(here)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    loaded = []
    here.modules(gemlite=SimpleNamespace(load_config=loaded.append))
    tuned.load(CUDA)
    assert loaded == [str(path)]


@walk("runners/gemlite/tuned.py:keep")
def _(here):
    def write(path):
        with open(path, "w") as f:
            f.write("{}")

    here.modules(gemlite=SimpleNamespace(cache_config=write))
    path = _tuned(here)
    tuned.keep(CUDA)
    assert path.read_text() == "{}"


@walk("runners/gemlite/tuned.py:_here")
def _(here):
    path = _tuned(here)
    assert tuned._here() == path


def _tuned(here):
    here.setenv("XDG_CACHE_HOME", str(here.folder))
    here.patch(tuned, "installed", lambda _: "0.6.0")
    return here.folder / "bonsai-quant/gemlite/0.6.0/h100.json"


@walk("runners/torch/affine4.py:FourBitLinear.rows")
def _(here):
    from bonsai_quant.runners.torch.affine4 import FourBitLinear, _affine

    words = torch.randint(0, 2**31 - 1, (4, 16), dtype=torch.int32)
    scales, biases = torch.randn(2, 4, 2).bfloat16()
    layer = FourBitLinear(words, scales, biases)
    assert torch.equal(layer.rows(0, 4), _affine(words, scales.float(), biases.float()))
    assert layer.to(META)(torch.empty(3, 128, device=META)).shape == (3, 4)


@walk("runners/torch/packed_linear.py:PackedLinear.rows")
def _(here):
    from bonsai_quant.runners.torch.packed_linear import PackedLinear

    codes, scales = torch.empty(4, 32, dtype=torch.uint8), torch.empty(4, 1, dtype=torch.half)
    y = PackedLinear(codes, scales, 2).to(META)(torch.empty(3, 128, device=META))
    assert (y.shape, y.device) == ((3, 4), META)


@walk("runners/torch/dense.py:open_pipeline")
def _(here):
    from bonsai_quant.runners.torch import dense

    part = SimpleNamespace(float=lambda: None)
    pipe = SimpleNamespace(text_encoder=part, transformer=part, vae=part, to=lambda where: where,
                           set_progress_bar_config=lambda **_: None)  # fmt: skip
    here.patch(Flux2KleinPipeline, "from_pretrained", lambda *_, **__: pipe)
    assert dense.open_pipeline(here.pipeline) == "cuda"


@walk("runners/torch/runner.py:TorchRunner.__init__")
def _(here):
    runner = TorchRunner(locate(str(here.pipeline)))
    assert (runner.device, runner.dtype, runner.computes) == (CUDA, torch.bfloat16, "bfloat16")


@walk("runners/torch/runner.py:TorchRunner.active_bytes")
def _(here):
    assert TorchRunner(locate(str(here.pipeline))).active_bytes() == 77


@walk("runners/torch/runner.py:TorchRunner._transformer")
def _(here):
    runner = TorchRunner(_pack(here))
    runner.device = META
    model = runner._transformer()
    assert {(p.device, p.dtype) for p in model.parameters()} == {(META, torch.bfloat16)}
    assert model.transformer_blocks[0].attn.to_q.codes.device == META


@walk("runners/torch/runner.py:TorchRunner._on_device")
def _(here):
    runner = TorchRunner(locate(str(here.pipeline)))
    runner.device = META
    (moved,) = runner._on_device(torch.nn.Linear(2, 2, bias=False)).parameters()
    assert (moved.device, moved.dtype) == (META, torch.bfloat16)


def _pack(here):
    pack = here.packs / "bonsai"
    return locate(str(pack), pipeline=str(here.pipeline))


@walk("verification/kernels/gemlite_child.py:_import_gemlite")
def _(here):
    from bonsai_quant.verification.kernels import gemlite_child

    asked = []
    library, triton = ModuleType("gemlite"), ModuleType("triton")
    library.set_autotune, triton.__version__ = asked.append, "3.9.0"
    here.modules(gemlite=library, triton=triton)
    assert gemlite_child._import_gemlite() == ("H100, triton 3.9.0", "cuda")
    assert asked == [False]


@walk("verification/kernels/gemlite_child.py:_run")
def _(here):
    from bonsai_quant.verification.kernels import gemlite_child

    here.patch(gemlite_child, "_forward", lambda task, device, kernel: (device, kernel))
    half = np.zeros((1, 32), np.float16)
    outputs = gemlite_child._run({"scales": half, "zeros": half}, "cuda")
    assert {kernel for _, kernel in outputs.values()} == set(gemlite_child.COMPILED)
    assert {device for device, _ in outputs.values()} == {"cuda"}
