"""Scores, what is kept of them, and how sure they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bonsai_quant import convert, score
from bonsai_quant.core import requirements as needs
from bonsai_quant.core.errors import BadInput, EnvironmentFault, OutputExists, UsageError
from bonsai_quant.evaluation.contact_sheet import check_png
from bonsai_quant.evaluation.scenes.world import CATEGORIES
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
    words = ("retention", "adjusted", "color_attribution", "failed for", "of 64 x 64")
    for word in (*words, "too few pictures"):
        assert word in text.out
    data = json.loads(run(*asked, "--json").out)
    assert data["schema_version"] == 1
    assert list(data["categories"]) == list(CATEGORIES)
    assert set(data["overall"]["score"]) == {"value", "low", "high"}
    assert data["settings"]["prompts_per_category"] == 3
    assert data["retention"]["overall"]["chance"] < 0.2
    assert data["retention"]["overall"]["retention"]["low"] is None
    assert (data["overall"]["prompts"], data["overall"]["interval"]) == (18, "wilson")
    assert set(data["retention"]["categories"]) == set(CATEGORIES)
    assert data["reference"]["overall"]["score"]["value"] > 0.9
    alone = json.loads(run("score", standin, "--prompts", 1, "--json").out)
    assert (alone["retention"], alone["reference"], alone["against"]) == (None, None, None)


def test_a_shipped_name_is_a_place(truth, shipped, tmp_path, run):
    convert("mini-klein", mode="ternary", formats="bonsai,mlx", out=tmp_path / "out")
    assert run("score", tmp_path / "out", "--prompts", 1, "--images", 1).code == 0
    result = run("score", "mini-klein", "--against", tmp_path / "out/mlx", "--prompts", 1)
    assert result.code == 0, result.err


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["nowhere"], 2, "no pack, pipeline folder or Hub id"),
    (["PACK"], 2, "pass --pipeline"),
    (["PACK", "--pipeline", "nowhere"], 2, "nowhere"),
    (["PIPE", "--pipeline", "PIPE"], 2, "--pipeline is for packs"),
    (["PIPE", "--split", "train"], 2, "unknown split 'train'"),
    (["PIPE", "--prompts", "0"], 2, "--prompts must be a whole number of at least 1"),
    (["PIPE", "--images", "-1"], 2, "--images must be a whole number of at least 1"),
    (["PIPE", "--seed", "-1"], 2, "--seed must be a whole number from 0"),
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
    assert (result.code, needs.install("run") in result.err) == (6, True)
    with pytest.raises(EnvironmentFault):
        score(standin)
    with pytest.raises((UsageError, EnvironmentFault)):
        score(standin, batch=0)


@pytest.mark.parametrize(
    "modes", [("ternary",), pytest.param(("ternary", "binary"), marks=pytest.mark.slow)]
)
def test_the_ladder_fills_its_page(modes, truth, standin, tmp_path, monkeypatch):
    from click.testing import CliRunner

    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root))
    from benchmarks import proxies, retention

    monkeypatch.setattr(retention, "MODES", modes)
    monkeypatch.setattr(retention, "N_PROMPTS", 8)
    few = {"steps": 1, "batch": 4, "at_once": 8, "validate_every": 1, "prompts": 2}
    monkeypatch.setattr(retention, "TUNING", few)
    monkeypatch.setattr(proxies, "EACH", 2)
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
    ways = ("absmean", "exact", "weighted", "gptq", "folded", "tuned")
    assert rungs == [(m, w) for m in modes for w in ways]
    for r in figures["rungs"]:
        assert set(r["proxies"]) == {"weights", "teacher", "own", "first", "latents"}
    own = {(r["mode"], r["way"]): r["proxies"]["own"] for r in figures["rungs"]}
    for mode in modes:
        assert own[mode, "gptq"] < own[mode, "exact"]
    page = (tmp_path / "quality.md").read_text()
    table = page.split("<!-- ladder -->")[1].split("<!-- /ladder -->")[0]
    rows = (f"| {modes[0]}, exact | ", f"| {modes[-1]}, gptq | ")
    for words in (*rows, "above chance", "rank corr"):
        assert words in table.lower()
    assert "## Its limits" in page
