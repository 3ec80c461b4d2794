"""A signal during training: a checkpoint first, then what to type; a second one ends at once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bonsai_quant import distill, recover
from bonsai_quant.core.stopping import ask_to_stop, stopping_by_itself
from bonsai_quant.training import checkpoint
from bonsai_quant.training.distill import run_files
from bonsai_quant.training.recover import _Stages
from bonsai_quant.training.write_pipeline import WEIGHTS
from tests.support import warm

from .conftest import SETTINGS
from .test_distill import losses

pytestmark = pytest.mark.heavy

STOPPING = str(Path(__file__).with_name("stopping.py"))
CODES = {"SIGINT": 130, "SIGTERM": 143}
HOUR = ("--save-every", "3600")


def stopped(update: int, signals: str, arguments: list[str]) -> tuple[int, list[str]]:
    """-> exit code, and the lines on stderr."""
    process = warm.Process(STOPPING, [update, signals, *arguments])
    _, err = process.communicate()
    return process.returncode, err.splitlines()


def command(standin, recipe, few, out: Path) -> list[str]:
    where = ["--prompts", str(few), "-o", str(out)]
    return ["distill", str(standin), "--recipe", str(recipe), *where]


def state_of(out: Path) -> Path:
    return out.parent / f".{out.name}.staging" / "state"


@pytest.mark.parametrize(
    ("name", "update"), [("SIGINT", 2), pytest.param("SIGTERM", 3, marks=pytest.mark.slow)]
)
def test_a_stop_writes_a_checkpoint_and_says_how_to_go_on(
    name, update, whole, standin, recipe, few, tmp_path
):
    out = tmp_path / "out put"
    words = command(standin, recipe, few, out)
    code, lines = stopped(update, name, [*words, *HOUR])
    assert code == CODES[name]
    typed = shlex.join(["bonsai-quant", *words, *HOUR, "--resume"])
    assert lines[-1] == f"stopped at update {update} of 6; continue with: {typed}"
    assert not out.exists()
    assert checkpoint.saved_step(state_of(out)) == update
    made = distill(str(standin), recipe=recipe, out=out, prompts=str(few), resume=True)
    assert made.record == whole.record | {"held_out": made.record["held_out"]}
    assert made.record["held_out"] == pytest.approx(whole.record["held_out"], rel=1e-3)
    assert losses(out) == pytest.approx(losses(whole.out), rel=1e-3)
    mine, theirs = (load_file(p / WEIGHTS) for p in (out, whole.out))
    same = [float((mine[n] == theirs[n]).float().mean()) for n in mine]
    assert sum(same) / len(same) > 0.99
    for file in ("curve.csv", "held_out.csv"):
        steps = [line.split(",")[0] for line in (out / file).read_text().splitlines()]
        assert steps == [line.split(",")[0] for line in (whole.out / file).read_text().splitlines()]


def test_a_second_signal_ends_at_once(standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    words = command(standin, recipe, few, out)
    code, lines = stopped(2, "SIGINT,SIGINT", [*words, *HOUR])
    assert code == 130
    assert not any("stopped at update" in line for line in lines)
    assert checkpoint.saved_step(state_of(out)) is None


def test_only_a_run_that_stops_by_itself_is_asked():
    assert not ask_to_stop(130)
    with stopping_by_itself() as request:
        assert not request.asked
        assert ask_to_stop(143)
        assert (request.asked, request.code) == (True, 143)
    assert not ask_to_stop(130)


def broken(*_):
    raise ModuleNotFoundError("No module named 'matplotlib'")


def test_what_only_draws_does_not_end_a_training(
    whole, standin, recipe, few, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(run_files, "plot", broken)
    made = distill(str(standin), recipe=recipe, out=tmp_path / "out", prompts=str(few))
    (warning,) = [r.getMessage() for r in caplog.records if "is not drawn" in r.getMessage()]
    assert "No module named 'matplotlib'" in warning
    assert not (made.out / "curve.png").exists()
    assert "curve.png" not in json.loads((made.out / "distillation.json").read_text())["files"]
    assert losses(made.out) == pytest.approx(losses(whole.out), rel=1e-3)


@pytest.mark.slow
def test_a_picture_that_was_drawn_before_a_stop_does_not_stay_when_drawing_fails(
    standin, recipe, few, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    words = command(standin, recipe, few, out)
    stopped(2, "SIGINT", [*words, *HOUR])
    assert (state_of(out).parent / "curve.png").exists()
    monkeypatch.setattr(run_files, "plot", broken)
    distill(str(standin), recipe=recipe, out=out, prompts=str(few), resume=True)
    assert not (out / "curve.png").exists()
    assert (out / "curve.csv").exists()


def test_recover_says_what_it_reuses(standin, few, tmp_path, caplog):
    recipe, out = tmp_path / "gptq.yaml", tmp_path / "packs"
    settings = {"solver": "gptq", "calibration": {"n_prompts": 2}, "distillation": SETTINGS}
    recipe.write_text(json.dumps({"mode": "ternary", **settings}))
    where = ["--prompts", str(few), "-o", str(out)]
    words = ["recover", str(standin), "--recipe", str(recipe), *where]
    code, lines = stopped(2, "SIGINT", words)
    assert code == 130
    typed = shlex.join(["bonsai-quant", *words, "--resume"])
    assert lines[-1] == f"stopped at update 2 of 6; continue with: {typed}"
    recover(str(standin), recipe=recipe, out=out, prompts=str(few), formats="bonsai", resume=True)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("bonsai_quant.training")]
    stages = [f"{out}-{stage}: reused" for stage in ("calibration", "rounded")]
    assert said == [*stages, "training: from update 2"]
    assert len(losses(Path(f"{out}-trained"))) == 6


def test_no_stage_behind_a_new_one_is_reused(tmp_path):
    """As after a run with --overwrite that was stopped: what stands there is older."""
    stages = _Stages("mini-klein", None, tmp_path / "packs", None, 0, True, True, None)
    for name in ("calibration", "rounded", "trained"):
        (tmp_path / f"packs-{name}").mkdir()
    (tmp_path / ".packs-rounded.staging").mkdir()
    folders = [tmp_path / f"packs-{name}" for name in ("calibration", "rounded", "trained")]
    assert [stages._reused(f) for f in folders] == [True, False, False]
    assert [stages._interrupted(f) for f in folders] == [False, True, False]
