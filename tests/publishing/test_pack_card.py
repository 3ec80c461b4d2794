"""What a pack's card says, and where it takes it from."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.metadata import metadata

import pytest
import yaml
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from PIL import Image

import bonsai_quant
from bonsai_quant import convert
from bonsai_quant.core.errors import BadInput
from bonsai_quant.packs.card import Score, render_card
from bonsai_quant.packs.source_record import LoraRecord

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


def usage(card: str) -> list[list[str]]:
    """The command lines under "Run it"."""
    block = re.search(r"## Run it\n.*?```bash\n(.*?)\n```", card, re.S)[1]
    return [shlex.split(line) for line in block.splitlines()]


def obey(words: list[str], run) -> None:
    """Type one line of a card; what pip would install is looked at only."""
    if words[0] == "pip":
        assert Requirement(words[2]).extras <= set(
            metadata("bonsai-quant").get_all("Provides-Extra")
        )
        return
    assert words[0] == "bonsai-quant"
    more = ("--steps", 1) if words[1] == "generate" else ()
    done = run(*words[1:], *more)
    assert done.code == 0, (words, done.err)


def test_who_types_what_the_card_says_has_a_picture(shipped, remote, run, tmp_path, monkeypatch):
    """From the card of a published pack, and from the one that lies in a pack's folder."""
    convert("mini-klein", mode="ternary", formats="bonsai", out=tmp_path / "packs")
    send(tmp_path / "packs" / "bonsai")
    local = (tmp_path / "packs/bonsai/README.md").read_text()
    for card, place in ((remote.files()["README.md"].decode(), tmp_path),
                        (local, tmp_path / "packs/bonsai")):  # fmt: skip
        monkeypatch.chdir(place)
        for words in usage(card):
            obey(words, run)
        assert Image.open(place / "picture.png").size == (64, 64)
    assert usage(local)[-1][2] == "."


def test_a_pack_of_files_that_have_no_name_says_what_else_it_needs(packs):
    words = usage((packs.out / "bonsai/README.md").read_text())[-1]
    assert words[:5] == ["bonsai-quant", "generate", ".", "--pipeline", "PIPELINE"]


def test_a_model_on_the_hub_is_fetched_for_its_other_parts(packs):
    manifest = packs.made.manifests["bonsai"]
    source = manifest.source.model_copy(update={"id": "me/tuned", "revision": "0" * 40})
    named = manifest.model_copy(update={"source": source, "base": "flux2-klein-4b"})
    card = render_card(named, repo="me/tuned-1bit")
    assert ["hf", "download", "me/tuned", "--revision", "0" * 40] in usage(card)
    assert "# tuned-1bit\n" in card
    assert (
        "[tuned](https://huggingface.co/me/tuned), which has the shape of [FLUX.2 Klein 4B]" in card
    )
    said = yaml.safe_load(card.split("---\n")[1])
    assert said["base_model"] == ["black-forest-labs/FLUX.2-klein-4B", "me/tuned"]
    assert "circle" not in " ".join(usage(card)[-1])


def test_the_hub_s_own_library_reads_the_score(packs, tmp_path):
    """As the Hub does, which shows it beside the card."""
    manifest = packs.made.manifests["bonsai"]
    score = Score("bonsai", 1200, 600, "64 x 64", 4, "92.8 % (91.2 to 94.3)", "94.8 %",
                  "97.9 % (96.5 to 99.3)", 92.8, 97.9, "test")  # fmt: skip
    path = tmp_path / "README.md"
    path.write_text(render_card(manifest, repo="me/small", score=score))
    data = ModelCard.load(path).data
    assert data.model_name == "small"
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("accuracy", 92.8), ("retention", 97.9),
    ]  # fmt: skip
    assert data.eval_results[0].dataset_split == "test"
    assert data.eval_results[0].dataset_args["captions"] == 600
    assert (
        "**92.8 % (91.2 to 94.3) of its pictures show what the caption says**" in path.read_text()
    )


def test_a_score_of_nothing_is_no_result(packs, tmp_path):
    score = Score("bonsai", 0, 0, "64 x 64", 4, "", "", "")
    text = render_card(packs.made.manifests["bonsai"], score=score)
    assert "model-index" not in text


def test_a_fence_in_a_name_does_not_end_the_block(packs):
    manifest = packs.made.manifests["bonsai"]
    evil = LoraRecord(name="a\n```\n<script>", size=1, sha256="0" * 64, scale=1.0, config=None,
                      modules=1, ignored=0)  # fmt: skip
    source = manifest.source.model_copy(update={"lora": [evil]})
    card = render_card(manifest.model_copy(update={"source": source}))
    block = re.search(r"come out of\n\n(`+)bash\n(.*?)\n\1\n", card, re.S)
    assert len(block[1]) > 3 and "<script>" in block[2]
    assert "<script>" not in card.replace(block[2], "")
