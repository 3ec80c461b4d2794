"""The license of a model, as its own card on the Hub says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.storage import fs

CARD = "README.md"
MAX_CARD = 1 << 20
OTHER = "other"
"""What a card says when the license has a name and a text of its own."""


class License(pydantic.BaseModel):
    """id: as the Hub spells it, `apache-2.0`.  name, link: where id is `other`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    id: str = pydantic.Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")
    name: str | None = pydantic.Field(default=None, max_length=200)
    link: str | None = pydantic.Field(default=None, max_length=500)


def read_license(folder: Path) -> License | None:
    """What the README.md of a model's folder says; None where there is none, or it says nothing."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card = _front_matter(fs.read_small(path, MAX_CARD).decode())
        return License(
            id=card["license"], name=card.get("license_name"), link=card.get("license_link")
        )
    except (BadInput, KeyError, ValueError):  # pydantic's and YAML's errors are ValueErrors
        return None


def _front_matter(text: str) -> dict[str, Any]:
    """The YAML at the top of a card."""
    import yaml

    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        fields = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, RecursionError) as e:
        raise ValueError(str(e)) from e
    return fields if isinstance(fields, dict) else {}


def named(text: str) -> License:
    """A license that a user names: its id on the Hub."""
    try:
        return License(id=text)
    except ValueError as e:
        raise UsageError(
            f"{text[:80]!r} is no license id", hint="give one as the Hub spells it: apache-2.0"
        ) from e
