"""JSON as it is written here: no duplicate keys, no NaN, a bound on size."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from bonsai_quant.core.errors import BadInput

from . import fs


def read_json(path: Path) -> Any:
    """A small JSON file, read strictly."""
    try:
        return strict_json(fs.read_small(path))
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=str(path), hint="fetch the file again") from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, _ = Counter(k for k, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return table


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def strict_json(text: bytes) -> Any:
    """JSON without duplicate keys, NaN, Infinity or half characters. ValueError says why."""
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if b"\\ud" in text.lower():  # a surrogate pair, or half of one
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
