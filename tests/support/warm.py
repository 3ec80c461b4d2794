"""Python processes that start at once: forked off one that has loaded torch and diffusers.

Each is a process of its own, with its own pid, signals, directory and streams; what is shared is
the seven seconds in which libraries are imported. Nothing of this project is imported before.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

LIBRARIES = [
    "huggingface_hub",
    "numba",
    "pydantic",
    "rich_click",
    "torch",
    "torch.distributed",
    "PIL.Image",
    "matplotlib.figure",
    "safetensors.torch",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.qwen2.tokenization_qwen2",
    "diffusers.pipelines.flux2.pipeline_flux2_klein",
    "diffusers.models.transformers.transformer_flux2",
    "diffusers.models.autoencoders.autoencoder_kl_flux2",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
]
LIMIT_S = 300

_context = get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


class Process:
    """Like subprocess.Popen, of a Python program. program: a module's name, or a script's path."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._streams = [tempfile.NamedTemporaryFile() for _ in "oe"]
        names = [s.name for s in self._streams]
        environment, words = dict(os.environ if env is None else env), [str(a) for a in arguments]
        place = str(cwd or Path.cwd())
        self._process = _context.Process(
            target=_run, args=(program, words, environment, place, names), daemon=False
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def communicate(self, timeout: float = LIMIT_S) -> tuple[str, str]:
        """Wait; -> what it wrote to stdout and to stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        out, err = (Path(s.name).read_text() for s in self._streams)
        return out, err


def _run(
    program: str, arguments: list[str], environment: dict[str, str], cwd: str, streams: list[str]
) -> None:
    for number, name in zip((1, 2), streams, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
