"""Group D: options that cannot be meant. Nothing is opened for writing."""

from __future__ import annotations

import os
import re

import pytest

from .conftest import MODE, recipe

VALUES = {
    "D65-unknown-format": (("-f", "coreml"), ("bonsai", "mlx", "gemlite", "unpacked", "gguf")),
    "D65-near-format": (("-f", "mlz"), ("'mlx'",)),
    "D65-one-wrong-of-two": (("-f", "mlx,Bonzai"), ("'Bonzai'", "bonsai")),
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
    "D74-memory-word": (("--max-memory", "1XB"), ("--max-memory", "'1XB'")),
    "D74-memory-0": (("--max-memory", "0"), ("this needs ",)),
    "D74-memory-negative": (("--max-memory", "-5"), ("--max-memory", "'-5'")),
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
