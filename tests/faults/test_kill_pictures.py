"""SIGKILL while pictures are painted or judged: what is there is whole, and --resume ends it."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from bonsai_quant import generate, score
from bonsai_quant.storage.containers.png_text import read_texts
from tests.support import fake_runner, pipelines, warm

from .harness import LIMIT_S, die, digests, finish, in_child, nothing, seam

PROMPTS = ["a red circle", "two squares"]


def killed_everywhere(work, check, out: Path):
    """Kill at the n-th change of a file for n = 1, 2, ...; yields after each, resumed."""
    for n in itertools.count(1):
        with seam(n, die):
            status = in_child(lambda: work(False)).status
        check()
        with seam(0, nothing):
            work(True)
        yield n
        shutil.rmtree(out)
        if status == 0:
            return
        assert status == -signal.SIGKILL


@pytest.mark.heavy
def test_generate_killed_at_every_change(monkeypatch, tmp_path):
    runner = fake_runner.install(monkeypatch, tmp_path / "pipeline")
    out = tmp_path / "out"

    def work(resume: bool) -> None:
        generate("m", PROMPTS, seeds=(1, 2), out=out, resume=resume)

    def check() -> None:
        pictures = sorted(out.glob("[!.]*.png"))
        assert [p.name for p in pictures] == [f"{i:04d}.png" for i in range(len(pictures))]
        for p in pictures:
            assert read_texts(p)
        runner.decoded = 0
        there.append(len(pictures))

    there: list[int] = []
    with seam(0, nothing):
        work(False)
    golden = digests(out)
    shutil.rmtree(out)
    for _ in killed_everywhere(work, check, out):
        assert digests(out) == golden
        assert runner.decoded == 4 - there[-1]
    assert set(there) == set(range(5))


@pytest.mark.heavy
def test_score_killed_at_every_change(monkeypatch, standin, tmp_path):
    pipelines.draw_truth(monkeypatch, lambda place: 0.3)
    out, results = tmp_path / "out", []

    def work(resume: bool) -> None:
        results.append(score(str(standin), prompts=1, images=1, batch=2, out=out, resume=resume))

    def check() -> None:
        for p in out.glob("[!.]*.json"):
            json.loads(p.read_text())

    with seam(0, nothing):
        work(False)
    golden = digests(out)
    shutil.rmtree(out)
    for _ in killed_everywhere(work, check, out):
        assert digests(out) == golden
        assert results[-1] == results[0]


def started(arguments: list[str]) -> warm.Process:
    """The real command line in a process of its own."""
    return warm.Process("bonsai_quant", arguments)


def killed_when(process, seen) -> None:
    """SIGKILL as soon as a file is there, or when the process has ended before."""
    until = time.monotonic() + LIMIT_S * 4
    while process.poll() is None and not seen() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.communicate()


@pytest.mark.heavy
def test_the_real_generate_killed_after_the_first_picture(standin, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    arguments = ["generate", str(standin), "--prompts", str(tmp_path / "p.txt"), "--count", "3",
                 "--steps", "1", "-o", str(out), "--json"]  # fmt: skip
    killed_when(started(arguments), (out / "0000.png").exists)
    before = digests(out)
    n = len([name for name in before if name[0] != "." and name.endswith(".png")])
    assert n >= 1
    done = finish(started([*arguments, "--resume"]))
    assert done.code == 0, done.err
    assert json.loads(done.out)["kept"] == n
    after = digests(out)
    assert sorted(after) == [*(f"{i:04d}.png" for i in range(6)), "index.json"]
    assert all(after[name] == before[name] for name in before if name in after and ".png" in name)


@pytest.mark.slow
def test_the_real_score_killed_after_the_first_batch(standin, tmp_path):
    out = tmp_path / "out"
    arguments = ["score", str(standin), "--prompts", "6", "--images", "2", "--json"]
    killed_when(started([*arguments, "-o", str(out)]), (out / "model0-0000000.json").exists)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("model0-*.json")}
    assert before
    done = finish(started([*arguments, "-o", str(out), "--resume"]))
    assert done.code == 0, done.err
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("model0-*.json")}
    assert len(after) == 3
    assert before.items() <= after.items()
    assert not list(out.glob(".*"))
    whole = finish(started(arguments))
    assert json.loads(whole.out) == json.loads(done.out)
