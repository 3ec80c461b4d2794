"""Text that looks like a password or a key, so that none leaves the machine with a pack."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bonsai_quant.core.errors import BadInput
from bonsai_quant.hub import client
from bonsai_quant.storage import fs

KINDS = {
    "a Hub token": rb"\bhf_[A-Za-z0-9]{20,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40,})",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
}
"""What people lose most often, and how it looks."""
TEXTS = (".csv", ".jinja", ".json", ".md", ".txt", "LICENSE", "NOTICE")
"""Endings of the files that are looked through; weights are numbers."""


def check_secrets(files: Iterable[tuple[str, Path | bytes]]) -> None:
    """files: name -> content. Refuses the first that holds what looks like a secret, unquoted."""
    own = client.token().encode()
    for name, content in files:
        if not name.endswith(TEXTS):
            continue
        data = content if isinstance(content, bytes) else fs.read_small(content)
        kinds = [kind for kind, looks in KINDS.items() if re.search(looks, data)]
        if own and own in data:
            kinds = ["your own Hub token"]
        if kinds:
            raise BadInput(
                f"holds what looks like {kinds[0]}",
                where=name,
                hint="take it out of what the pack was made from, and make the pack again",
            )
