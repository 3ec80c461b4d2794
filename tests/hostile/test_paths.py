"""Group D: outputs and paths that cannot be meant. Nothing is opened for writing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .conftest import MODE, SINGLE_FILE, complaint, digests, listing, save, save_shards, tiny

# ---- outputs ----


OVERLAPS = {
    "D66-itself": (lambda s: s, lambda s: s),
    "D66-its-folder": (lambda s: s, lambda s: s.parent),
    "D66-folder-itself": (lambda s: s.parent, lambda s: s.parent),
    "D66-inside": (lambda s: s.parent, lambda s: s.parent / "out"),
    "D66-deep-inside": (lambda s: s.parent, lambda s: s.parent / "a" / "b" / "out"),
    "D66-around": (lambda s: s, lambda s: s.parent.parent),
    "D66-root": (lambda s: s, lambda s: Path("/")),
    "D66-dots": (lambda s: s.parent, lambda s: s.parent.parent / "x" / ".." / "source" / "out"),
    "D66-link-to-the-folder": (lambda s: s.parent, lambda s: link(s, "to", s.parent) / "out"),
    "D66-source-is-a-link": (lambda s: link(s, "there", s.parent), lambda s: s.parent / "out"),
    "D66-file-is-a-link": (lambda s: link(s, "a.safetensors", s), lambda s: s.parent),
    "D66-link-is-the-output": (lambda s: s.parent, lambda s: link(s, "to", s.parent)),
}


def link(source: Path, name: str, target: Path) -> Path:
    path = source.parent.parent / name
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["plain", "overwrite"])
@pytest.mark.parametrize("case", OVERLAPS)
def test_d66_outputs_that_touch_the_source(case, overwrite, source, run, tmp_path):
    place, out = (make(source) for make in OVERLAPS[case])
    before = digests(tmp_path), listing(tmp_path)
    line = complaint(run("convert", place, *MODE, *overwrite, "-o", out), 2)
    assert "overlap" in line and "-o" in line
    assert (digests(tmp_path), listing(tmp_path)) == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["plain", "overwrite"])
def test_d66_a_hard_link_to_the_source_is_not_replaced(overwrite, source, refuse, tmp_path):
    os.link(source, tmp_path / "hard")
    before = digests(tmp_path)
    refuse(7, source, "hard", options=(*MODE, *overwrite), out=tmp_path / "hard")
    assert digests(tmp_path) == before


def foreign(out: Path, kind: str) -> Path:
    """Things that may stand where the output should go; never a pack and nothing else."""
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(out)
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    return out


KINDS = ("file", "dangling link", "fifo", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_d67_an_existing_output(kind, source, refuse, tmp_path):
    foreign(tmp_path / "out", kind)
    refuse(7, source, "out", "exists already", "-o", within=1)


@pytest.mark.parametrize("kind", KINDS)
def test_d68_only_packs_are_overwritten(kind, source, refuse, tmp_path):
    foreign(tmp_path / "out", kind)
    refuse(7, source, "not a pack of this program", options=(*MODE, "--overwrite"), within=1)


def test_d67_an_empty_folder(source, refuse, accept, tmp_path):
    (tmp_path / "out").mkdir()
    refuse(7, source, "out", "exists already")
    accept(source, "--overwrite")


INTRUDERS = {
    "a file beside the packs": lambda out: (out / "notes.txt").write_text("mine"),
    "a file in a pack": lambda out: (out / "bonsai" / "mine.txt").write_text("mine"),
    "a hidden file": lambda out: (out / ".git").write_text("mine"),
    "a deep folder": lambda out: ((out / "a" / "b").mkdir(parents=True),
                                  (out / "a" / "b" / "c").write_text("mine")),
    "a link to a file": lambda out: (out / "link").symlink_to("/etc/hostname"),
    "a link to a folder": lambda out: (out / "link").symlink_to("/etc"),
    "a broken manifest": lambda out: (out / "bonsai" / "manifest.json").write_text("{"),
    "another program's manifest": lambda out: (out / "bonsai" / "manifest.json").write_text("{}"),
    "no manifest": lambda out: (out / "bonsai" / "manifest.json").unlink(),
    "another checkpoint": lambda out: save(out / "x.safetensors", {"a": tiny()["proj_out.weight"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", INTRUDERS)
def test_d68_a_pack_with_something_else_in_it(case, source, accept, refuse, tmp_path):
    out = accept(source).pack.parent
    INTRUDERS[case](out)
    before = digests(out)
    refuse(7, source, "not a pack of this program", options=(*MODE, "--overwrite"))
    assert digests(out) == before


def test_d68_a_link_to_a_pack_is_not_overwritten(source, accept, refuse, tmp_path):
    accept(source, out="real")
    (tmp_path / "out").symlink_to("real")
    refuse(7, source, "out", options=(*MODE, "--overwrite"))


def test_d68_a_pack_is_overwritten(source, accept):
    pack = accept(source).pack
    first = (pack / SINGLE_FILE).read_bytes()
    accept(source, "--overwrite", mode="binary")
    assert (pack / SINGLE_FILE).read_bytes() != first


# ---- paths ----

PATHS = {
    "D69-blank": "my model",
    "D69-newline": "a\nb",
    "D69-ansi": "a\x1b[31mb",
    "D69-quote": "a'\"b",
    "D69-percent": "%s%d{0}",
    "D69-dash": "-x",
    "D69-not-utf8": os.fsdecode(b"a\xff\xfeb"),
    "D69-surrogate-half": os.fsdecode("\ud800".encode("utf-8", "surrogatepass")),
    "D69-right-to-left": "a\u202eb",
    "D69-snow": "\u2603",
    "D69-at": "a@b",
    "D69-200": "x" * 200,
}


@pytest.mark.parametrize("as_json", [(), ("--json", "--verbose")], ids=["text", "json"])
@pytest.mark.parametrize("case", PATHS)
def test_d69_odd_paths_work_and_are_escaped(case, as_json, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = PATHS[case]
    save(Path("./" + name) / f"{name}.safetensors", tiny())
    made = run("convert", f"./{name}", *MODE, *as_json, "-o", f"./{name}.out")
    assert made.code == 0, made.err
    for stream in (made.out, made.err):
        assert all(c.isprintable() or c == "\n" for c in stream)
        stream.encode()
        assert name.isprintable() or name not in stream
    assert (tmp_path / f"{name}.out" / "bonsai" / "manifest.json").exists()
    if as_json:
        json.loads(made.out)


@pytest.mark.parametrize("case", PATHS)
def test_d69_odd_paths_in_messages(case, refuse, tmp_path):
    name = PATHS[case]
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.safetensors").write_bytes(b"x")
    refuse(3, folder, "1 bytes long")
    refuse(3, folder / f"{name}.safetensors", "1 bytes long")


@pytest.mark.parametrize("what", ["warning", "verbose"])
def test_d69_paths_in_the_log_are_escaped(what, run, tmp_path):
    folder = save_shards(tmp_path / "a\nb\x1b[31m")
    (folder / "config.json").unlink()
    made = run("plan", folder, *MODE, *(["--verbose"] if what == "verbose" else []))
    assert made.code == 0
    assert all(line.isprintable() for line in made.err.splitlines())
    assert "config.json" in made.err


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", ""], ids=len)
def test_d69_impossible_sources(name, refuse):
    assert len(refuse(2, name, "no file, folder or Hub id")) < 600


def test_d69_a_source_that_looks_like_an_option(run):
    complaint(run("convert", "-x.safetensors", *MODE), 2)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, ""], ids=len)
def test_d69_impossible_outputs(name, source, run, tmp_path):
    before = listing(tmp_path)
    result = run("convert", source, *MODE, "-o", f"{tmp_path}/{name}" if name else "")
    complaint(result, result.code)
    assert result.code in (2, 6, 7)
    assert listing(tmp_path) == before
