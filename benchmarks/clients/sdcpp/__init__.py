"""stable-diffusion.cpp as released, built on a newer ggml, which knows Q1_0 and Q2_0.

Both come as source packages from the package index. `velocity.cpp` calls its FLUX.2 transformer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.marked_text import ROOT
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.sampling import Latents, Velocity

from ..source_package import unpacked

SDCPP = "stable-diffusion-cpp-python==0.4.7"
GGML = "llama-cpp-python==0.3.36"
"""Its source has ggml's, with type 42. The ggml that comes with SDCPP stops at type 40."""
WORK = ROOT / ".bench" / "sdcpp"
PROGRAM = WORK / "build" / "velocity"
SECONDS: list[float] = []
"""What the program's own clock showed at each call: loading is not a step."""


def build() -> Path:
    """Fetch and compile both, once; -> the program. Takes some minutes."""
    if PROGRAM.exists():
        return PROGRAM
    if shutil.which("cmake") is None:
        raise RuntimeError("no cmake")
    sdcpp = unpacked(SDCPP) / "vendor" / "stable-diffusion.cpp"
    ggml = unpacked(GGML) / "vendor" / "llama.cpp" / "ggml"
    here, threads = Path(__file__).parent, str(os.cpu_count() or 1)
    for command in (
        ["cmake", "-S", here, "-B", PROGRAM.parent, f"-DGGML={ggml}", f"-DSDCPP={sdcpp}"],
        ["cmake", "--build", PROGRAM.parent, "--target", "velocity", "-j", threads],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return PROGRAM


def version() -> str:
    """What it is built from."""
    return f"{SDCPP.partition('==')[2]}, ggml of {GGML.replace('==', ' ')}"


def open_velocity(pack: Path) -> Velocity:
    """The transformer of a pack in one file under the original names; loaded anew by each call."""
    weights = open_pack(pack).path
    program, threads = build(), str(os.cpu_count() or 1)

    def velocity(z: Latents, sigma: float, captions: np.ndarray) -> Latents:
        n, rows, columns, channels = z.shape
        head = np.array([n, channels, rows, columns, *captions.shape[1:]], np.int32)
        parts = (head, np.float32([sigma]), z.transpose(0, 3, 1, 2), captions.astype(np.float32))
        with tempfile.TemporaryDirectory() as folder:
            request, answer = Path(folder, "request"), Path(folder, "answer")
            request.write_bytes(b"".join(np.ascontiguousarray(p).tobytes() for p in parts))
            done = subprocess.run(
                [program, weights, request, answer, threads],
                check=True, text=True, stdout=subprocess.PIPE,
            )  # fmt: skip
            v = np.fromfile(answer, np.float32)
        SECONDS.append(float(done.stdout.split()[-1]))  # behind a progress bar
        return v.reshape(n, channels, rows, columns).transpose(0, 2, 3, 1)

    return velocity
