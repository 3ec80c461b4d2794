"""Scores, what is kept of them, and how sure they are."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bonsai_quant import convert, score
from bonsai_quant.core import requirements as needs
from bonsai_quant.core.errors import BadInput, EnvironmentFault, OutputExists, UsageError
from bonsai_quant.evaluation.bootstrap import Resampled, adjusted_ratio, ratio, resample
from bonsai_quant.evaluation.contact_sheet import Cell, Row, check_png, draw_grid
from bonsai_quant.evaluation.gallery import (
    Gallery,
    Marks,
    chance_marks,
    judge,
    make_task,
    other_prompts,
    shrink,
)
from bonsai_quant.evaluation.scenes.draw import draw
from bonsai_quant.evaluation.scenes.layout import compose
from bonsai_quant.evaluation.scenes.scene import Meaning, Prompt, Want
from bonsai_quant.evaluation.scenes.world import CATEGORIES, SMALL
from bonsai_quant.evaluation.score import compare
from bonsai_quant.runners.picture_settings import Benchmark, read_benchmark
from bonsai_quant.storage.small_file import write_file
from tests.support import pipelines
from tests.support.watching import Watching

MINI = Benchmark(height=64, width=64, max_sequence_length=20)
"""mini-klein's own."""


@pytest.fixture
def truth(monkeypatch):
    """Pipelines draw what captions say; those named `ternary` or `binary` lie now and then."""
    lies = {"ternary": 0.3, "binary": 1.0}
    pipelines.draw_truth(
        monkeypatch, lambda place: next((v for k, v in lies.items() if k in place), 0.0)
    )


@pytest.fixture(scope="module")
def packs(standin, tmp_path_factory):
    """A folder with the packs `ternary` and `binary` of the stand-in."""
    out = tmp_path_factory.mktemp("packs")
    for mode in ("ternary", "binary"):
        convert(str(standin), mode=mode, formats="bonsai", out=out / mode)
    return out


# Intervals


def test_an_interval_holds_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("bonsai_quant.evaluation.bootstrap.RESAMPLES", 500)
    rng = np.random.default_rng(0)
    inside = 0
    for n in range(200):
        values = (rng.random((6, 100, 4)) < 0.8).mean(2)
        f = resample(values, seed=n)[0].figure()
        inside += f.low <= 0.8 <= f.high
    assert 0.90 <= inside / 200 <= 0.99


def test_pictures_of_a_prompt_are_drawn_together():
    # Four pictures that always agree tell no more than one.
    rng = np.random.default_rng(0)
    alone = (rng.random((6, 100)) < 0.5).astype(float)
    apart = (rng.random((6, 100, 4)) < 0.5).mean(2)
    wide, narrow = (resample(v, 0)[0].figure() for v in (alone, apart))
    assert 1.7 < (wide.high - wide.low) / (narrow.high - narrow.low) < 2.3


def test_the_same_seed_draws_the_same_prompts():
    values = np.random.default_rng(0).random((6, 20))
    a, b, c = resample(values, 1), resample(1 - values, 1), resample(values, 2)
    for x, y in zip(a, b, strict=True):
        assert np.allclose(x.resamples + y.resamples, 1)
    assert not np.array_equal(a[0].resamples, c[0].resamples)


def test_paired_ratios_are_surer_than_their_parts():
    rng = np.random.default_rng(0)
    reference = (rng.random((6, 100)) < 0.6).astype(float)
    kept = reference * (rng.random((6, 100)) < 0.9)
    a, b = resample(kept, 0)[0], resample(reference, 0)[0]
    paired = ratio(a, b)
    unpaired = ratio(a, resample(reference, 1)[0])
    assert paired.value == pytest.approx(kept.mean() / reference.mean(), abs=1e-6)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_a_share_of_nothing_is_not_told():
    some, none = Resampled(0.5, np.array([0.4, 0.6])), Resampled(0.0, np.array([0.0, 0.0]))
    rare = Resampled(0.1, np.array([0.0, 0.2]))
    assert ratio(some, none).value is None
    assert (ratio(some, rare).value, ratio(some, rare).low) == (5.0, None)
    assert adjusted_ratio(some, some, none).value == 1.0
    assert adjusted_ratio(none, some, none).value == 0.0
    assert adjusted_ratio(some, none, some).value is None


# The task


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


# Galleries


def gallery(name, *, other=False, images=2, per_category=8):
    """Pictures of each prompt, or each of another prompt."""
    task = make_task(MINI, "test", per_category, images, 0)
    rng, n = np.random.default_rng(0), len(task.prompts)
    shown = [other_prompts(task.prompts, 1, k) if other else range(n) for k in range(images)]
    meanings = [[task.prompts[order[i]].meaning for order in shown] for i in range(n)]
    pictures = np.stack([[draw(compose(m, SMALL, rng), 64) for m in row] for row in meanings])
    return Gallery(name, task, pictures, judge(pictures, task.prompts, SMALL))


def test_true_pictures_pass_and_those_of_other_captions_are_worth_nothing():
    right, wrong = gallery("right"), gallery("wrong", other=True)
    luck = chance_marks(right)
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


def test_the_tables_are_the_means_of_the_marks():
    task = make_task(MINI, "test", 2, 2, 0)
    passed = np.zeros((12, 2), bool)
    passed[:2] = True  # single_object, all
    passed[2, 0] = True  # two_objects, one of four
    marks = Marks(passed, np.where(passed, 1.0, 0.5), np.where(passed, "", "shape"))
    pictures = np.zeros((12, 2, 64, 64, 3), np.uint8)
    model = compare(Gallery("x", task, pictures, marks)).model
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


# benchmark.json


def test_settings_come_from_the_pipeline(standin, tmp_path):
    assert read_benchmark(standin) == MINI
    klein = read_benchmark(tmp_path)
    assert (klein.height, klein.num_inference_steps, klein.max_sequence_length) == (512, 4, 512)
    assert (klein.world, klein.guidance_scale) == ("small", 1.0)


@pytest.mark.parametrize("text", [
    '{"height": 0}', '{"height": "64"}', '{"hight": 64}', "[]", "{",
    '{"num_inference_steps": 100000}', '{"guidance_scale": -1}', '{"height": 1e3}',
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path, text):
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(BadInput, match=r"benchmark\.json"):
        read_benchmark(tmp_path)


def test_a_world_that_is_not_there_is_refused(standin, tmp_path):
    folder = shutil.copytree(standin, tmp_path / "p")
    (folder / "benchmark.json").write_text('{"world": "huge"}')
    with pytest.raises(BadInput, match=r"benchmark\.json: world: no world 'huge'"):
        score(folder, prompts=1, images=1)


def test_pictures_of_other_sizes_are_judged_at_the_world_s(standin, tmp_path):
    folder = shutil.copytree(standin, tmp_path / "p")
    settings = MINI.model_dump() | {"height": 96, "width": 128, "num_inference_steps": 1}
    (folder / "benchmark.json").write_text(json.dumps(settings))
    result = score(folder, prompts=1, images=1, grid=tmp_path / "g.png")
    assert (result.task.benchmark.width, result.model.overall.pictures) == (128, 6)


# The function and the command


def test_a_pack_beside_its_source(truth, standin, packs, tmp_path):
    result = score(
        packs / "ternary", against=str(standin), prompts=8, images=2, grid=tmp_path / "g.png"
    )
    assert result.reference.overall.score.value > 0.98
    assert 0.5 < result.model.overall.score.value < 0.9
    kept = result.kept[0]
    assert kept.retention.low < 0.7 < kept.retention.high
    assert kept.adjusted.value < kept.retention.value
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    again = score(packs / "ternary", pipeline=str(standin), prompts=8, images=2, batch=7)
    assert again.model == result.model
    assert (again.reference, again.kept) == (None, ())


def test_a_random_model_paints_nothing_that_passes(standin, packs):
    watching = Watching()
    result = score(
        packs / "binary", against=str(standin), prompts=1, images=1,
        progress=watching,
    )  # fmt: skip
    assert result.model.overall.score.value == 0
    assert result.kept[0].retention.value is None
    assert [(p[1], p[2]) for p in watching.phases] == [(6, "pictures")] * 2
    assert watching.done == [6, 6]


def test_the_command_prints_tables_or_json(truth, standin, packs, run):
    asked = ("score", packs / "ternary", "--against", standin, "--prompts", 3, "--images", 2)
    text = run(*asked)
    assert (text.code, text.err) == (0, "")
    for word in ("retention", "adjusted", "color_attribution", "failed for", "of 64 x 64"):
        assert word in text.out
    data = json.loads(run(*asked, "--json").out)
    assert data["schema_version"] == 1
    assert list(data["categories"]) == list(CATEGORIES)
    assert set(data["overall"]["score"]) == {"value", "low", "high"}
    assert data["settings"]["prompts_per_category"] == 3
    assert data["retention"]["overall"]["chance"] < 0.2
    assert set(data["retention"]["categories"]) == set(CATEGORIES)
    assert data["reference"]["overall"]["score"]["value"] > 0.9
    alone = json.loads(run("score", standin, "--prompts", 1, "--json").out)
    assert (alone["retention"], alone["reference"], alone["against"]) == (None, None, None)


def test_a_shipped_name_is_a_place(truth, shipped, tmp_path, run):
    convert("mini-klein", mode="ternary", out=tmp_path / "out")
    assert run("score", tmp_path / "out", "--prompts", 1, "--images", 1).code == 0
    result = run("score", "mini-klein", "--against", tmp_path / "out/mlx", "--prompts", 1)
    assert result.code == 0, result.err


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["nowhere"], 2, "no pack, pipeline folder or Hub id"),
    (["PACK"], 2, "pass --pipeline"),
    (["PACK", "--pipeline", "nowhere"], 2, "nowhere"),
    (["PIPE", "--pipeline", "PIPE"], 2, "--pipeline is for packs"),
    (["PIPE", "--split", "train"], 2, "unknown split 'train'"),
    (["PIPE", "--prompts", "0"], 2, "prompts must be at least 1"),
    (["PIPE", "--images", "-1"], 2, "images must be at least 1"),
    (["PIPE", "--seed", "-1"], 2, "seed must be at least 0"),
    (["PIPE", "--prompts", "999999"], 2, "more than 1,000,000 pictures"),
    (["PIPE", "--grid", "no/such/g.png"], 6, "is no folder"),
])  # fmt: skip
def test_mistakes_get_one_line_and_a_code(run, standin, packs, arguments, code, words):
    names = {"PACK": packs / "ternary", "PIPE": standin}
    result = run("score", *(names.get(a, a) for a in arguments))
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_models_that_are_painted_differently_are_not_compared(standin, tmp_path, run):
    other = shutil.copytree(standin, tmp_path / "other")
    settings = json.loads((other / "benchmark.json").read_text())
    (other / "benchmark.json").write_text(json.dumps(settings | {"num_inference_steps": 8}))
    result = run("score", standin, "--against", other)
    assert (result.code, "different benchmark.json" in result.err) == (3, True)


def test_grids_are_not_written_over(tmp_path, run, standin, truth):
    path = tmp_path / "g.png"
    asked = ("score", standin, "--prompts", 1, "--images", 1, "--grid", path)
    assert run(*asked).code == 0
    again = run(*asked)
    assert (again.code, "--overwrite" in again.err) == (7, True)
    assert run(*asked, "--overwrite").code == 0
    with pytest.raises(OutputExists, match="appeared while"):
        write_file(path, b"", overwrite=False)
    path.write_text("years of work")
    with pytest.raises(OutputExists, match="no PNG"):
        check_png(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["g.png"]


def test_without_torch_it_says_what_to_install(monkeypatch, run, standin):
    monkeypatch.setattr(needs, "installed", lambda name: None)
    result = run("score", standin)
    assert (result.code, "pip install 'bonsai-quant[run]'" in result.err) == (6, True)
    with pytest.raises(EnvironmentFault):
        score(standin)
    with pytest.raises((UsageError, EnvironmentFault)):
        score(standin, batch=0)


def test_the_ladder_fills_its_page(truth, standin, tmp_path, monkeypatch):
    from click.testing import CliRunner

    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root))
    from benchmarks import retention

    monkeypatch.setattr(retention, "N_PROMPTS", 16)
    (tmp_path / "quality.md").write_text((root / "docs/quality.md").read_text())
    options = {
        "--source": standin,
        "--work": tmp_path / "w",
        "--docs": tmp_path,
        "--results": tmp_path,
        "--prompts": 2,
        "--images": 1,
    }
    arguments = [str(x) for pair in options.items() for x in pair]
    done = CliRunner().invoke(retention.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    figures = json.loads((tmp_path / "retention.json").read_text())
    rungs = [(r["mode"], r["way"]) for r in figures["rungs"]]
    ways = ("absmean", "exact", "weighted", "gptq", "folded")
    assert rungs == [(m, w) for m in ("ternary", "binary") for w in ways]
    for r in figures["rungs"]:
        assert set(r["proxies"]) == {"weights", "teacher", "own", "first", "latents"}
    own = {(r["mode"], r["way"]): r["proxies"]["own"] for r in figures["rungs"]}
    assert own["ternary", "gptq"] < own["ternary", "exact"] < own["binary", "exact"]
    page = (tmp_path / "quality.md").read_text()
    table = page.split("<!-- ladder -->")[1].split("<!-- /ladder -->")[0]
    for words in ("| ternary, exact | ", "| binary, gptq | ", "above chance", "rank corr"):
        assert words in table.lower()
    assert "## Its limits" in page
