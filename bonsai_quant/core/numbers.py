"""How numbers are written for people: one style for sizes, times, shares and counts."""

from __future__ import annotations


def size(n: float) -> str:
    """Bytes in decimal units with three significant digits: 999 bytes, 16.3 MB, 1.18 GB."""
    if abs(n) < 1000:
        return f"{n:.0f} bytes"
    n, units = n / 1000, ["kB", "MB", "GB", "TB"]
    while abs(n) >= 999.5 and len(units) > 1:
        n, units = n / 1000, units[1:]
    digits = 2 if abs(n) < 9.995 else 1 if abs(n) < 99.95 else 0
    return f"{n:,.{digits}f} {units[0]}"


def duration(seconds: float) -> str:
    """Minutes and seconds, hours where there are some: 0:12, 1:02:03."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def percent(share: float) -> str:
    """A share with one decimal, and no small one as nothing: 0.405 -> 40.5 %, 1e-5 -> < 0.1 %."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def count(n: int) -> str:
    """A whole number with commas between thousands."""
    return f"{n:,}"


def smaller(before: int, after: int) -> str:
    """Two sizes and their ratio: 16.3 MB -> 4.20 MB, 3.9x smaller."""
    text = f"{size(before)} -> {size(after)}"
    if after <= 0 or before <= 0:
        return text
    times = before / after
    return f"{text}, {times:.1f}x smaller" if times >= 1 else f"{text}, {1 / times:.1f}x larger"
