"""Command lines that are shown to be typed: quoted for a shell, and printable."""

from __future__ import annotations

import os
import shlex


def command_line(*words: object) -> str:
    """The words, quoted as bash and zsh read them."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # Control characters and bytes that are no text: $'\x1b' in place of the character itself.
    shown = (
        chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}"
        for b in os.fsencode(word)
    )
    return f"$'{''.join(shown)}'"
