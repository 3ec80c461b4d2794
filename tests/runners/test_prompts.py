"""Prompts of files, and seeds of words."""

from __future__ import annotations

import pytest

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.runners.prompts import parse_prompts, parse_seeds, read_prompts


def test_prompts_from_a_file(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("# animals\na red circle\n\n  two squares \n  # none\na #1 sign\n")
    assert read_prompts(path) == ["a red circle", "two squares", "a #1 sign"]
    with pytest.raises(BadInput, match="is not UTF-8"):
        parse_prompts(b"\xff", "standard input")


@pytest.mark.parametrize(("words", "count", "seeds"), [
    ((), None, [0]),
    (("7",), None, [7]),
    (("7", "3"), None, [7, 3]),
    (("1-4",), None, [1, 2, 3, 4]),
    (("1,5,9",), None, [1, 5, 9]),
    (("1-2,9", "4"), None, [1, 2, 9, 4]),
    ((), 3, [0, 1, 2]),
    (("8",), 3, [8, 9, 10]),
])  # fmt: skip
def test_seeds(words, count, seeds):
    assert parse_seeds(words, count) == seeds


def test_random_seeds_differ_and_can_be_given_again():
    seeds = {parse_seeds(["random"])[0] for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= s < 2**32 for s in seeds)
    first, second = parse_seeds(["random"], 2)
    assert second == first + 1


@pytest.mark.parametrize(("words", "count", "message"), [
    (("x",), None, "seed 'x'"),
    (("1-",), None, "seed '1-'"),
    (("4-1",), None, "the last is less than the first"),
    (("0-99999999",), None, "100000000 seeds"),
    (("-1",), None, "seed -1 is not between"),
    (("9223372036854775808",), None, "2\\^63"),
    (("9223372036854775807",), 2, "2\\^63"),
    (("1,2",), 2, "with 2 seeds"),
    ((), 0, "--count 0"),
    ((), 10**9, "at most 10000"),
    (("\u0661",), None, "give N"),
])  # fmt: skip
def test_seeds_that_make_no_sense(words, count, message):
    with pytest.raises(UsageError, match=message):
        parse_seeds(words, count)
