"""The whole step of mini-klein in onnxruntime, against diffusers' own class on the same weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bonsai_quant import convert, export
from bonsai_quant.packs.read import open_one
from bonsai_quant.runners.tokens import position_ids, text_position_ids
from tests.support import models

pytestmark = pytest.mark.heavy

PAGE = Path(__file__).parents[2] / "docs/how-to/export.md"
MODES = ("ternary", "binary")
LIMIT = 1e-5
"""Of the relative error of a velocity; sums in another order leave below 1e-6."""
MANY_HEADS = ((1, 1), {"h": 384, "i": 64, "o": 64, "j": 128, "t": 64, "d": 16, "m": 384})
SIZES = {  # pictures, rows, columns, tokens of the caption, references
    "one": (1, 8, 8, 32, ()),
    "four": (4, 8, 8, 32, ()),
    "upright, a long caption": (1, 16, 5, 100, ()),
    "with references": (1, 8, 8, 32, ((8, 8), (4, 6))),
}


@pytest.fixture(scope="module", params=MODES)
def pair(request, tmp_path_factory):
    """A session of onnxruntime, and diffusers' transformer with dense weights."""
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime"
    )
    torch = pytest.importorskip("torch")
    from bonsai_quant.runners.torch.dense import dense_transformer

    out = tmp_path_factory.mktemp("onnx") / "out"
    export(f"mini-klein-{request.param}", format="onnx", out=out)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        out / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    model = dense_transformer(open_one(out))

    def reference(feeds):
        tensors = {k: torch.from_numpy(v) for k, v in feeds.items()}
        with torch.inference_mode():
            return model(**tensors, return_dict=False)[0].numpy()

    return session, reference


def feeds(size, sigma, seed=0):
    """Inputs of these sizes, by the names that diffusers has for them."""
    n, rows, columns, length, others = size
    rng = np.random.default_rng(seed)
    references = [np.zeros((*shape, 64), np.float32) for shape in others]
    ids = position_ids(rows, columns, references).astype(np.float32)
    return {
        "hidden_states": rng.standard_normal((n, len(ids), 64), np.float32),
        "encoder_hidden_states": rng.standard_normal((n, length, 192), np.float32),
        "timestep": np.linspace(sigma, sigma / 2, n, dtype=np.float32),
        "img_ids": ids,
        "txt_ids": text_position_ids(length).astype(np.float32),
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_step_is_that_of_diffusers(pair, size):
    session, reference = pair
    for sigma in (1.0, 0.3):
        inputs = feeds(SIZES[size], sigma)
        (velocity,), expected = session.run(None, inputs), reference(inputs)
        assert velocity.shape == expected.shape
        error = np.linalg.norm(velocity - expected) / np.linalg.norm(expected)
        assert error <= LIMIT


def test_far_positions_turn_by_the_right_angle(pair):
    """Text tokens up to 511 and pictures of 2,048 pixels: float32 alone loses digits there."""
    session, reference = pair
    inputs = feeds((1, 4, 4, 8, ()), 0.7)
    inputs["img_ids"][:, 1:3] += 124
    inputs["txt_ids"][:, 3] += 504
    (velocity,), expected = session.run(None, inputs), reference(inputs)
    assert np.linalg.norm(velocity - expected) / np.linalg.norm(expected) <= LIMIT


def test_the_page_about_it_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export("mini-klein-ternary", format="onnx", out=tmp_path / "for-onnx")
    monkeypatch.chdir(tmp_path)
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
                if "import onnxruntime" in b]  # fmt: skip
    exec(compile(block, "page", "exec"), {})
    assert capsys.readouterr().out == "(1, 64, 64)\n"


def test_many_heads_and_other_axes(tmp_path):
    """24 heads are split and joined in two stages; each head turns with other shares of the ids."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch = pytest.importorskip("torch")
    from bonsai_quant.runners.torch.dense import dense_transformer

    source = models.save_folder(tmp_path / "transformer", models.tensors(MANY_HEADS), MANY_HEADS)
    config = source / "config.json"
    config.write_text(config.read_text().replace("[32, 32, 32, 32]", "[2, 4, 4, 6]"))
    convert(str(source), mode="ternary", formats="onnx", out=tmp_path / "out")
    folder = tmp_path / "out/onnx"
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = feeds((2, 3, 5, 9, ((2, 2),)), 0.8)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][..., :128].copy()
    (velocity,) = session.run(None, inputs)
    with torch.inference_mode():
        tensors = {k: torch.from_numpy(v) for k, v in inputs.items()}
        expected = dense_transformer(open_one(folder))(**tensors, return_dict=False)[0].numpy()
    assert np.linalg.norm(velocity - expected) / np.linalg.norm(expected) <= LIMIT
