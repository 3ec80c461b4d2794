"""An interrupted score goes on where it was, to the same answer."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bonsai_quant import score
from bonsai_quant.core.errors import OutputExists, UsageError
from bonsai_quant.evaluation.judging import Judged
from bonsai_quant.evaluation.kept import Kept
from bonsai_quant.runners.torch import dense
from tests.support import pipelines
from tests.support.watching import Watching

TASK = {"prompts": 2, "images": 3, "batch": 7}
"""36 pictures of each model, in batches of 7: the last has one."""


class Stop(BaseException):
    pass


@pytest.fixture
def painted(monkeypatch):
    """Pipelines that draw captions. The number of pictures of each place, and when to stop."""
    pipelines.draw_truth(monkeypatch, lambda place: 0.4 if "other" in place else 0.1)
    counts, draw = {}, dense.paint_dense

    def paint(pipe, texts, *arguments, **options):
        if sum(counts.values()) >= counts_until[0]:
            raise Stop
        counts[pipe] = counts.get(pipe, 0) + len(texts)
        return draw(pipe, texts, *arguments, **options)

    counts_until = [10**6]
    monkeypatch.setattr(dense, "paint_dense", paint)
    return counts, counts_until


@pytest.fixture
def pair(standin, tmp_path):
    """A model and another of the same bytes."""
    return str(standin), str(shutil.copytree(standin, tmp_path / "other"))


@pytest.mark.parametrize("until", [0, 7, 35, 36, 50, 71])
def test_a_stopped_score_goes_on_to_the_same_answer(painted, pair, tmp_path, until):
    counts, stop = painted
    one, other = pair
    whole = score(other, against=one, **TASK, grid=tmp_path / "whole.png")
    counts.clear()
    stop[0] = until
    with pytest.raises(Stop):
        score(other, against=one, **TASK, out=tmp_path / "kept")
    stop[0] = 10**6
    watching = Watching()
    again = score(other, against=one, **TASK, out=tmp_path / "kept", resume=True,
                  grid=tmp_path / "again.png", progress=watching)  # fmt: skip
    assert again == whole
    assert counts == {one: 36, other: 36}
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert watching.of(f"painting with {one}") == (36, 36)
    assert score(other, against=one, **TASK, out=tmp_path / "kept", resume=True) == whole
    assert counts == {one: 36, other: 36}


def test_a_damaged_batch_is_painted_again(painted, pair, tmp_path, caplog):
    counts, _ = painted
    one, _ = pair
    whole = score(one, **TASK, out=tmp_path / "kept")
    files = sorted((tmp_path / "kept").glob("model0-*.json"))
    assert len(files) == 6
    files[0].write_text("{")
    record = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(record | {"own": record["own"][:-1]}))
    files[2].unlink()
    counts.clear()
    assert score(one, **TASK, out=tmp_path / "kept", resume=True) == whole
    assert counts == {one: 21}
    assert [f.name in caplog.text for f in files[:4]] == [True, True, False, False]


@pytest.mark.parametrize(("change", "key"), [
    ({"prompts": 3}, "prompts_per_category: 2, not 3"),
    ({"seed": 1}, "seed: 0, not 1"),
    ({"batch": 8}, "batch: 7, not 8"),
    ({"split": "dev"}, "split: 'test', not 'dev'"),
    ({"against": "ONE"}, "models"),
])  # fmt: skip
def test_another_score_is_no_continuation(painted, pair, tmp_path, change, key):
    counts, _ = painted
    one, _ = pair
    out = tmp_path / "kept"
    score(one, **TASK, out=out)
    change = {k: one if v == "ONE" else v for k, v in change.items()}
    with pytest.raises(OutputExists, match=key):
        score(one, **(TASK | change), out=out, resume=True)
    with pytest.raises(OutputExists, match="pass --resume to go on with it"):
        score(one, **TASK, out=out)
    assert counts == {one: 36}


def test_another_model_is_no_continuation(painted, pair, tmp_path):
    one, other = pair
    score(one, **TASK, out=tmp_path / "kept")
    assert score(other, **TASK, out=tmp_path / "kept", resume=True).model.overall.pictures == 36
    path = next((tmp_path / "other/vae").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputExists, match="models"):
        score(other, **TASK, out=tmp_path / "kept", resume=True)


def test_folders_of_others_are_left_alone(painted, pair, tmp_path, caplog):
    one, _ = pair
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(OutputExists, match="holds other files"):
            score(one, **TASK, out=tmp_path / "mine", resume=resume)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="give -o FOLDER"):
        score(one, **TASK, resume=True)
    score(one, **TASK, out=tmp_path / "new", resume=True)
    assert "nothing there to resume" in caplog.text


def test_a_batch_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    shown = {3: rng.integers(0, 256, (64, 64, 3), np.uint8)}
    judged = Judged([(True, 1 / 3, ""), (False, 0.1, "shape")], None, shown)
    keeper = Kept(tmp_path).of(1)
    keeper.add(3, judged)
    back = keeper.find(3, 2)
    assert (back.own, back.chance) == (judged.own, None)
    assert np.array_equal(back.shown[3], shown[3])
    assert keeper.find(5, 2) is None
    assert Kept(tmp_path).of(0).find(3, 2) is None
