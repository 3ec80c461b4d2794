"""Group A: files of other formats, special files, and files that change during the run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from bonsai_quant.sources import checkpoint as source
from bonsai_quant.storage import fs

from .conftest import MODE, SINGLE_FILE, complaint, mk, save, save_shards, tiny


def pickle_of(protocol: int) -> bytes:
    import pickle

    return pickle.dumps({"weight": list(range(1000))}, protocol)


FOREIGN = {
    "A27-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64, "Git LFS"),
    "A27-html": (b"<!DOCTYPE html><html>" + bytes(100), "web page"),
    "A27-html-after-blanks": (b"\n  <html lang='en'>" + bytes(100), "web page"),
    "A27-json": (b'{"error":"Repository not found"}', "JSON"),
    "A27-pickle-2": (pickle_of(2), "pickle"),
    "A27-pickle-3": (pickle_of(3), "pickle"),
    "A27-pickle-4": (pickle_of(4), "pickle"),
    "A27-pickle-5": (pickle_of(5), "pickle"),
    "A27-zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "A27-gguf": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
    "A27-gzip": (b"\x1f\x8b\x08\0\0\0\0\0" + bytes(1 << 20), "gzip"),
    "A27-numpy": (b"\x93NUMPY\x01\0" + bytes(100), "NumPy"),
    "A27-tar": (b"a/".ljust(257, b"\0") + b"ustar\x0000" + bytes(1024), "tar"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a27_other_formats_are_named(case, refuse, tmp_path):
    content, kind = FOREIGN[case]
    path = tmp_path / SINGLE_FILE
    path.write_bytes(content)
    refuse(3, path, path.name, "is not a safetensors file", kind)


def test_a27_a_broken_header_is_not_taken_for_another_format(refuse, tmp_path):
    """Header lengths whose bytes look like the magic of a pickle or of JSON."""
    path = tmp_path / SINGLE_FILE
    for length in (0x0480, 0x0280, 0x227B):
        path.write_bytes(mk(b'{"a":'.ljust(length)))
        assert "not JSON" in refuse(3, path)


def test_a27_an_unfinished_download(refuse, tmp_path):
    path = save(tmp_path / "0a1b.incomplete", tiny())
    os.truncate(path, 5000)
    refuse(3, path, path.name, "truncated")


def special(kind: str, path: Path) -> Path:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    return Path("/dev/zero") if kind == "device" else path


KINDS = ("fifo", "socket", "folder", "loop", "dangling", "device")


@pytest.mark.parametrize("kind", KINDS)
def test_a28_special_files_never_block(kind, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the paths of sockets are short
    path = special(kind, Path(SINGLE_FILE))
    refuse(3, path, path.name, within=1)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a28_special_files_in_a_folder(kind, refuse, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    special(kind, Path(SINGLE_FILE))
    refuse(3, tmp_path / "model", SINGLE_FILE, within=1)


def during_the_run(monkeypatch, path: Path, change) -> None:
    """Call `change` once, when some of the tensors of `path` were read."""
    reads = []
    read = fs.pread_into

    def counted(fd, buffer, offset, where):
        reads.append(where)
        if reads.count(path) == 12:
            change()
        read(fd, buffer, offset, where)

    monkeypatch.setattr(fs, "pread_into", counted)


def rewrite(path: Path) -> None:
    """Other bytes of the same length, in the same file."""
    with open(path, "r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\x01\x3c" * 500)


CHANGES = {
    "A29-shrinks": lambda p: os.truncate(p, p.stat().st_size // 4),
    "A29-loses-its-last-byte": lambda p: os.truncate(p, p.stat().st_size - 1),
    "A29-vanishes": lambda p: os.truncate(p, 0),
    "A29-grows": lambda p: os.truncate(p, p.stat().st_size + 1),
    "A30-rewritten": rewrite,
}


@pytest.mark.parametrize("case", CHANGES)
def test_a29_a_source_that_changes_during_the_run(case, run, tmp_path, monkeypatch):
    path = save(tmp_path / SINGLE_FILE, tiny())
    os.utime(path, (1, 1))
    during_the_run(monkeypatch, path, lambda: CHANGES[case](path))
    line = complaint(run("convert", path, *MODE, "-o", tmp_path / "out"), 3)
    assert path.name in line and "changed during the run" in line
    assert os.listdir(tmp_path) == [path.name]


def test_a30_a_shard_that_is_replaced_before_its_turn(run, tmp_path, monkeypatch):
    folder = save_shards(tmp_path / "model")
    first, second = sorted(folder.glob("*.safetensors"))
    (tmp_path / "other").write_bytes(second.read_bytes())
    during_the_run(monkeypatch, first, lambda: os.replace(tmp_path / "other", second))
    line = complaint(run("convert", folder, *MODE, "-o", tmp_path / "out"), 3)
    assert second.name in line and "changed during the run" in line
    assert os.listdir(tmp_path) == ["model"]


def test_a30_a_file_that_is_replaced_after_its_header_was_read(run, tmp_path, monkeypatch):
    path = save(tmp_path / SINGLE_FILE, tiny())
    real = source.detect

    def replacing(*arguments):
        path.with_suffix(".new").write_bytes(path.read_bytes())
        os.replace(path.with_suffix(".new"), path)
        return real(*arguments)

    monkeypatch.setattr(source, "detect", replacing)
    line = complaint(run("convert", path, *MODE, "-o", tmp_path / "out"), 3)
    assert path.name in line and "changed during the run" in line


def test_a30_a_file_that_is_replaced_while_it_is_open(accept, tmp_path, monkeypatch):
    """The pack is that of the old bytes, and says so."""
    path = save(tmp_path / "model" / SINGLE_FILE, tiny())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    other = save(tmp_path / "other", {n: -w for n, w in tiny().items()})
    expected = accept(path, out="before").pack
    during_the_run(monkeypatch, path, lambda: os.replace(other, path))
    pack = accept(path).pack
    assert other.exists() is False
    for name in os.listdir(expected):
        assert (pack / name).read_bytes() == (expected / name).read_bytes()
    manifest = json.loads((pack / "manifest.json").read_text())
    assert manifest["source"]["files"][0]["sha256"] == digest
