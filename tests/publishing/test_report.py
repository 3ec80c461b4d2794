"""The report says what is in the packs, holds everything in one file, and shows in a browser."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bonsai_quant import convert, generate, report
from bonsai_quant.core.errors import BadInput, OutputExists
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization import packing as bits
from bonsai_quant.runners.prompts import held_out, shipped_prompts
from tests.support.forge import orphan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def made(standin, tmp_path_factory):
    """Both modes of the stand-in, and a report on them with their source."""
    folder = tmp_path_factory.mktemp("made")
    for mode in ("ternary", "binary"):
        convert(str(standin), mode=mode, formats="bonsai,mlx", out=folder / mode)
    packs = [folder / "ternary", folder / "binary"]
    return folder, report(packs, against=str(standin), out=folder / "report")


def page_of(made):
    return (made[0] / "report/report.html").read_text()


class Links(HTMLParser):
    """Everything that a page would fetch, run or lead to."""

    def __init__(self):
        super().__init__()
        self.fetched, self.led_to, self.tags, self.styled = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = ("src", "srcset", "action", "formaction", "data", "poster", "background", "ping")
        self.fetched += [v for k, v in attrs if k in names]
        self.led_to += [v for k, v in attrs if k in ("href", "xlink:href")]
        self.styled += [k for k, _ in attrs if k == "style" or k.startswith("on")]


def parsed(page):
    links = Links()
    links.feed(page)
    return links


def test_the_page_needs_nothing_else(made):
    page = page_of(made)
    links = parsed(page)
    assert links.fetched
    images = ("data:image/png;base64,", "data:image/svg+xml;base64,")
    assert all(v.startswith(images) for v in links.fetched)
    assert {"report.json", "layers.csv", "gallery.png", "share.png"} == set(links.led_to)
    assert all((made[0] / "report" / v).is_file() for v in links.led_to)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(links.tags)
    assert not re.search("@import|url\\(|https?://|//[a-z]+\\.", page)
    for chart in re.findall(r"svg\+xml;base64,([A-Za-z0-9+/=]+)", page):
        svg = base64.b64decode(chart).decode()
        assert all(h.startswith("#") for h in re.findall(r'href="([^"]*)"', svg))
        assert "<script" not in svg


def test_only_our_style_and_script_may_run(made):
    """The policy names them by hash: nothing that a pack says can become either."""
    page = page_of(made)
    links = parsed(page)
    assert (links.tags.count("script"), links.tags.count("style"), links.styled) == (1, 1, [])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    script = re.search("<script>(.*?)</script>", page, re.S)[1]
    assert not re.search("fetch|XMLHttp|import|eval|innerHTML|localStorage|cookie", script)
    assert len(script) < 8000


def test_json_says_what_the_pack_says(made):
    folder, _ = made
    data = json.loads((folder / "report/report.json").read_text())
    assert [p["mode"] for p in data["packs"]] == ["ternary", "binary"]
    for said in data["packs"]:
        pack = open_pack(folder / said["mode"] / "bonsai")
        layers = {s["name"]: s for s in said["survey"]["layers"]}
        assert set(layers) == {t.linear for t in pack.info.packed}
        groups = 0
        for t in pack.info.packed:
            layer = pack.layer(t)
            groups += layer.scales.size
            codes = bits.unpack(layer.codes, layer.bits)
            share = layers[t.linear]["zero_share"]
            assert share == (pytest.approx(np.mean(codes == 1)) if layer.bits == 2 else None)
            assert layers[t.linear]["scale_max"] == layer.scales.max()
        assert sum(n for _, n in said["survey"]["bins"]) == groups
        assert not said["verify"]["checks"][0]["status"] == "failed"
    assert len(data["gallery"]["decibels_to_source"]) == 2
    assert [len(f) for f in data["gallery"]["failures"]] == [6, 6, 6]
    assert data["date"].endswith(" UTC")
    assert "cores" in data["machine"]
    assert data["packs"][0]["rebuild"].startswith("bonsai-quant convert ")


def test_the_table_has_every_layer_of_every_pack(made):
    rows = list(csv.DictReader(io.StringIO((made[0] / "report/layers.csv").read_text())))
    assert {r["pack"] for r in rows} == {"ternary", "binary"}
    assert len(rows) == 2 * len(open_pack(made[0] / "ternary/bonsai").info.packed)
    assert all(0 < float(r["relative_error"]) < 1 for r in rows)


def test_the_rebuild_line_makes_the_same_pack(made, standin, tmp_path, run):
    data = json.loads((made[0] / "report/report.json").read_text())
    words = data["packs"][0]["rebuild"].split()
    assert words[0] == "bonsai-quant"
    words[words.index("-o") + 1] = str(tmp_path / "again")
    assert run(*words[1:]).code == 0
    path = "bonsai/model.safetensors"
    assert (tmp_path / "again" / path).read_bytes() == (made[0] / "ternary" / path).read_bytes()


def test_another_model_paints_general_prompts_that_nobody_judges(standin, tmp_path):
    shutil.copytree(standin, tmp_path / "model")
    (tmp_path / "model/benchmark.json").unlink()
    convert(str(tmp_path / "model"), mode="binary", formats="bonsai", out=tmp_path / "pack")
    model, out = str(tmp_path / "model"), tmp_path / "report"
    made = report(tmp_path / "pack", against=model, size="64x64", seed=3, out=out)
    data = json.loads((out / "report.json").read_text())["gallery"]
    assert data["prompts"] == held_out(shipped_prompts())[:4]
    assert (data["seeds"], data["failures"]) == ([3, 4, 5, 6], None)
    assert (data["settings"]["height"], data["models"]) == (64, ["model", "pack"])
    page = (out / "report.html").read_text()
    assert "Nobody chose the prompts" in page
    assert "the checker" not in page
    pictures = generate(
        model, data["prompts"][1:2], seeds=[4], size="64x64", out=tmp_path / "a.png"
    )
    again = np.asarray(Image.open(pictures.pictures[0].path))
    assert np.abs(again.astype(int) - made.gallery.pictures[0, 1]).max() <= 1


def test_hostile_text_is_shown_as_text(made, tmp_path):
    folder = tmp_path / "<b>pack</b>"
    shutil.copytree(made[0] / "ternary/bonsai", folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["description"] = "</pre><script>alert(1)</script>"
    path.write_text(json.dumps(manifest))
    report(folder, out=tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert parsed(page).tags.count("script") == 1
    assert "<script>alert" not in page
    assert "<b>pack" not in page
    assert "&lt;b&gt;pack" in page
    assert "Not painted" in page  # no name of a source, and no --pipeline


def test_a_pack_of_another_program_is_reported_as_far_as_it_goes(made, tmp_path):
    shutil.copytree(made[0] / "ternary/mlx", tmp_path / "pack")
    orphan(tmp_path / "pack")
    report(tmp_path / "pack", out=tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert "Nobody says" in page
    assert "was not measured" in page


def test_an_earlier_report_stays_unless_told_otherwise(made):
    folder, _ = made
    with pytest.raises(OutputExists, match="--overwrite"):
        report(folder / "ternary", out=folder / "report")
    with pytest.raises(BadInput, match="holds no pack"):
        report(folder / "report", out=folder / "other")
    assert not (folder / "other").exists()


def chromium(tmp_path, page, *options):
    """What a browser prints of a page; nothing of it goes to the network."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, timeout=120)


def screenshot(made, tmp_path, width, dark):
    """Browsers have a least width of a window; a frame inside of it has none."""
    path, frame = tmp_path / f"{width}-{dark}.png", tmp_path / "frame.html"
    page = (made[0] / "report/report.html").as_uri()
    frame.write_text(f'<body style="margin:0"><iframe src="{page}" '
                     f'style="border:0;width:{width}px;height:3000px"></iframe>')  # fmt: skip
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    chromium(tmp_path, frame, f"--window-size={max(width, 500)},3000", scheme,
             f"--screenshot={path}")  # fmt: skip
    return np.asarray(Image.open(path).convert("RGB"))[:, :width]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_on_a_phone_and_in_the_dark(made, tmp_path, width, dark):
    """The paper is light or dark, there is ink on it, and nothing runs out at the right."""
    pixels = screenshot(made, tmp_path, width, dark)
    paper = pixels[2, 2]
    assert (paper.max() < 60) if dark else (paper.min() > 240)
    ink = np.abs(pixels.astype(int) - paper).max(-1) > 60
    assert 0.02 < ink.mean() < 0.7
    assert not ink[:, -8:].any()
    assert not ink[:, :8].any()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_script_runs_under_the_policy(made, tmp_path):
    """It shows the comparison, which is hidden where no script runs, and puts pictures into it."""
    page = made[0] / "report/report.html"
    assert '<div class="compare" id="compare" hidden>' in page.read_text()
    shown = chromium(tmp_path, page, "--enable-logging=stderr", "--dump-dom")
    assert b'<div class="compare" id="compare">' in shown.stdout
    assert re.search(rb'<img id="over"[^>]* src="data:image/png;base64,', shown.stdout)
    assert b"Content Security Policy" not in shown.stderr


def test_every_colour_has_a_light_and_a_dark_value(made):
    style = re.search(r"<style>(.*?)</style>", page_of(made), re.S)[1]
    light, dark = re.findall(r":root \{ (.*?) \}", style)
    names = [re.findall(r"--([a-z]+):", block) for block in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\(--([a-z]+)", style)) <= {*names[0], "at", "gain"}
