"""Two processes, locks of the dead, and what stands in a staging folder that is not ours."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from bonsai_quant import convert, export, plan
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.core.errors import BonsaiError, OutputExists
from tests.support import models

from .harness import MODEL, World, beside, call_main, die, digests, in_child, nothing, seam
from .test_kill import half_done  # noqa: F401

STAGING, JOURNAL = ".out.staging", ".journal"


@pytest.fixture
def left(tmp_path, half_done) -> Path:  # noqa: F811
    """A staging folder that a killed run left for `tmp_path / "out"`."""
    return Path(shutil.copytree(half_done, tmp_path / STAGING))


def resumed(world: World, out: Path, **options) -> int:
    """Resume to the golden bytes; -> how many changes of files that took."""
    with seam(0, nothing) as counter:
        world.convert(out, resume=True, **options)
    assert digests(out) == world.golden
    assert beside(out) == set()
    shutil.rmtree(out)
    return counter.count


# Two processes


def paused(at: int, until: threading.Event):
    def act(operation, call, args, kwargs):
        until.wait(30)
        return call(*args, **kwargs)

    return seam(at, act)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [20, 150, 350])
def test_the_second_process_is_told_who_is_writing(world, tmp_path, at, overwrite):
    out, go = tmp_path / "out", threading.Event()
    if overwrite:
        world.put_old(out)
    with paused(at, go) as counter:
        first = threading.Thread(target=world.convert, args=(out,), kwargs={"overwrite": overwrite})
        first.start()
        while counter.count < at:
            pass
        for more in ([], ["--resume"]):
            arguments = world.arguments(out, "--overwrite", *more)
            code, err = in_child(lambda arguments=arguments: call_main(arguments)).value
            assert code == 7
            assert f"is being written by process {os.getpid()} on {os.uname().nodename}" in err
        go.set()
        first.join()
    assert digests(out) == world.golden
    assert beside(out) == set()


@pytest.mark.heavy
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_at_once(world, tmp_path, overwrite):
    """One wins; the other is refused, or, with --overwrite, comes second. Ten rounds."""
    out, both = tmp_path / "out", set()
    more = ["--overwrite"] if overwrite else []
    for k in range(10):
        if overwrite:
            world.put_old(out)
        reading, writing = os.pipe()
        pids = [os.fork() or after(reading, writing, world.arguments(out, *more)) for _ in "ab"]
        os.close(reading)
        os.close(writing)  # the barrier opens
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids)
        assert codes in ([0, 7], [0, 0])[: 1 + overwrite], k
        assert digests(out) == world.golden
        assert beside(out) == set()
        both.add(tuple(codes))
        shutil.rmtree(out)
    assert (0, 7) in both


def after(reading: int, writing: int, arguments: list[str]) -> None:
    """In a child: wait until the other end of a pipe is closed, then run."""
    signal.alarm(60)
    os.close(writing)
    os.read(reading, 1)
    os._exit(call_main(arguments)[0])


def test_the_lock_of_a_dead_process_is_no_lock(world, tmp_path, left):
    assert b"process " in (left / ".owner").read_bytes()
    with pytest.raises(OutputExists, match="an interrupted run lies there"):
        world.convert(tmp_path / "out")
    world.convert(tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == world.golden
    assert beside(tmp_path / "out") == set()


def test_with_overwrite_all_is_done_again(world, tmp_path, left):
    with seam(0, nothing) as counter:
        world.convert(tmp_path / "out", overwrite=True)
    again = counter.count
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(left, ignore_errors=True)
    with seam(0, nothing) as counter:
        world.convert(tmp_path / "out")
    assert again >= counter.count


def test_an_interrupted_resume_loses_nothing(world, tmp_path, left, half_done):  # noqa: F811
    """Killed while it checks what is there, again and again: the next resume has less to do."""
    saved = resumed(world, tmp_path / "out")
    shutil.copytree(half_done, left)
    for n in (4, 6, 8, 20):
        with seam(n, die):
            assert in_child(lambda: world.convert(tmp_path / "out", resume=True)).status < 0
    assert resumed(world, tmp_path / "out") <= saved + 8


# Another run's journal


OTHER_OPTIONS = [{"mode": "binary"}, {"solver": "absmean"}, {"formats": "bonsai"}]


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=str)
def test_a_journal_for_other_options(world, tmp_path, left, options):
    before = digests(left)
    with pytest.raises(OutputExists, match="another source, recipe") as e:
        convert(world.source, out=tmp_path / "out", resume=True, **{"mode": "ternary"} | options)
    assert "without --resume" in str(e.value)
    assert {k: v for k, v in digests(left).items() if k != ".owner"} == {
        k: v for k, v in before.items() if k != ".owner"
    }
    resumed(world, tmp_path / "out")


def test_a_journal_of_another_version(world, tmp_path, left, monkeypatch):
    monkeypatch.setattr("bonsai_quant.conversion.resume.__version__", "9.9")
    with pytest.raises(OutputExists, match="version"):
        world.convert(tmp_path / "out", resume=True)
    monkeypatch.undo()
    resumed(world, tmp_path / "out")


def test_a_journal_for_another_source(world, tmp_path, left):
    """Same names, shapes and sizes, other weights: found when the source is read."""
    other = models.save_folder(tmp_path / "other", models.tensors(MODEL, seed=9), MODEL)
    work = plan(str(other), mode="ternary", threads=2)
    with pytest.raises(OutputExists, match="than the source now holds") as e:
        write_packs(work, tmp_path / "out", resume=True)
    assert "without --resume" in str(e.value)
    shutil.rmtree(other)
    resumed(world, tmp_path / "out")


# A damaged journal


def line(entry: object) -> bytes:
    text = json.dumps(entry).encode()
    return b"%s %s\n" % (xxhash.xxh3_64_hexdigest(text).encode(), text)


def entries(journal: bytes) -> list[dict]:
    whole = journal[: journal.rfind(b"\n") + 1]  # the run may have been killed within a line
    return [json.loads(row.partition(b" ")[2]) for row in whole.splitlines()]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda j: b"",
    "zeros": lambda j: bytes(5000),
    "noise": lambda j: random.Random(1).randbytes(5000),
    "plain JSON": lambda j: b'{"tensor": "a"}\n' * 9,
    "no header": lambda j: j.partition(b"\n")[2],
    "header alone": lambda j: j.partition(b"\n")[0] + b"\n",
    "header cut": lambda j: j[:30],
    "backwards": lambda j: b"\n".join(j.split(b"\n")[::-1]),
    "of the future": lambda j: line({"journal": 2, "lines": []}) + j,
    "not an object": lambda j: line([1]) + line(3) + j,
    "deep": lambda j: b"0 " + b"[" * 100_000 + b"\n" + j,
    "carriage returns": lambda j: j.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_useless_journal_is_ignored(world, tmp_path, left, caplog, name):
    journal = left / JOURNAL
    journal.write_bytes(DAMAGED[name](journal.read_bytes()))
    resumed(world, tmp_path / "out")
    assert "starting from the beginning" in caplog.text


def test_a_journal_that_is_too_large_is_ignored(world, tmp_path, left, caplog):
    os.truncate(left / JOURNAL, 65 << 20)
    resumed(world, tmp_path / "out")
    assert "starting from the beginning" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_a_journal_cut_or_flipped_anywhere(world, tmp_path, left, seed):
    chance, journal = random.Random(seed), left / JOURNAL
    data = bytearray(journal.read_bytes())
    at = chance.randrange(len(data))
    if seed % 2:
        del data[at:]
    else:
        data[at] ^= 1 << chance.randrange(8)
    journal.write_bytes(data)
    resumed(world, tmp_path / "out")


def hostile_entries(good: dict) -> list[object]:
    sums = good["sums"]
    return [
        {"tensor": "../../../etc/passwd"} | good,
        good | {"tensor": "../../../etc/passwd"},
        good | {"tensor": 7},
        good | {"tensor": "\x1b[31m\u202e"},
        good | {"source": None},
        good | {"source": []},
        good | {"sums": []},
        good | {"sums": sums | {"../x": {}}},
        good | {"sums": {f: {} for f in sums}},
        good | {"sums": {f: {"../x": ["0", 0]} for f in sums}},
        good | {"sums": {f: {n: [0, "0"] for n in s} for f, s in sums.items()}},
        good | {"sums": {f: {n: ["0" * 32, 10**400] for n in s} for f, s in sums.items()}},
        good | {"stats": None},
        good | {"stats": {}},
        good | {"stats": good["stats"] | {"energy": "much"}},
        good | {"stats": good["stats"] | {"shape": "ab"}},
        good | {"stats": good["stats"] | {"shape": 3}},
        good | {"stats": good["stats"] | {"shape": [1, 1]}},
        good | {"stats": good["stats"] | {"action": "burn"}},
        good | {"stats": good["stats"] | {"name": "other"}},
        good | {"stats": good["stats"] | {"more": 1}},
        good | {"stats": [1, 2]},
    ]


def test_hostile_entries_with_right_checksums(world, tmp_path, half_done):  # noqa: F811
    first, good, *rest = entries((half_done / JOURNAL).read_bytes())
    for k, bad in enumerate(hostile_entries(good)):
        left = Path(shutil.copytree(half_done, tmp_path / STAGING))
        (left / JOURNAL).write_bytes(b"".join(line(e) for e in (first, *rest, bad)))
        resumed(world, tmp_path / "out")
        assert os.listdir(tmp_path) == [], k


# What stands where our files should


def plant(how: str, path: Path, victim: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match how:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim.parent / "nothing")
        case "hard link":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            (path / "deeper").mkdir(parents=True)
            (path / "deeper" / "file").write_bytes(b"foreign")
        case "file":
            path.write_bytes(b"foreign")


@pytest.mark.parametrize("how", ["link", "dangling link", "hard link", "pipe", "folder", "file"])
@pytest.mark.parametrize(
    "where",
    [JOURNAL, ".owner", "bonsai/model.safetensors", "mlx/manifest.json", "bonsai", "new",
     "mlx/new.safetensors", "gemlite/layers.csv"],
)  # fmt: skip
@pytest.mark.parametrize("resume", [True, False])
def test_planted_files_are_never_published_or_followed(world, tmp_path, left, how, where, resume):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (left / where).parent.mkdir(exist_ok=True)
    plant(how, left / where, victim)
    out = tmp_path / "out"
    signal.alarm(20)  # nothing may wait for a pipe
    try:
        world.convert(out, resume=resume, overwrite=not resume)
    except BonsaiError as e:
        assert resume
        assert e.exit_code == 6
        assert "something else stands in its place" in str(e)
        assert str(left / where) in str(e)
        assert not out.exists()
        world.convert(out, overwrite=True)
    finally:
        signal.alarm(0)
    assert digests(out) == world.golden
    assert not any(p.is_symlink() for p in out.rglob("*"))
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "nothing").exists()
    assert beside(out) == {"victim"}


@pytest.mark.parametrize("how", ["link", "dangling link", "hard link", "pipe", "file"])
def test_something_else_has_the_staging_name(world, tmp_path, how):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    plant(how, tmp_path / STAGING, victim)
    with pytest.raises(BonsaiError, match="something else stands in its place") as e:
        world.convert(tmp_path / "out")
    assert e.value.exit_code == 6
    assert str(tmp_path / STAGING) in str(e.value)
    assert victim.read_bytes() == b"mine"


def test_an_export_is_staged_too(world, tmp_path):
    packs, out = tmp_path / "packs", tmp_path / "out"
    world.convert(packs)
    with seam(30, die):
        assert in_child(lambda: export(packs, format="mlx", out=out)).status == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / STAGING).exists()
    export(packs, format="mlx", out=out)
    golden = {k.partition("/")[2]: v for k, v in world.golden.items() if k.startswith("mlx/")}
    assert digests(out) == golden
    assert beside(out) == {"packs"}
