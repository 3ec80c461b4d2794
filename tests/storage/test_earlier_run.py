"""A run that was interrupted is said when its command is typed again, and nothing of it is lost."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from bonsai_quant import convert
from bonsai_quant.core.errors import OutputExists
from bonsai_quant.storage import journal
from tests.support.watching import Watching


@pytest.fixture
def typed(tiny, tmp_path):
    """A conversion that was interrupted after some tensors, to be typed again."""
    left = [9]

    def interrupt(n):
        left[0] -= n
        if left[0] <= 0:
            raise KeyboardInterrupt

    def again(**options):
        return convert(str(tiny), mode="binary", formats="bonsai", out=tmp_path / "out", threads=1,
                       **options)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        again(progress=Watching(interrupt))
    return again


def test_the_same_command_says_how_far_it_came_and_keeps_it(typed, tmp_path):
    staging = tmp_path / ".out.staging"
    said = journal.finished(staging)
    done, total = (int(w) for w in said.removesuffix(" tensors done").split(" of "))
    assert 8 <= done < total
    for _ in range(2):
        with pytest.raises(OutputExists) as e:
            typed()
        assert f"{staging}: an interrupted run lies there: {said}" in str(e.value)
        assert "--resume" in e.value.hint and "--overwrite" in e.value.hint
    watching = Watching()
    typed(resume=True, progress=watching)
    assert not staging.exists()
    assert len(typed(overwrite=True).layers) == total


def test_overwrite_begins_again_and_says_what_is_given_up(typed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        typed(overwrite=True)
    assert "tensors done" in caplog.text and "given up" in caplog.text
    assert (tmp_path / "out" / "bonsai").is_dir()


@pytest.mark.parametrize("damage", ["empty", "cut", "absent", "link", "not whole"])
def test_what_is_of_no_use_is_no_reason_to_refuse(typed, tmp_path, damage):
    staging = tmp_path / ".out.staging"
    path = staging / journal.NAME
    whole = path.read_bytes()
    path.unlink()
    if damage == "link":
        (tmp_path / "else").write_bytes(whole)
        path.symlink_to(tmp_path / "else")
    elif damage != "absent":
        path.write_bytes({"empty": b"", "cut": whole[:20],
                          "not whole": whole.split(b"\n")[0] + b"\n"}[damage])  # fmt: skip
    assert journal.finished(staging) == ""
    typed()
    assert (tmp_path / "out" / "bonsai").is_dir()


def test_a_journal_without_a_total_tells_what_is_done(typed, tmp_path):
    """As earlier versions wrote it."""
    import xxhash

    path = tmp_path / ".out.staging" / journal.NAME
    first, _, rest = path.read_bytes().partition(b"\n")
    said = json.loads(first.partition(b" ")[2])
    del said["of"]
    text = json.dumps(said, sort_keys=True).encode()
    path.write_bytes(xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n" + rest)
    assert " of " not in journal.finished(tmp_path / ".out.staging")
    assert journal.finished(tmp_path / ".out.staging").endswith(" tensors done")


def test_the_command_exits_as_for_an_output_that_exists(typed, tiny, tmp_path, run):
    done = run("convert", tiny, "--mode", "binary", "-f", "bonsai", "-o", tmp_path / "out")
    assert (done.code, done.out) == (OutputExists.exit_code, "")
    assert "continue it with --resume" in done.err
    shutil.rmtree(tmp_path / ".out.staging")
    again = run("convert", tiny, "--mode", "binary", "-f", "bonsai", "-o", tmp_path / "out")
    assert again.code == 0
