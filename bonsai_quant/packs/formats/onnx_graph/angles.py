"""Sines and cosines of positions and of times, in float32 and for any size of the input.

WebGPU promises three digits of a sine, and those near 0 alone; and a product of float32 loses in
the angle what it has no digits for. So the frequency of a position is two numbers, the first so
short that its product with a position is exact; every angle is first brought to [-pi, pi] with 2 pi
in three such numbers; and sines are sums of powers, which are the same everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from .graph import Graph

SHORT = 12
"""Bits of a short number: its product with a whole number below 4096 is exact in float32."""
TURN_BITS = 8
"""Of the first part of 2 pi, which is taken some hundred times from an angle."""
TERMS = 6
"""Of the series of the sine of at most pi / 2."""
LONGEST_PERIOD = 10_000
"""Of the sines of a time, in thousandths of the way from noise to picture."""


def position_table(g: Graph, ids: str, axes: tuple[int, ...], theta: float) -> tuple[str, str]:
    """Cosines and sines [tokens, head / 2] of position ids [tokens, axes].

    axes: channels of a head that turn with each id.
    """
    which = [k for k, width in enumerate(axes) for _ in range(width // 2)]
    exact = [theta ** -(2 * i / width) for width in axes for i in range(width // 2)]
    short = [_shortened(f, SHORT) for f in exact]
    rest = [f - s for f, s in zip(exact, short, strict=True)]
    axis_of = g.constant("rope.axis_of", np.array(which, np.int64))
    position = g.op("Gather", ids, axis_of, to="rope.position", axis=1)
    angle, error = (
        g.op("Mul", position, g.constant(f"rope.{to}_frequency", np.array(f, np.float32)),
             to=f"rope.{to}")
        for to, f in (("short", short), ("rest", rest))
    )  # fmt: skip
    return _circle(g, angle, "rope", error)


def time_features(g: Graph, timestep: str, channels: int) -> str:
    """Cosines, then sines, of a time [batch] in 0 to 1: [batch, channels].

    In float32 from the first step on, like diffusers, whose angles are rounded too.
    """
    half = channels // 2
    exponents = np.float32(-math.log(LONGEST_PERIOD)) * np.arange(half, dtype=np.float32)
    exponents /= np.float32(half)
    frequencies = np.array([math.exp(float(e)) for e in exponents], np.float32)
    thousandths = g.op("Mul", timestep, g.number(1000.0), to="time.thousandths")
    column = g.op("Unsqueeze", thousandths, g.ints(1), to="time.column")
    angle = g.op("Mul", column, g.constant("time.frequency", frequencies), to="time.angle")
    return g.op("Concat", *_circle(g, angle, "time"), to="time.features", axis=1)


def _circle(g: Graph, angle: str, to: str, error: str = "") -> tuple[str, str]:
    """Cosine and sine of an angle. error: what is to be added to the angle."""
    first = _shortened(math.tau, TURN_BITS)
    second = _shortened(math.tau - first, SHORT)
    quotient = g.op("Mul", angle, g.number(1 / math.tau), to=f"{to}.quotient")
    turns = g.op("Round", quotient, to=f"{to}.turns")
    left = angle
    for k, part in enumerate((first, second, math.tau - first - second)):
        whole = g.op("Mul", turns, g.number(part), to=f"{to}.whole.{k}")
        left = g.op("Sub", left, whole, to=f"{to}.left.{k}")
    if error:
        left = g.op("Add", left, error, to=f"{to}.left")
    return _cosine_and_sine(g, left, to)


def _cosine_and_sine(g: Graph, angle: str, to: str) -> tuple[str, str]:
    """Of an angle in [-pi, pi], from Taylor series of the half angle: sine s, cosine c.

    cos = 1 - 2 s s and sin = 2 s c. The series leave out less than 6e-8.
    """
    half = g.op("Mul", angle, g.number(0.5), to=f"{to}.half")
    square = g.op("Mul", half, half, to=f"{to}.square")
    odd = [(-1) ** k / math.factorial(2 * k + 1) for k in range(TERMS)]
    even = [(-1) ** k / math.factorial(2 * k) for k in range(TERMS + 1)]
    s = g.op("Mul", half, _series(g, square, odd, f"{to}.odd"), to=f"{to}.half_sin")
    c = _series(g, square, even, f"{to}.even")
    twice = g.op("Add", s, s, to=f"{to}.twice")
    cosine = g.op("Sub", g.number(1.0), g.op("Mul", twice, s, to=f"{to}.lost"), to=f"{to}.cos")
    return cosine, g.op("Mul", twice, c, to=f"{to}.sin")


def _series(g: Graph, x: str, terms: list[float], to: str) -> str:
    """terms[0] + terms[1] x + terms[2] x x + ..., from the last to the first."""
    total = g.number(terms[-1])
    for k, term in reversed(list(enumerate(terms[:-1]))):
        product = g.op("Mul", total, x, to=f"{to}.{k}.product")
        total = g.op("Add", product, g.number(term), to=f"{to}.{k}")
    return total


def _shortened(value: float, bits: int) -> float:
    """The number nearest to it that has so many significant bits."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, bits)), exponent - bits)
