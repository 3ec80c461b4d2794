"""One style of numbers in everything that people read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bonsai_quant
from bonsai_quant.core.numbers import count, duration, percent, size, smaller


@pytest.mark.parametrize(("n", "text"), [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"),
    (16_320_112, "16.3 MB"), (99_960_000, "100 MB"), (999_400_000, "999 MB"),
    (999_600_000, "1.00 GB"), (7_750_000_000, "7.75 GB"), (2_000_000_000_000, "2.00 TB"),
])  # fmt: skip
def test_sizes_are_decimal_with_three_digits(n, text):
    assert size(n) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0:00"), (12.4, "0:12"), (59.6, "1:00"), (3723, "1:02:03"), (-1, "0:00"),
    (90_000, "25:00:00"),
])  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("share", "text"), [
    (0, "0.0 %"), (0.00001, "< 0.1 %"), (0.0005, "0.1 %"), (0.405, "40.5 %"), (1, "100.0 %"),
])  # fmt: skip
def test_shares_have_one_decimal_and_a_small_one_is_not_nothing(share, text):
    assert percent(share) == text


def test_counts_and_ratios():
    assert count(6_815_744) == "6,815,744"
    assert smaller(16_300_000, 4_200_000) == "16.3 MB -> 4.20 MB, 3.9x smaller"
    assert smaller(100, 200) == "100 bytes -> 200 bytes, 2.0x larger"
    assert smaller(0, 200) == "0 bytes -> 200 bytes"


def test_no_view_has_a_style_of_its_own():
    root = Path(bonsai_quant.__file__).parent
    other = re.compile(r"/ 1e[69]|/ \(1 << [23]0\)|:[,.0-9]*%\}")
    found = {
        f"{path.relative_to(root)}: {line.strip()}"
        for folder in ("cli", "core")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if other.search(line) and path.name != "numbers.py"
    }
    assert found == set()
