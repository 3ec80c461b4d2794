"""Tasks, the judgement of pictures, and what chance scores."""

from __future__ import annotations

import io

import numpy as np
import pytest

from bonsai_quant.evaluation.contact_sheet import Cell, Row, draw_grid
from bonsai_quant.evaluation.gallery import Gallery, hang
from bonsai_quant.evaluation.judging import (
    Marks,
    judge,
    judge_batch,
    other_captions,
    other_prompts,
    shrink,
)
from bonsai_quant.evaluation.scenes.draw import draw
from bonsai_quant.evaluation.scenes.layout import compose
from bonsai_quant.evaluation.scenes.scene import Meaning, Prompt, Want
from bonsai_quant.evaluation.scenes.world import CATEGORIES, SMALL
from bonsai_quant.evaluation.score import compare
from bonsai_quant.evaluation.task import make_task
from bonsai_quant.runners.picture_settings import Benchmark

MINI = Benchmark(height=64, width=64, max_sequence_length=20)
"""mini-klein's own."""


def test_prompts_and_seeds_of_a_small_task_begin_those_of_a_large_one():
    small, large = (make_task(MINI, "test", n, 3, seed=5) for n in (2, 7))
    assert (small.per_category, len(small.prompts), len(small.seeds)) == (2, 12, 36)
    both = [dict(zip(zip(t.texts, t.seeds, strict=True), t.seeds, strict=True))
            for t in (small, large)]  # fmt: skip
    assert set(both[0]) < set(both[1])
    assert len(set(large.seeds)) == len(large.seeds)
    assert all(0 <= s < 2**63 for s in large.seeds)
    other = make_task(MINI, "test", 2, 3, seed=6)
    assert other.texts == small.texts
    assert not set(other.seeds) & set(small.seeds)


def test_strangers_say_something_else():
    asked = make_task(MINI, "test", 50, 1, 0).prompts
    donors = other_prompts(asked, 0)
    assert sorted(donors) == list(range(len(asked)))
    assert all(asked[d].meaning != p.meaning for d, p in zip(donors, asked, strict=True))
    assert np.array_equal(donors, other_prompts(asked, 0))
    same = [Prompt("a circle", Meaning("colors", (Want("circle"),)))] * 4
    assert other_prompts(same, 0) is None


def test_pictures_are_shrunk_by_means():
    picture = np.zeros((1, 128, 128, 3), np.uint8)
    picture[:, ::2] = 100
    assert np.array_equal(np.unique(shrink(picture, 64)), [50])
    assert shrink(picture, 128) is picture


def gallery(name, *, other=False, images=2, per_category=8):
    """Pictures of each prompt, or each of another prompt."""
    task = make_task(MINI, "test", per_category, images, 0)
    rng, n = np.random.default_rng(0), len(task.prompts)
    shown = [other_prompts(task.prompts, 1, k) if other else range(n) for k in range(images)]
    meanings = [[task.prompts[order[i]].meaning for order in shown] for i in range(n)]
    pictures = np.stack([[draw(compose(m, SMALL, rng), 64) for m in row] for row in meanings])
    flat = pictures.reshape(-1, *pictures.shape[2:])
    others = other_captions(task)
    halves = [slice(0, len(flat) // 2), slice(len(flat) // 2, None)]
    made = hang(name, task, [judge_batch(flat[h], task, others, h.start) for h in halves])
    return made, pictures


@pytest.mark.heavy
def test_true_pictures_pass_and_those_of_other_captions_are_worth_nothing():
    right, wrong = gallery("right")[0], gallery("wrong", other=True)[0]
    luck = right.chance
    assert luck.passed.mean() < 0.1
    result = compare(wrong, right)
    assert result.reference.overall.score.value > 0.98
    overall = result.kept[0]
    assert overall.chance == pytest.approx(luck.passed.mean(), abs=1e-6)
    assert abs(overall.adjusted.value) < 0.1
    assert overall.adjusted.low <= 0 <= overall.adjusted.high
    itself = compare(right, right).kept[0]
    assert (itself.retention.value, itself.adjusted.value) == (1.0, 1.0)
    assert (itself.retention.low, itself.retention.high) == (1.0, 1.0)


@pytest.mark.heavy
def test_batches_are_judged_like_the_whole():
    made, pictures = gallery("some", images=3)
    task = made.task
    judged = judge(pictures, task.prompts, SMALL)
    donors = np.stack([other_prompts(task.prompts, task.seed, k) for k in range(3)], axis=1)
    moved = judge(pictures[donors, np.arange(3)], task.prompts, SMALL)
    for mine, whole in ((made.marks, judged), (made.chance, moved)):
        assert np.array_equal(mine.passed, whole.passed)
        assert np.array_equal(mine.continuous, whole.continuous)
        assert np.array_equal(mine.failures, whole.failures)
    assert moved.continuous.std() > 0
    places = {(c * 8 + i, k) for c in range(6) for i in (0, 1) for k in (0, 1)}
    assert set(made.shown) == places
    assert all(np.array_equal(p, pictures[place]) for place, p in made.shown.items())


def test_the_tables_are_the_means_of_the_marks():
    task = make_task(MINI, "test", 2, 2, 0)
    passed = np.zeros((12, 2), bool)
    passed[:2] = True  # single_object, all
    passed[2, 0] = True  # two_objects, one of four
    marks = Marks(passed, np.where(passed, 1.0, 0.5), np.where(passed, "", "shape"))
    model = compare(Gallery("x", task, marks, None, {})).model
    by_name = {c.name: c for c in model.categories}
    assert list(by_name) == list(CATEGORIES)
    assert by_name["single_object"].score.value == 1
    assert by_name["two_objects"].score.value == 0.25
    assert by_name["two_objects"].failures == {"shape": 3}
    assert by_name["colors"].continuous == 0.5
    assert model.overall.score.value == pytest.approx(1.25 / 6, abs=1e-6)
    assert (model.overall.pictures, model.overall.failures) == (24, {"shape": 19})


def test_a_grid_shows_pictures_where_they_belong():
    from PIL import Image

    red, blue = (np.full((64, 64, 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))
    rows = [Row("a long caption " * 8, (Cell(red, True), Cell(blue, False)))] * 3
    data = draw_grid(["one", "two"], rows)
    assert data == draw_grid(["one", "two"], rows)
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for colour in ((200, 0, 0), (0, 0, 200)):
        count = (image == colour).all(-1).sum()
        assert 0.95 * 3 * 128 * 128 < count <= 3 * 128 * 128


def ink_of(caption, head="one"):
    """Where a sheet of one row has ink: [height, width] bool."""
    from PIL import Image

    grey = np.full((64, 64, 3), 255, np.uint8)
    data = draw_grid([head], [Row(caption, (Cell(grey, True),))])
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")) < 128


def test_a_caption_has_its_spaces_and_is_not_cut():
    columns = np.flatnonzero(ink_of("mm mm")[:, :200].any(0))
    assert np.diff(columns).max() >= 5  # between the words; between letters at most 3
    short, long = ink_of("words " * 10), ink_of("words " * 100)
    assert long.shape[0] > short.shape[0]
    assert long[:, :200].sum() == pytest.approx(10 * short[:, :200].sum(), rel=0.1)


def test_a_wide_word_and_a_long_head_stay_in_their_columns():
    assert not ink_of("x" * 200)[:, 206:214].any()
    ink = ink_of("a", head="name-of-a-model-" * 6)
    assert not ink[:, -10:].any()
    assert ink.shape[0] > ink_of("a").shape[0]
