"""Which pictures are asked for: prompts from a file, seeds from words."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.sources.shipped import DATA
from bonsai_quant.storage import fs

SHIPPED = DATA / "prompts.txt"
"""Written for this purpose: half of them count, place, or tell colours and materials apart."""
HELD = 16
"""One prompt of so many is never learned from."""
MAX_PICTURES = 10_000
MAX_SEED = 2**63 - 1
RANDOM = "random"
N_RANDOM = 2**32
"""Noise depends on the low 32 bits of a seed: so many different pictures there are."""


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; see `parse_prompts`."""
    return parse_prompts(fs.read_small(path), str(path))


def parse_prompts(data: bytes, where: str) -> list[str]:
    """One prompt a line; empty lines, and comments, which begin with #, are left out."""
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError as e:
        raise BadInput("is not UTF-8 text", where=where, hint="save it as UTF-8") from e
    return [line for line in lines if line and not line.startswith("#")]


def shipped_prompts() -> list[str]:
    """The prompts that come with the program, each once."""
    return list(dict.fromkeys(read_prompts(SHIPPED)))


def held_out(lines: Sequence[str]) -> list[str]:
    """The prompts of a list that training keeps aside."""
    return list(lines[HELD - 1 :: HELD])


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts, refused when there is none or one of them is empty."""
    if not prompts or not all(p.strip() for p in prompts):
        raise UsageError("a prompt is empty", hint='pass -p "what the picture shows"')
    return list(prompts)


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds, refused when one of them is out of range or there is none."""
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(
                f"seed {seed} is not between 0 and 2^63 - 1", hint="give another --seed"
            )
    if not seeds:
        raise UsageError("no seed", hint="give --seed N")
    return list(seeds)


def parse_seeds(words: Sequence[str], count: int | None = None) -> list[int]:
    """Seeds of words such as `7`, `1-4`, `1,5,9` and `random`; none means 0.

    count: so many seeds, from the only one that is named and upwards.
    """
    seeds = [s for word in words or ("0",) for part in word.split(",") for s in _seeds(part)]
    if count is None:
        return check_seeds(seeds)
    if count < 1:
        raise UsageError(f"--count {count}", hint="give at least 1")
    if len(seeds) != 1:
        raise UsageError(
            f"--count {count} with {len(seeds)} seeds", hint="give the first seed alone"
        )
    if count > MAX_PICTURES:
        raise UsageError(f"--count {count}; at most {MAX_PICTURES} in one run")
    return check_seeds([seeds[0] + i for i in range(count)])


def _seeds(word: str) -> list[int]:
    word = word.strip()
    if word == RANDOM:
        return [secrets.randbelow(N_RANDOM)]
    match = re.fullmatch(r"(-?\d{1,20})(?:-(\d{1,20}))?", word, re.ASCII)
    if match is None:
        raise UsageError(
            f"seed {word[:40]!r} is none",
            hint="give N, 1-4, 1,5,9 or random",
            typed=word,
            meant=("0",),
        )
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if last < first:
        raise UsageError(f"seeds {word}: the last is less than the first")
    if last - first >= MAX_PICTURES:
        raise UsageError(f"{last - first + 1} seeds; at most {MAX_PICTURES} in one run")
    return list(range(first, last + 1))
