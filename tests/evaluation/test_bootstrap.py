"""Intervals: how often they hold the truth, and what few prompts can tell."""

from __future__ import annotations

import numpy as np
import pytest

from bonsai_quant.evaluation.bootstrap import (
    Figure,
    Resampled,
    adjusted_ratio,
    ratio,
    resample,
    wilson,
)


@pytest.mark.heavy
def test_an_interval_holds_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("bonsai_quant.evaluation.bootstrap.RESAMPLES", 500)
    rng = np.random.default_rng(0)
    inside = 0
    for n in range(200):
        values = (rng.random((6, 100, 4)) < 0.8).mean(2)
        f = resample(values, seed=n)[0].figure()
        inside += f.low <= 0.8 <= f.high
    assert 0.90 <= inside / 200 <= 0.99


def test_pictures_of_a_prompt_are_drawn_together():
    # Four pictures that always agree tell no more than one.
    rng = np.random.default_rng(0)
    alone = (rng.random((6, 100)) < 0.5).astype(float)
    apart = (rng.random((6, 100, 4)) < 0.5).mean(2)
    wide, narrow = (resample(v, 0)[0].figure() for v in (alone, apart))
    assert 1.7 < (wide.high - wide.low) / (narrow.high - narrow.low) < 2.3


def test_the_same_seed_draws_the_same_prompts():
    values = np.random.default_rng(0).random((6, 20))
    a, b, c = resample(values, 1), resample(1 - values, 1), resample(values, 2)
    for x, y in zip(a, b, strict=True):
        assert np.allclose(x.resamples + y.resamples, 1)
    assert not np.array_equal(a[0].resamples, c[0].resamples)


def test_paired_ratios_are_surer_than_their_parts():
    rng = np.random.default_rng(0)
    reference = (rng.random((6, 100)) < 0.6).astype(float)
    kept = reference * (rng.random((6, 100)) < 0.9)
    a, b = resample(kept, 0)[0], resample(reference, 0)[0]
    paired = ratio(a, b)
    unpaired = ratio(a, resample(reference, 1)[0])
    assert paired.value == pytest.approx(kept.mean() / reference.mean(), abs=1e-6)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_a_share_of_nothing_is_not_told():
    some = Resampled(0.5, np.array([0.4, 0.6]), 600)
    none = Resampled(0.0, np.array([0.0, 0.0]), 600)
    rare = Resampled(0.1, np.array([0.0, 0.2]), 600)
    assert ratio(some, none).value is None
    assert (ratio(some, rare).value, ratio(some, rare).low) == (5.0, None)
    assert adjusted_ratio(some, some, none).value == 1.0
    assert adjusted_ratio(none, some, none).value == 0.0
    assert adjusted_ratio(some, none, some).value is None


@pytest.mark.parametrize(("passed", "n", "low", "high"), [
    # from the tables of https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857 (Newcombe, 1998)
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
])  # fmt: skip
def test_wilson_s_interval_is_that_of_the_literature(passed, n, low, high):
    assert wilson(passed / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1 - passed / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_prompts_that_all_pass_are_not_surely_all():
    for shape, low in (((6, 1, 4), 0.610), ((6, 100, 4), 0.994)):
        overall, first, *_ = resample(np.ones(shape).mean(2), 0)
        assert (overall.share().value, overall.share().high) == (1.0, 1.0)
        assert overall.share().low == pytest.approx(low, abs=1e-3)
        assert first.share().low < overall.share().low
        assert overall.interval == "wilson"


def test_few_prompts_are_not_resampled():
    values = np.tile([0.0, 1.0], (6, 2))
    some, each, *_ = resample(values, 0)
    assert (some.n, each.n, some.interval) == (24, 4, "wilson")
    assert (some.figure().low, ratio(some, some)) == (None, Figure(1.0, None, None))
    assert some.share().low == pytest.approx(0.314, abs=1e-3)
    more = resample(np.tile([0.0, 1.0], (6, 3)), 0)[0]
    assert (more.n, more.interval) == (36, "bootstrap")
    assert more.share() == more.figure()
