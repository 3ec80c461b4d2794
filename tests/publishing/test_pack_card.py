"""What a pack's card says, and where it takes it from."""

from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import bonsai_quant
from bonsai_quant import convert
from bonsai_quant.core.errors import BadInput

from .conftest import OPTIONS, REPO, send


def test_the_card(packs, tmp_path):
    """The YAML is what the Hub's own library reads, and every figure is the manifest's."""
    folder = packs.out / "mlx"
    card = ModelCard.load(folder / "README.md")
    said, manifest = card.data.to_dict(), packs.made.manifests["mlx"]
    assert said["library_name"] == "mlx" and said["pipeline_tag"] == "text-to-image"
    assert packs.mode in said["tags"] and said["inference"] is False
    assert "license" not in said and "Not known" in card.text
    assert "pictures was not measured" in card.text
    for f in manifest.files:
        assert f"`{f.path}` | {f.size:,} | `{f.sha256}`" in card.text
    assert f"{manifest.counts.packed_weights:,}" in card.text
    assert f"{manifest.measured.relative_error:.4f}" in card.text
    assert f"--mode {packs.mode} --solver exact" in card.text


@pytest.mark.parametrize(
    ("front", "license"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        ("license: other\nlicense_name: flux-non-commercial\nlicense_link: https://x.example/l",
         {"license": "other", "license_name": "flux-non-commercial",
          "license_link": "https://x.example/l"}),
        ("tags: [a]", {}), ("license: [a, b]", {}), ("license: '<b>'", {}), ("{: broken", {}),
    ],
)  # fmt: skip
def test_the_license_is_the_source_s_own(tiny, tmp_path, front, license):
    source = tmp_path / "model"
    shutil.copytree(tiny, source / "transformer")
    (source / "README.md").write_text(f"---\n{front}\n---\n# Model\n")
    convert(str(source), mode="binary", formats="bonsai", out=tmp_path / "out")
    text = (tmp_path / "out" / "bonsai" / "README.md").read_text()
    said = yaml.safe_load(text.split("---\n")[1])
    assert {k: v for k, v in said.items() if k.startswith("license")} == license


def test_a_report_of_another_pack(tiny, pack, tmp_path):
    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "other")
    bonsai_quant.report(tmp_path / "other", out=tmp_path / "report")
    with pytest.raises(BadInput, match="other packs"):
        send(pack, report=tmp_path / "report")
    with pytest.raises(BadInput, match=r"no report.json"):
        send(pack, report=tmp_path)


def test_a_card_says_which_format_painted(standin, standin_packs, tmp_path):
    bonsai_quant.report(standin_packs, against=str(standin), out=tmp_path / "report")
    options = OPTIONS | {"report": tmp_path / "report"}
    cards = {
        f: bonsai_quant.plan_publication(standin_packs / f, REPO, **options).card
        for f in ("bonsai", "mlx")
    }
    assert "painted by the `bonsai` pack of the same conversion" in cards["mlx"]
    assert "of the same conversion" not in cards["bonsai"]


def test_a_report_s_checks_are_on_the_card(pack, tmp_path):
    bonsai_quant.report(pack, out=tmp_path / "report")
    what = bonsai_quant.plan_publication(pack, REPO, report=tmp_path / "report", **OPTIONS)
    assert "| codes | pack | passed |" in what.card and "was not measured" in what.card
