"""What stands on a report's page, from pictures that were not painted for it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bonsai_quant import convert, report
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.evaluation.scenes.grammar import prompts as captions
from bonsai_quant.evaluation.scenes.world import SMALL
from bonsai_quant.packs.manifest import conversion
from bonsai_quant.publishing.report import charts, gallery, likeness, page, tables
from bonsai_quant.publishing.report.names import short_names
from bonsai_quant.publishing.report.records import Asked, Scenes
from bonsai_quant.publishing.report.share_card import draw_card
from bonsai_quant.publishing.report.tiles import cards
from bonsai_quant.verification.levels.check import Check
from bonsai_quant.verification.verify import Verdict

pytestmark = pytest.mark.heavy

FILES = [("report.json", "data"), ("share.png", "card")]


@pytest.fixture(scope="module")
def bare(tiny, tmp_path_factory):
    """A report on both modes of the tiny checkpoint, of which no pictures can be painted."""
    folder = tmp_path_factory.mktemp("bare")
    for mode in ("ternary", "binary"):
        convert(str(tiny), mode=mode, formats="bonsai", out=folder / mode)
    return report([folder / "ternary", folder / "binary"], out=folder / "report")


def drawn(n_models=3, size=64, names=("source", "ternary", "binary"), asked=None):
    """Pictures of noise, the later models further from the first; nobody trained for them."""
    rng = np.random.default_rng(0)
    scenes = captions(SMALL, "test", per_category=1)
    texts = tuple(p.text for p in scenes)
    asked = asked or Asked(texts, tuple(range(6)), PictureSettings(size, size, 4, 1.0, 20),
                           "Nobody chose.", Scenes(scenes, SMALL))  # fmt: skip
    first = rng.integers(0, 200, (len(asked.prompts), size, size, 3))
    stack = [first + rng.integers(0, 20 * i + 1, first.shape) for i in range(n_models)]
    return gallery.compare(names[:n_models], asked, np.stack(stack).astype(np.uint8), True)


def rendered(result):
    return page.render(result, FILES)


def test_every_model_has_a_name_of_its_own():
    assert short_names(["a/ternary", "binary", "mini-klein"]) == ["ternary", "binary", "mini-klein"]
    assert short_names(["a/mlx", "/x/b/mlx/"]) == ["a/mlx", "b/mlx"]
    assert short_names(["pack", "pack"]) == ["pack", "pack"]
    assert short_names(["owner/model", "."])[0] == "model"
    assert short_names(["."]) == [Path.cwd().name]
    assert short_names([]) == []


def test_tiles_say_only_what_was_measured(bare):
    (ternary, _) = cards(bare)
    figures = {f["what"]: f["figure"] for f in ternary["figures"]}
    assert figures["Score"] == figures["PSNR"] == "not measured"
    assert figures["Checks passed"] == "2 of 2"
    ternary, binary = cards(replace(bare, gallery=drawn()))
    figures = {f["what"]: f["figure"] for f in ternary["figures"]}
    assert re.fullmatch(r"\d+\.\d dB", figures["PSNR"])
    assert re.fullmatch(r"0\.\d{3}", figures["SSIM"])
    assert figures["Pictures as asked"].endswith(" of 6")
    assert ternary["before"] == binary["before"]
    assert float(binary["times"]) > float(ternary["times"]) > 1


def test_ticks_and_crosses_are_the_checker_s(bare):
    made = replace(drawn(), failures=(("",) * 6, ("", "colour") + ("",) * 4, ("nothing",) * 6))
    text = rendered(replace(bare, gallery=made))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert sum("✓ as asked" in c for c in captions) == 11
    assert sum("✗ wrong colour" in c for c in captions) == 1
    assert sum("✗ shows nothing" in c for c in captions) == 6
    own = Asked(("a cat",), (7,), PictureSettings(64, 64, 4, 1.0, 20), "The user's own.")
    text = rendered(replace(bare, gallery=drawn(asked=own)))
    assert "verdict" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    assert "a cat" in text
    assert "seed 7" in text
    assert "The user&#39;s own." in text


def test_each_picture_says_what_it_is_to_those_who_do_not_see_it(bare):
    text = rendered(replace(bare, gallery=drawn()))
    pictures = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', text)
    assert len(pictures) >= 18
    assert all(pictures)
    assert "a big cross on a light background, painted by ternary" in pictures
    for control in re.findall(r"<(?:select|input)[^>]*>", text):
        assert re.search(r'id="(row|left|right|slide|divided|difference)"', control)
    assert text.count("<label") >= 6
    assert "prefers-reduced-motion" in text


def test_without_what_draws_the_page_says_so_and_has_the_numbers(bare, monkeypatch):
    monkeypatch.setattr(page, "missing", lambda names: f"{names[0]} not installed")
    text = rendered(bare)
    assert "svg+xml" not in text
    assert "No charts: matplotlib not installed; pip install" in text
    assert text.count('<table class="heat">') >= 4


def test_without_torchmetrics_ssim_is_not_measured(bare, monkeypatch):
    monkeypatch.setattr(likeness, "missing", lambda names: "torchmetrics not installed")
    made = drawn()
    assert (made.ssim, made.no_ssim) == ((), "torchmetrics not installed")
    text = rendered(replace(bare, gallery=made))
    assert "SSIM was not measured: torchmetrics not installed" in text
    assert ">SSIM 0" not in text


def test_ssim_is_one_for_equal_pictures_and_falls_with_the_structure():
    rng = np.random.default_rng(1)
    edge = np.zeros((1, 64, 64, 3), np.uint8)
    edge[:, :, 32:] = 255
    assert likeness.ssim(edge, edge) == [1.0]
    brighter = np.clip(edge.astype(int) + 12, 0, 255).astype(np.uint8)
    noise = np.clip(edge + rng.normal(0, 12, edge.shape), 0, 255).astype(np.uint8)
    assert likeness.ssim(edge, brighter)[0] > likeness.ssim(edge, noise)[0]


@pytest.mark.parametrize("ink", [charts.LIGHT, charts.DARK])
def test_a_chart_s_legend_has_every_series(bare, ink):
    figure = charts.draw_errors(list(bare.packs), ink)
    (legend,) = figure.legends
    lines = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert [t.get_text() for t in legend.texts] == lines
    assert lines == ["ternary", "binary", "single blocks begin"]
    for name, line in zip(("ternary", "binary"), figure.axes[0].lines, strict=False):
        pack = next(p for p in bare.packs if p.name == name)
        assert list(line.get_ydata()) == list(tables.errors(pack).values())


def test_layers_stand_in_the_order_of_the_network(bare):
    names = ["single_transformer_blocks.0.b", "transformer_blocks.10.a", "transformer_blocks.2.a"]
    layer = bare.packs[0].survey.layers[0]
    layers = tuple(replace(layer, name=n) for n in names)
    pack = replace(bare.packs[0], survey=replace(bare.packs[0].survey, layers=layers))
    assert list(tables.errors(pack)) == names[::-1]
    assert len(tables.errors(bare.packs[0])) == len(bare.packs[0].survey.layers)


def test_charts_have_a_light_and_a_dark_picture_and_words(bare):
    chart = charts.error_chart(bare.packs)
    assert chart.light != chart.dark
    worst = max(s.relative_error for p in bare.packs for s in p.survey.layers)
    assert f"the largest is {worst:.3f}" in chart.says
    assert charts.error_chart(bare.packs).light == chart.light
    text = rendered(bare)
    sources = re.findall(r'<source media="\(prefers-color-scheme: dark\)" srcset="([^"]*)"', text)
    assert chart.dark in sources


def with_errors(pack, errors):
    layers = [replace(s, relative_error=e)
              for s, e in zip(pack.survey.layers, errors, strict=False)]  # fmt: skip
    return replace(pack, survey=replace(pack.survey, layers=tuple(layers)))


def test_colours_have_a_floor(bare):
    """Layers that are all but equal are all but equally coloured, and the legend says how far."""
    pack = bare.packs[0]
    n = len(pack.survey.layers)
    heat = tables.heat(with_errors(pack, [0.45 + 0.001 * (i % 2) for i in range(n)]))
    shades = {c["shade"] for t in heat["tables"] for r in t["rows"] for c in r["cells"] if c}
    assert shades == {0}
    assert (heat["low"], heat["high"]) == ("0.450", "0.550")
    heat = tables.heat(with_errors(pack, [0.2 + 0.4 * (i == 3) for i in range(n)]))
    shades = [c["shade"] for t in heat["tables"] for r in t["rows"] for c in r["cells"] if c]
    assert sorted(shades) == [0] * (len(shades) - 1) + [tables.SHADES]
    assert (heat["low"], heat["high"]) == ("0.200", "0.600")


def test_words_about_colours_are_true_on_light_and_dark_paper(bare):
    text = rendered(bare)
    assert "the stronger the colour, the larger the error" in text
    assert "darkest" not in text
    legend = re.search(r'<p class="legend">(.*?)</p>', text)[1]
    assert re.findall(r'class="h(\d+)"', legend) == [str(i) for i in range(tables.SHADES + 1)]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    for scheme in re.findall(r":root \{ (.*?) \}", style):
        colour = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", scheme))
        assert contrast(colour["panel"], colour["heat"]) > 1.5  # the strongest from the palest


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    """WCAG's ratio, 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_letters_stand_out_from_what_is_behind_them(bare):
    style = re.search(r"<style>(.*?)</style>", rendered(bare), re.S)[1]
    schemes = re.findall(r":root \{ (.*?) \}", style)
    assert len(schemes) == 2
    for scheme in schemes:
        c = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", scheme))
        for ink, papers in {"ink": ("paper", "panel", "heat", "alarm"), "soft": ("paper", "panel"),
                            "accent": ("paper", "panel"), "good": ("paper", "panel"),
                            "bad": ("paper", "panel", "alarm")}.items():  # fmt: skip
            for paper in papers:
                assert contrast(c[ink], c[paper]) >= 4.5, (ink, paper, c)


def test_failed_checks_stand_at_the_top(bare):
    wrong = Check("codes", "a pack", "failed", "layer <7> is wrong")
    pack = replace(bare.packs[0], verdict=Verdict((*bare.packs[0].verdict.checks, wrong)))
    result = replace(bare, packs=(pack, bare.packs[1]))
    assert result.failed == (("ternary", wrong),)
    text = rendered(result)
    alarm = re.search(r'role="alert">(.*?)</div>', text, re.S)[1]
    assert "1 check failed" in alarm
    assert "layer &lt;7&gt; is wrong" in alarm
    assert text.index('role="alert"') < text.index('class="cards"')
    assert 'role="alert"' not in rendered(bare)


def recorded(pack, value=0.9):
    figure = {"value": value, "low": 0.85, "high": 0.95}
    category = {"pictures": 24, "score": figure, "continuous": 0.9, "failures": {}}
    model = {"overall": category, "categories": {"colors": category, "counting": category}}
    kept = {"retention": figure, "chance": 0.1, "adjusted": figure}
    return {
        "place": "ternary", "against": "tiny", "conversion": conversion(pack.manifest),
        "format": "bonsai", **model, "reference": model,
        "retention": {"overall": kept, "categories": {"colors": kept, "counting": kept}},
        "settings": {"split": "test", "prompts_per_category": 4, "images_per_prompt": 1, "seed": 0,
                     "width": 64, "height": 64, "num_inference_steps": 4},
    }  # fmt: skip


def test_a_recorded_score_is_on_the_page(bare):
    pack = replace(bare.packs[0], score=recorded(bare.packs[0]))
    result = replace(bare, packs=(pack, bare.packs[1]))
    text = rendered(result)
    assert "90.0 % (85.0 to 95.0)" in text
    assert "Scores by category with 95 % intervals" in text
    tile = next(f for f in cards(result)[0]["figures"] if f["what"] == "Score")
    assert (tile["figure"], tile["note"]) == (
        "90.0 %",
        "of the source's score is kept, 85.0 to 95.0",
    )
    figure = charts.draw_scores([pack], charts.LIGHT)
    assert [t.get_text() for t in figure.legends[0].texts] == ["tiny", "ternary"]
    assert "Not measured. <code>bonsai-quant score" in rendered(bare)


def test_a_score_finds_its_pack_and_no_other(bare, tmp_path):
    from bonsai_quant.core.errors import BadInput

    folder = bare.out.parent
    path = tmp_path / "score.json"
    path.write_text(json.dumps(recorded(bare.packs[0])))
    result = report([folder / "ternary", folder / "binary"], out=tmp_path / "report", scores=[path])
    assert [p.score is not None for p in result.packs] == [True, False]
    with pytest.raises(BadInput, match="about none of these packs"):
        report(folder / "binary", out=tmp_path / "other", scores=[path])
    path.write_text('{"overall": 1}')
    with pytest.raises(BadInput, match="not what `bonsai-quant score --json` prints"):
        report(folder / "ternary", out=tmp_path / "other", scores=[path])
    assert not (tmp_path / "other").exists()


def test_the_card_for_links_has_its_size_and_the_pictures(bare):
    image = Image.open(io.BytesIO(draw_card(replace(bare, gallery=drawn()))))
    assert image.size == (1200, 630)
    pixels = np.asarray(image.convert("RGB"))
    assert pixels[400:, 300:].std() > 2 * np.asarray(
        Image.open(io.BytesIO(draw_card(bare))).convert("RGB"))[400:, 300:].std()  # fmt: skip
    long = replace(bare, packs=tuple(replace(p, name="x" * 300) for p in bare.packs))
    assert not (
        np.asarray(Image.open(io.BytesIO(draw_card(long))).convert("L"))[20:, -20:] < 128
    ).any()
    text = rendered(bare)
    assert '<meta property="og:image" content="share.png">' in text
    assert "og:image" not in page.render(bare, FILES[:1])


def test_large_pictures_are_small_files_and_small_ones_exact(bare):
    from bonsai_quant.publishing.report.embed import picture_url

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert picture_url(small).startswith("data:image/png;base64,")
    assert picture_url(np.zeros((512, 512, 3), np.uint8)).startswith("data:image/webp;base64,")


def test_a_failed_check_ends_the_command_with_5_and_the_page_is_there(tiny, tmp_path, run):
    from tests.support import forge

    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "pack")
    forge.flip(tmp_path / "pack/bonsai", "context_embedder.weight", 1, 0x80)
    result = run("report", tmp_path / "pack", "-o", tmp_path / "report")
    assert result.code == 5
    assert "FAILED  pack, level file: " in result.out
    assert "model.safetensors" in result.out
    assert 'role="alert"' in (tmp_path / "report/report.html").read_text()
    again = run("report", tmp_path / "pack", "-o", tmp_path / "report", "--overwrite", "--json")
    assert (again.code, json.loads(again.out)["failed"]) == (5, True)


def test_open_opens_the_page(tiny, tmp_path, run, monkeypatch):
    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "pack")
    opened = []
    monkeypatch.setattr("bonsai_quant.cli.commands.packs.click.launch", opened.append)
    assert run("report", tmp_path / "pack", "-o", tmp_path / "report").code == 0
    assert opened == []
    command = ("report", tmp_path / "pack", "-o", tmp_path / "report", "--overwrite", "--open")
    assert run(*command).code == 0
    assert opened == [str(tmp_path / "report/report.html")]


def test_prompts_are_the_user_s_or_chosen_by_the_rule(standin, tmp_path, few):
    from bonsai_quant.core.errors import UsageError
    from bonsai_quant.publishing.report.ask import N_GENERAL, ask
    from bonsai_quant.runners.prompts import held_out, read_prompts, shipped_prompts
    from bonsai_quant.training.trajectories.prompts import choose_prompts

    mini = SimpleNamespace(folder=standin)
    asked = ask(mini)
    assert asked.prompts == tuple(p.text for p in captions(SMALL, "test", per_category=1))
    assert asked.scenes is not None
    own = ask(mini, read_prompts(few), seed=5, size="96x64")
    assert own.prompts == tuple(few.read_text().splitlines())
    assert own.seeds == (5, 6, 7, 8)
    assert (own.settings.width, own.settings.height, own.scenes) == (96, 64, None)
    other = ask(SimpleNamespace(folder=tmp_path))
    assert other.prompts == tuple(held_out(shipped_prompts())[:N_GENERAL])
    assert (other.settings.width, other.settings.height) == (512, 512)
    assert "coloured" not in other.rule
    used = choose_prompts(SimpleNamespace(folder=tmp_path), None).used
    assert not set(other.prompts) & set(used)
    for seed, prompts in ((-1, []), (2**63, []), (0, ["a"] * 25), (0, [" "])):
        with pytest.raises(UsageError):
            ask(mini, prompts, seed=seed)
