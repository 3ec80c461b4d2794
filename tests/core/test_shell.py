"""Command lines that are shown: a shell reads back what was meant, and all of it is printable."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from bonsai_quant.core.shell import command_line

WORDS = ("plain", "my model", "a'b\"c", "a\nb", "\x1b[31m", "a\u202eb", "\u2603", "a\\b\tc'",
         os.fsdecode(b"a\xff\xfeb"), "%s$HOME`x`", "")  # fmt: skip


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_reads_the_words_back():
    line = command_line(*WORDS)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]
