"""What a reader of the pages has at hand: shipped models, a fine-tune, a LoRA, short recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from bonsai_quant import convert
from bonsai_quant.conversion import settings as recipes
from bonsai_quant.core import requirements
from bonsai_quant.sources import shipped
from bonsai_quant.training.settings import TuningSettings
from tests.support import loras, models

SIZES = {
    "standin": ((1, 2), {"h": 128, "i": 64, "o": 64, "j": 192, "t": 256, "d": 128, "m": 384}),
    "real": ((2, 4), {"h": 256, "i": 64, "o": 64, "j": 192, "t": 256, "d": 128, "m": 768}),
}
"""Of the transformers of the stand-in and of mini-klein itself, as models.TINY has them."""
SHORT = {"steps": 1, "batch": 4, "at_once": 8, "validate_every": 1, "prompts": 2, "own": [0.0, 0.0]}


@pytest.fixture(scope="session", params=["standin", pytest.param("real", marks=pytest.mark.slow)])
def which(request) -> str:
    """Which model is called mini-klein: one with random weights, or the one that ships."""
    return request.param


@pytest.fixture(scope="session")
def data(which, standin, tmp_path_factory) -> Path:
    """What ships with the package; or the stand-in in the place of mini-klein, and its packs."""
    folder = tmp_path_factory.mktemp("shipped")
    if which == "real":
        return Path(shutil.copytree(shipped.DATA, folder / "data"))
    shutil.copytree(standin, folder / "mini-klein")
    (folder / "mini-klein" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bonsai_quant.sources.shipped.DATA", folder)
        for mode in ("ternary", "binary"):
            made = tmp_path_factory.mktemp("made") / mode
            convert("mini-klein", mode=mode, formats="bonsai", out=made)
            (made / "bonsai").rename(folder / f"mini-klein-{mode}")
    return folder


@pytest.fixture(scope="session")
def finetune(which, data, tmp_path_factory) -> Path:
    """A folder with the files that a reader may call their own."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(data / "mini-klein", folder / "my-finetune")
    (folder / "my-finetune" / "README.md").unlink()
    stored = data / "mini-klein" / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(stored, "np") as f:
        weights = {name: f.get_tensor(name) for name in f.keys()}
    models.save_original(folder / "my-finetune.safetensors", weights, SIZES[which])
    pairs = loras.pairs(SIZES[which], only=loras.in_blocks)
    loras.save(folder / "style.safetensors", loras.spelled(pairs, "transformer."))
    return folder


@pytest.fixture
def place(data, finetune, tmp_path, monkeypatch) -> Path:
    """An empty folder with the reader's own files, where nothing takes long."""
    folder = tmp_path / "reader"
    shutil.copytree(finetune, folder)
    (folder / "bonsai_quant").mkdir()
    (folder / "bonsai_quant" / "data").symlink_to(data)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("bonsai_quant.sources.shipped.DATA", data)
    monkeypatch.setattr("bonsai_quant.training.trajectories.prompts.DEV_PER_CATEGORY", 1)
    _without_hqq(monkeypatch)
    _with_short_recipes(tmp_path, monkeypatch)
    return folder


def _without_hqq(monkeypatch) -> None:
    """hqq takes seconds to import; tests of deployments have it."""
    real = requirements.installed
    monkeypatch.setattr(requirements, "installed", lambda n: None if n == "hqq" else real(n))


def _with_short_recipes(tmp_path: Path, monkeypatch) -> None:
    """The shipped recipes with few prompts and one update."""
    real = recipes.shipped

    def shortened(name: str) -> Path | None:
        path = real(name)
        if path is None:
            return None
        recipe = yaml.safe_load(path.read_text())
        if "calibration" in recipe:
            recipe["calibration"] = dict.fromkeys(recipe["calibration"], 2)
        for training in ("tuning", "distillation"):
            if training in recipe:
                recipe[training] |= SHORT
        short = tmp_path / "recipes" / path.name
        short.parent.mkdir(exist_ok=True)
        short.write_text(yaml.safe_dump(recipe))
        return short

    monkeypatch.setattr(recipes, "shipped", shortened)
    short = TuningSettings.model_validate(SHORT)
    monkeypatch.setattr("bonsai_quant.training.tune.usual", lambda mode: short)
