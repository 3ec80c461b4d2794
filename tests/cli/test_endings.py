"""Every answer ends with the command to type next, and that command exists and parses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from bonsai_quant.cli import output
from bonsai_quant.cli.commands import GROUPS
from bonsai_quant.cli.main import cli
from bonsai_quant.cli.views.answer import Answer

SILENT = {"completion", "path"}
"""Their answer is for a shell, which would run the last line."""


def next_of(done) -> list[str]:
    """The words of the last line, if it is a command of this program that parses."""
    assert done.code in (0, 5), done.err
    last = done.out.rstrip("\n").splitlines()[-1]
    assert last.startswith("next: "), last
    words = shlex.split(last.removeprefix("next: "))
    if words[0] in ("open", "xdg-open"):
        assert Path(words[1]).is_file()
        return words
    assert words[0] == "bonsai-quant"
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, last
    command.make_context(words[1], list(words[2:]))
    return words[1:]


@pytest.fixture
def spaced(tiny, tmp_path, monkeypatch) -> Path:
    """A source whose name a shell would take apart, in the folder where commands are typed."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny, tmp_path / "my model")).relative_to(tmp_path)


def test_plan_leads_to_the_same_conversion(spaced, run):
    done = run("plan", spaced, "--mode", "binary", "-f", "bonsai", "--explain", "proj_out",
               "--transformer-only")  # fmt: skip
    assert next_of(done) == ["convert", "my model", "--mode", "binary", "--format", "bonsai",
                             "--transformer-only"]  # fmt: skip


def test_convert_leads_to_verify_and_verify_to_a_use(spaced, run):
    typed = ("convert", spaced, "--mode", "binary", "-f", "bonsai", "-o", "a pack")
    assert next_of(run(*typed, "-n"))[0] == "convert"
    made = run(*typed)
    assert next_of(made) == ["verify", "a pack", "--against", "my model"]
    assert "x smaller" in made.out
    proved = run(*next_of(made))
    assert next_of(proved) == ["publish", "a pack/bonsai", "YOUR-NAME/a pack", "-n"]


def test_a_pack_that_can_paint_leads_to_a_picture(standin, shipped, standin_packs, run):
    words = next_of(run("verify", standin_packs))
    assert words[:2] == ["generate", str(standin_packs / "mlx")]
    words = next_of(run("verify", standin_packs / "bonsai", "--pipeline", standin))
    assert words[0] == "generate" and words[-2:] == ["--pipeline", str(standin)]


def test_a_wrong_pack_leads_to_a_look_at_it(packs, tmp_path, run):
    bad = Path(shutil.copytree(packs.out / "bonsai", tmp_path / "bad"))
    with (bad / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    done = run("verify", bad)
    assert (done.code, next_of(done)) == (5, ["inspect", str(bad)])


def test_the_small_commands(packs, tmp_path, run):
    mlx, bonsai = packs.out / "mlx", packs.out / "bonsai"
    out = tmp_path / "dense"
    done = run("export", bonsai, "--format", "unpacked", "-o", out)
    assert next_of(done) == ["verify", str(out)]
    assert next_of(run("inspect", mlx)) == ["verify", str(mlx)]
    assert next_of(run("inspect", packs.source))[0] == "plan"
    assert next_of(run("diff", mlx, bonsai))[:3] == ["report", str(mlx), str(bonsai)]
    assert next_of(run("doctor"))[0] in ("generate", "convert")


RECORD = {"mode": "binary", "layers": 3, "held_out": {}, "settings": {"steps": 2}}
MADE = {
    "run_calibrate": SimpleNamespace(
        out=Path("c d"), record=SimpleNamespace(mode=None, solver=None)
    ),
    "run_fold": SimpleNamespace(out=Path("c d")),
    "carry_out": SimpleNamespace(out=Path("c d"), record=RECORD),
    "prepare": None,
    "prepare_tuning": None,
    "run_recover": SimpleNamespace(packs=SimpleNamespace(out=Path("c d"))),
    "run_score": SimpleNamespace(format="mlx"),
    "run_report": SimpleNamespace(out=Path("c d"), failed=False),
    "run_publish": SimpleNamespace(),
    "run_pull": SimpleNamespace(out=Path("c d")),
    "run_demo": SimpleNamespace(),
}
"""What the long commands return, as far as their next step reads it."""
LONG = {
    "calibrate": (["calibrate", "a b"],
                  ["convert", "a b", "--mode", "ternary", "--solver", "weighted", "--calibration",
                   "c d", "-o", "packs"]),
    "fold": (["fold", "a b", "--calibration", "c"], ["convert", "c d", "--mode", "ternary"]),
    "distill": (["distill", "a b", "--recipe", "mini-klein-binary"],
                ["convert", "c d", "--mode", "binary"]),
    "tune": (["tune", "a b", "--start", "c"], ["convert", "c d", "--mode", "binary"]),
    "recover": (["recover", "a b", "--recipe", "mini-klein-ternary", "-o", "c d"],
                ["publish", "c d", "YOUR-NAME/c d", "-n"]),
    "score": (["score", "a b", "--against", "mini-klein"],
              ["report", "a b", "--against", "mini-klein", "-o", "report"]),
    "publish": (["publish", "a b", "me/it"], ["pull", "me/it", "-o", "it-again"]),
    "pull": (["pull", "me/it"],
             ["generate", "c d", "-p", "a red circle left of a blue square"]),
    "demo": (["demo"], None),
}  # fmt: skip


@pytest.fixture
def pretended(monkeypatch):
    """The long commands do nothing, and say a word."""
    from bonsai_quant.cli.commands import conversion, distillation, hub, packs, pictures, training

    for module in (conversion, distillation, hub, packs, pictures, training):
        for name, made in MADE.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, made=made, **__: made)
        for views in ("view", "views", "training_view", "conversion_view", "pictures_view"):
            for name in ("calibrated", "folded", "distilled", "converted", "scored", "reported",
                         "published", "pulled", "demonstrated"):  # fmt: skip
                if hasattr(getattr(module, views, None), name):
                    monkeypatch.setattr(getattr(module, views), name, lambda *_: Answer("done", {}))


@pytest.mark.parametrize("name", LONG)
def test_the_long_commands(name, pretended, run):
    words, expected = LONG[name]
    found = next_of(run(*words))
    assert expected is None or found == expected


def test_recovered_packs_are_measured_where_the_source_says_how(pretended, shipped, run):
    done = run("recover", "mini-klein", "--recipe", "mini-klein-ternary", "-o", "c d")
    assert next_of(done) == ["score", "c d", "--against", "mini-klein"]


def test_a_report_is_opened_or_sent_with_its_pack(pretended, packs, tmp_path, run, monkeypatch):
    out = tmp_path / "a page"
    out.mkdir()
    (out / "report.html").touch()
    monkeypatch.setitem(MADE, "run_report", SimpleNamespace(out=out, failed=False))
    monkeypatch.setattr("bonsai_quant.cli.commands.packs.run_report",
                        lambda *_, **__: SimpleNamespace(out=out, failed=False))  # fmt: skip
    find = "bonsai_quant.cli.next_steps.shutil.which"
    monkeypatch.setattr(find, lambda name: "/bin/open" if name == "open" else None)
    typed = ("report", packs.out, "-o", out)
    assert next_of(run(*typed)) == ["open", str(out / "report.html")]
    monkeypatch.setattr(find, lambda name: None)
    assert next_of(run(*typed))[-3:] == ["--report", str(out), "-n"]


def test_a_score_of_a_pipeline_leads_to_a_pack(pretended, run, monkeypatch):
    monkeypatch.setattr("bonsai_quant.cli.commands.pictures.run_score",
                        lambda *_, **__: SimpleNamespace(format=None))  # fmt: skip
    assert next_of(run("score", "mini-klein"))[:2] == ["convert", "mini-klein"]


def test_every_command_is_looked_at_here():
    here = {"plan", "convert", "verify", "export", "inspect", "diff", "doctor", "report", *LONG}
    elsewhere = {"generate"}  # tests/cli/test_generate.py
    assert {c.name for group in GROUPS.values() for c in group} - SILENT == here | elsewhere


def test_json_has_no_last_line_and_quiet_says_nothing(packs, run):
    assert json.loads(run("inspect", packs.out, "--json").out)["found"]
    assert run("inspect", packs.out, "--quiet").out == ""


def test_a_command_that_was_waited_for_says_how_long(packs, run, monkeypatch):
    times = iter([100.0, 172.4])
    monkeypatch.setattr(output, "monotonic", lambda: next(times))
    assert run("inspect", packs.out / "bonsai").out.splitlines()[-2] == "took 1:12"
    times = iter([100.0, 100.9])
    assert "took" not in run("inspect", packs.out / "bonsai").out


def test_a_failure_has_no_next_line(run):
    done = run("verify", "nothing-there")
    assert (done.code != 0, "next:" in done.out) == (True, False)
