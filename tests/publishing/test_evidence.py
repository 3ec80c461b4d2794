"""What a card says of a score."""

from __future__ import annotations

import pytest

from bonsai_quant.publishing.evidence import _interval


@pytest.mark.parametrize(("figure", "text"), [
    ((0.9786, 0.9651, 0.9929), "97.9 % (96.5 to 99.3)"),
    ((0.0, 0.0, 0.006), "0.0 % (0.0 to 0.6)"),
    ((1.0, None, None), "100.0 % (no interval: too few pictures)"),
    ((None, None, None), ""),
])  # fmt: skip
def test_a_figure_with_its_interval(figure, text):
    assert _interval(dict(zip(("value", "low", "high"), figure, strict=True))) == text
