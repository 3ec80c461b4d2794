"""Group D: options, paths and leftovers that cannot be meant. Nothing is opened for writing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import xxhash

from bonsai_quant.conversion import resume as resuming
from bonsai_quant.storage import fs
from tests.support import models

from .conftest import MODE, MODEL, SINGLE_FILE, complaint, listing, save, save_shards, tiny


@pytest.fixture
def source(tmp_path) -> Path:
    """A file that can be read as such and with its folder."""
    path = save(tmp_path / "source" / SINGLE_FILE, tiny())
    (path.parent / "config.json").write_text(json.dumps(models.config(MODEL)))
    return path


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


# ---- values ----

VALUES = {
    "D65-unknown-format": (("-f", "onnx"), ("bonsai", "mlx", "gemlite", "unpacked", "gguf")),
    "D65-near-format": (("-f", "mlz"), ("'mlx'",)),
    "D65-one-wrong-of-two": (("-f", "mlx,Bonsai"), ("'Bonsai'", "bonsai")),
    "D65-no-format": (("-f", ","), ("bonsai", "mlx")),
    "D65-path-as-format": (("-f", "../x"), ("'../x'", "mlx")),
    "D65-mode": (("--mode", "quaternary"), ("ternary", "binary")),
    "D65-mode-with-control": (("--mode", "\x1b[31m"), ("ternary", "binary")),
    "D65-solver": (("--solver", "hqq"), ("exact", "absmean")),
    "D65-bits": (("--bits", "3"), ("--bits",)),
    "D65-group": (("--group-size", "64"), ("--group-size",)),
    "D70-token": (("--token", "hf_secret"), ("--token",)),
    "D74-threads-0": (("--threads", "0"), ("1 to 256",)),
    "D74-threads-negative": (("--threads", "-1"), ("1 to 256", "-1")),
    "D74-threads-many": (("--threads", "1000000000"), ("1 to 256",)),
    "D74-threads-word": (("--threads", "all"), ("--threads", "'all'")),
    "D74-threads-float": (("--threads", "1e9"), ("--threads", "'1e9'")),
    "D74-memory-word": (("--max-memory", "1MB"), ("--max-memory", "'1MB'")),
    "D74-memory-0": (("--max-memory", "0"), ("this needs ",)),
    "D74-memory-negative": (("--max-memory", "-5"), ("this needs ",)),
    "D71-revision-of-a-path": (("--revision", "main"), ("--revision",)),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_do_not_exist(case, source, refuse):
    options, says = VALUES[case]
    line = refuse(2, source, *says, options=(*MODE, *options), within=2)
    assert "hf_secret" not in line


def test_d65_no_mode(source, refuse):
    refuse(2, source, "ternary", "binary", options=())


def test_d74_the_least_memory_is_named_and_enough(source, refuse, accept):
    line = refuse(2, source, options=(*MODE, "-f", "bonsai", "--max-memory", "1000000"))
    need = re.search(r"this needs (\d+) bytes", line)[1]
    accept(source, "--max-memory", need)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "9" * 5000, "257", "\u0663"])
def test_d74_threads_from_the_environment(value, source, refuse, accept, monkeypatch):
    monkeypatch.setenv("BONSAI_QUANT_THREADS", value)
    assert len(refuse(2, source, "BONSAI_QUANT_THREADS", "1 to 256")) < 300
    accept(source, "--threads", "1")


MANY_KEYS = "".join(f"k{i}: 1\n" for i in range(15_000))
RECIPES = {
    "D65-group-0": ("mode: ternary\ngroup_size: 0", 2, ("group_size", "128")),
    "D65-group-negative": ("mode: ternary\ngroup_size: -1", 2, ("group_size", "128")),
    "D65-group-7": ("mode: ternary\ngroup_size: 7", 2, ("group_size", "128")),
    "D65-group-a": ("mode: ternary\ngroup_size: a", 2, ("group_size", "128")),
    "D65-group-10^12": ("mode: ternary\ngroup_size: 1000000000000", 2, ("group_size", "128")),
    "D65-group-true": ("mode: ternary\ngroup_size: true", 2, ("group_size", "128")),
    "D65-bits": ("mode: ternary\nbits: 3", 2, ("'bits'",)),
    "D65-mode": ("mode: 3", 2, ("mode", "ternary", "binary")),
    "D65-no-mode": ("solver: exact", 2, ("mode",)),
    "D65-action": ("mode: ternary\nlayers: [{match: '*', action: drop}]", 2, ("action", "keep")),
    "D65-pattern": ("mode: ternary\nlayers: [{match: 'nothing*', action: keep}]", 2, ("nothing*",)),
    "D65-long-pattern": (f"mode: ternary\nlayers: [{{match: {'x' * 10**5}, action: keep}}]", 2, ()),
    "D65-ternary-in-binary": ("mode: binary\nlayers: [{match: '*', action: ternary}]", 2, ()),
    "D65-key-twice": ("mode: ternary\nmode: binary", 3, ("'mode'", "twice")),
    "D65-many-keys": ("mode: ternary\n" + MANY_KEYS, 2, ("'k0'",)),
    "D65-list": ("[ternary]", 3, ("mapping",)),
    "D65-empty": ("", 3, ("mapping",)),
    "D65-tabs": ("mode:\t\tternary\n\t- x", 3, ("not YAML",)),
    "D65-python-tag": ("mode: !!python/object/apply:os.system [echo]", 3, ("not YAML",)),
    "D65-control": ("mode: ternary\n\x1b[31m: 1", 3, ("not YAML",)),
    "D65-long-number": ("mode: " + "9" * 5000, 3, ("not YAML",)),
    "D65-no-date": ("mode: 2001-99-99", 3, ("not YAML",)),
    "D65-key-is-a-list": ("? [a]\n: 1", 3, ("not YAML",)),
    "D65-key-is-itself": ("&a {*a : 1}", 3, ("not YAML",)),
    "D65-deep": ("[" * 5000, 3, ("not YAML",)),
    "D65-two-documents": ("mode: ternary\n---\nmode: binary", 3, ("not YAML",)),
    "D65-two-megabytes": ("#" + " " * (2 << 20), 3, ("1048576",)),
    "D65-base": ("mode: ternary\nbase: flux2-klein-9b", 3, ("flux2-klein-9b",)),
    "D65-aliases": ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nmode: *c", 2, ("'a'",)),
}


@pytest.mark.parametrize("case", RECIPES)
def test_d65_recipes(case, source, refuse, tmp_path):
    text, code, says = RECIPES[case]
    path = recipe(tmp_path, text)
    line = refuse(code, source, *says, options=("--recipe", path), within=6)
    assert len(line) < 1200


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "dangling"])
def test_d65_recipes_that_are_no_files(kind, source, refuse, tmp_path):
    path = tmp_path / "recipe.yaml"
    make = {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "missing": lambda: None,
            "dangling": lambda: path.symlink_to("nowhere")}  # fmt: skip
    make[kind]()
    refuse(2 if kind == "missing" else 3, source, path.name, options=("--recipe", path), within=1)


# ---- outputs ----


def digests(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


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


# ---- the Hub ----

MALFORMED_IDS = (
    "../x", "../../x", "./a/b", "/a/b", "a/b/c", "https://huggingface.co/a/b", "hf://a/b", "a/b ",
    " a/b", "a /b", "a/", "/a", "a//b", "a/..", "a/.", "a/-b", "a/b.", "a/b--c", "a/b..c",
    "a/b\n", "a/b\x1b[31m", "a/" + "b" * 100, "a/b@", "a/b@../x", "a/b@x y", "a/b@main@x", "a\\b",
    "a:b/c", "a/b?x=1", "a/b#x", "~/b", "name", "a/b.git", "a/b.safetensors", "\u00e4/b",
)  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Any use of the network fails the test."""
    used = []

    def connect(*arguments: Any) -> None:
        used.append(arguments)
        raise OSError("no network in tests")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    yield used
    assert used == []


@pytest.mark.parametrize("name", MALFORMED_IDS)
def test_d71_malformed_ids_are_refused_before_any_request(name, refuse, offline):
    refuse(2, name, within=5)


REVISIONS = ("../x", "a/../b", "x y", "main ", "a\nb", "/x", "x/", "a//b")


@pytest.mark.parametrize("revision", REVISIONS)
def test_d71_malformed_revisions(revision, refuse, offline):
    refuse(2, "org/name", options=(*MODE, "--revision", revision), within=5)


def test_d71_two_revisions(refuse, offline):
    refuse(2, "org/name@v1", "'v1'", "'v2'", options=(*MODE, "--revision", "v2"))


SECRET = "hf_ThisIsASecretThatNobodyMaySee"


@pytest.mark.parametrize("options", [(), ("--verbose",), ("--json",), ("--debug",)], ids=str)
@pytest.mark.parametrize("kind", ["good", "broken", "usage", "hub"])
def test_d70_a_token_is_never_shown(kind, options, source, run, tmp_path, monkeypatch, offline):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = {"hub": "org/name", "usage": "no such place"}.get(kind, source)
    if kind == "broken":
        source.write_bytes(b"x")
    result = run("convert", place, *MODE, *options, "-o", tmp_path / "out")
    assert result.code == {"good": 0, "broken": 3, "usage": 2, "hub": 10}[kind]
    assert "secret" not in (result.out + result.err).lower()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


# ---- resuming ----


def interrupt(run: Any, source: Path, out: Path, monkeypatch: Any, *options: str) -> Path:
    """A conversion that ends with a full disk after some tensors; -> its staging folder."""
    writes, real = [], fs.change

    def full(operation: str, call: Any, *arguments: Any, **keywords: Any) -> Any:
        writes.append(operation)
        if len(writes) > 60:
            raise OSError(28, "full")
        return real(operation, call, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "change", full)
        complaint(run("convert", source, *MODE, *options, "-f", "bonsai", "-o", out), 6)
    staging = out.parent / f".{out.name}.staging"
    assert (staging / ".journal").exists() and not out.exists()
    return staging


@pytest.fixture
def interrupted(run, source, tmp_path, monkeypatch) -> Path:
    return interrupt(run, source, tmp_path / "out", monkeypatch)


OTHERS = {
    "D72-mode": ("--mode", "binary", "-f", "bonsai"),
    "D72-solver": (*MODE, "--solver", "absmean", "-f", "bonsai"),
    "D72-formats": (*MODE, "-f", "mlx"),
}


def resume(run: Any, source: Path, out: Path, *options: Any) -> Any:
    return run("convert", source, "--resume", *(options or (*MODE, "-f", "bonsai")), "-o", out)


@pytest.mark.parametrize("case", [*OTHERS, "D72-recipe", "D72-version", "D72-source"])
def test_d72_another_run_is_not_resumed(case, source, interrupted, run, tmp_path, monkeypatch):
    options: tuple[Any, ...] = OTHERS.get(case, (*MODE, "-f", "bonsai"))
    if case == "D72-recipe":
        rule = "mode: ternary\nlayers: [{match: '*.to_q', action: keep}]"
        options = ("--recipe", recipe(tmp_path, rule), "-f", "bonsai")
    elif case == "D72-version":
        monkeypatch.setattr(resuming, "__version__", "99.0")
    elif case == "D72-source":
        save(source, {n: -w for n, w in tiny().items()})
    line = complaint(resume(run, source, tmp_path / "out", *options), 7)
    assert "without --resume" in line and not (tmp_path / "out").exists()


def test_d72_a_wrong_option_does_not_throw_the_work_away(source, interrupted, run, tmp_path):
    complaint(resume(run, source, tmp_path / "out", *OTHERS["D72-solver"]), 7)
    assert (interrupted / ".journal").exists()
    assert resume(run, source, tmp_path / "out").code == 0


def test_d72_without_resume_it_starts_again(source, interrupted, accept, tmp_path):
    fresh = digests(accept(source, out="fresh").pack)
    again = digests(accept(source).pack)
    assert list(fresh.values()) == list(again.values()) and not interrupted.exists()


def line_of(value: Any) -> bytes:
    """A line of a journal with a true checksum."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return xxhash.xxh3_64_hexdigest(text).encode() + b" " + text


def journal(change: Any) -> Any:
    """A change of the journal's text, line by line."""

    def apply(path: Path) -> None:
        made = change(path.read_bytes().split(b"\n"))
        path.write_bytes(made if isinstance(made, bytes) else b"\n".join([*made, b""]))

    return apply


def entries(change: Any) -> Any:
    """A change of every entry of the journal, with true checksums."""

    def apply(lines: list[bytes]) -> list[bytes]:
        values = [json.loads(line.partition(b" ")[2]) for line in lines[1:] if line]
        assert values
        return [lines[0], *(line_of(change(v) or v) for v in values)]

    return journal(apply)


def hostile_names(entry: dict) -> dict:
    return entry | {"tensor": "../../../canary", "stats": entry["stats"] | {"name": "../canary"}}


JOURNALS = {
    "D73-empty": journal(lambda lines: b""),
    "D73-not-json": journal(lambda lines: b"\x80\x04\xff" * 100),
    "D73-cut": journal(lambda lines: b"\n".join(lines)[: -len(lines[-2]) // 2]),
    "D73-cut-in-the-first-line": journal(lambda lines: lines[0][:10]),
    "D73-zeros": journal(lambda lines: bytes(5000)),
    "D73-not-signed": journal(lambda lines: [line.partition(b" ")[2] for line in lines]),
    "D73-other-order": journal(lambda lines: lines[::-1]),
    "D73-twice": journal(lambda lines: lines + lines[1:]),
    "D73-entries-are-lists": journal(lambda lines: [lines[0], *map(line_of, ([1], None, "x", 3))]),
    "D73-deep": journal(lambda lines: [lines[0], line_of(b"[" * 100_000)]),
    "D73-long-number": journal(lambda lines: [lines[0], line_of(b"9" * 100_000)]),
    "D73-hostile-names": entries(hostile_names),
    "D73-names-are-lists": entries(lambda e: e | {"tensor": ["x"]}),
    "D73-no-sums": entries(lambda e: e.pop("sums") and None),
    "D73-sums-of-other-formats": entries(lambda e: e | {"sums": {"../x": e["sums"]["bonsai"]}}),
    "D73-sums-are-text": entries(lambda e: e | {"sums": {"bonsai": "x"}}),
    "D73-wrong-sums": entries(lambda e: e | {"sums": {"bonsai": {"../x": ["0", 0]}}}),
    "D73-stats-are-text": entries(lambda e: e | {"stats": "x"}),
    "D73-stats-of-no-tensor": entries(lambda e: e | {"stats": {}}),
    "D73-unknown-stats": entries(lambda e: e | {"stats": e["stats"] | {"future": 1}}),
    "D73-stats-with-text": entries(lambda e: e | {"stats": e["stats"] | {"energy": "x"}}),
    "D73-stats-with-nan": entries(lambda e: e | {"stats": e["stats"] | {"energy": float("nan")}}),
    "D73-stats-of-another-name": entries(
        lambda e: e | {"stats": e["stats"] | {"name": "../x\n,evil"}}
    ),
    "D73-stats-of-another-shape": entries(lambda e: e | {"stats": e["stats"] | {"shape": ["x"]}}),
}


@pytest.mark.parametrize("case", JOURNALS)
def test_d73_journals_are_not_trusted(case, source, interrupted, run, accept, tmp_path):
    expected = list(digests(accept(source, out="expected").pack).values())
    JOURNALS[case](interrupted / ".journal")
    before = set(listing(tmp_path.parent))
    result = resume(run, source, tmp_path / "out")
    assert result.code == 0, result.err
    assert list(digests(tmp_path / "out" / "bonsai").values()) == expected
    assert {n for n, _ in set(listing(tmp_path.parent)) - before if "canary" in n} == set()


@pytest.mark.parametrize("case", ["D73-empty", "D73-not-json", "D73-zeros", "D73-not-signed"])
def test_d73_a_useless_journal_is_mentioned(case, source, interrupted, run, tmp_path):
    JOURNALS[case](interrupted / ".journal")
    result = resume(run, source, tmp_path / "out")
    assert result.code == 0 and len(result.err.splitlines()) == 1
    assert "from the beginning" in result.err


FUTURE = {
    "D73-other-purpose": {"purpose": "0"},
    "D73-purpose-of-another-kind": {"purpose": {"a": 1}},
    "D73-more-fields": {"schema": 99, "purpose": None},
}


@pytest.mark.parametrize("case", FUTURE)
def test_d73_a_journal_of_another_version(case, source, interrupted, run, tmp_path):
    (interrupted / ".journal").write_bytes(line_of(FUTURE[case]) + b"\n")
    line = complaint(resume(run, source, tmp_path / "out"), 7)
    assert "without --resume" in line


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "hard link"])
def test_d73_a_journal_that_is_no_file(kind, source, interrupted, run, tmp_path):
    """Nothing is read from or written to what stands in its place."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = interrupted / ".journal"
    shutil.copy(path, tmp_path / "kept")
    path.unlink()
    make = {"link": lambda: path.symlink_to(victim), "fifo": lambda: os.mkfifo(path),
            "folder": path.mkdir, "hard link": lambda: os.link(victim, path)}  # fmt: skip
    make[kind]()
    result = resume(run, source, tmp_path / "out")
    assert result.code in (0, 6), result.err
    assert victim.read_text() == "mine"
    if result.code:
        complaint(result, 6)
