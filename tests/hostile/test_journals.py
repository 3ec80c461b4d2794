"""Group D: leftovers of an interrupted conversion that cannot be trusted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import xxhash

from bonsai_quant.conversion import resume as resuming
from bonsai_quant.storage import fs

from .conftest import MODE, complaint, digests, listing, recipe, save, tiny


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


def test_d72_with_overwrite_it_starts_again(source, interrupted, accept, tmp_path):
    fresh = digests(accept(source, out="fresh").pack)
    again = digests(accept(source, "--overwrite").pack)
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
