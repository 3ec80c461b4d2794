"""Models that are to be deployed, and packs as others publish them."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from bonsai_quant import convert

ENCODER = "text_encoder-mlx-4bit"
MODE = {"mode": "ternary", "threads": 2}


@pytest.fixture
def source(standin, tmp_path):
    """A copy of the stand-in, to break."""
    return shutil.copytree(standin, tmp_path / "source")


@pytest.fixture(scope="module", params=["ternary", "binary"])
def released(request, standin, tmp_path_factory) -> SimpleNamespace:
    """One model in the three layouts of others, and our own conversion of its dense weights."""
    from tests.support.published import LAYOUTS, publish, release

    root = tmp_path_factory.mktemp(request.param)
    model = release(standin / "transformer", request.param)
    repos = {k: publish(root / k, k, model) for k in LAYOUTS}
    convert(
        str(repos["unpacked"] / "transformer"), mode=model.mode, formats="bonsai", out=root / "ours"
    )
    return SimpleNamespace(model=model, mode=model.mode, repos=repos, ours=root / "ours/bonsai")
