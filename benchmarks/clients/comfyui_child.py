"""Runs in a process of its own: ComfyUI's engine on files of this program, on the CPU.

    python comfyui_child.py FOLDER

FOLDER/request.json: `engine`, `node` (folders), and `runs`, each a `file`, its `loras` (pairs of a
file and a strength), and the `dtype` in which a dense file is held (bfloat16 unless it says so).
FOLDER/inputs.npz: z [n, channels, rows, columns], sigma, captions. Written: FOLDER/answers.npz with
the velocity of each run, and FOLDER/answers.json with what each said of its parameters, and by how
much memory of its own the process grew at most. Runs of one file after another share its
model, as they do in ComfyUI.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import psutil

from bonsai_quant.runners.memory_meter import Meter

UNUSED = (
    "torchvision",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchaudio",
    "torchaudio.functional",
    "torchaudio.transforms",
)
"""What the engine imports for other models and may not be here."""


def main(folder: Path) -> None:
    """Answer the request."""
    import torch

    request = json.loads((folder / "request.json").read_text())
    enter(Path(request["engine"]), Path(request["node"]))
    import comfy.sd  # noqa: F401

    rest = held()
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    velocities, facts, models = {}, [], {}
    for i, run in enumerate(request["runs"]):
        key = (run["file"], run.get("dtype", "bfloat16"))
        with Meter(held) as meter:
            model = models.get(key) or load(*key)
            models = {key: model}
            patched = with_loras(model, run["loras"])
            began = time.perf_counter()
            velocities[str(i)] = velocity(patched, **inputs)
            seconds = time.perf_counter() - began
        facts.append(state_of(patched) | {"grown": meter.peak - rest, "seconds": seconds})
    np.savez(folder / "answers.npz", **velocities)
    (folder / "answers.json").write_text(json.dumps(facts))


def held() -> int:
    """Bytes of the process that are its own; pages of mapped files are not."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def enter(engine: Path, node: Path) -> None:
    """Make `comfy` importable, and the node as the package `node`."""
    missing = {n for n in UNUSED if "." not in n and importlib.util.find_spec(n) is None}
    for name in UNUSED:
        if name.partition(".")[0] in missing:
            sys.modules[name] = StandIn(name)
    sys.path.insert(0, str(engine))
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        "node", node / "__init__.py", submodule_search_locations=[str(node)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["node"] = package
    spec.loader.exec_module(package)


class StandIn(types.ModuleType):
    """A module that has whatever is asked for, for imports whose use never comes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def load(file: str, dtype: str) -> Any:
    """The node's loader for a packed file; ComfyUI's own for any other. dtype: of the latter."""
    import comfy.sd
    import torch
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        packed = "bonsai_quant" in (opened.metadata() or {})
    if packed:
        return importlib.import_module("node.loader").load_model(file)
    return comfy.sd.load_diffusion_model(file, model_options={"dtype": getattr(torch, dtype)})


def with_loras(model: Any, loras: list[tuple[str, float]]) -> Any:
    """What the node Load LoRA returns."""
    import comfy.sd
    import comfy.utils

    for file, strength in loras:
        lora = comfy.utils.load_torch_file(file, safe_load=True)
        model, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0)
    return model


def velocity(model: Any, z: Any, sigma: Any, captions: Any) -> np.ndarray:
    """z: [n, channels, rows, columns] -> the velocity there, in float32."""
    import comfy.model_management
    import torch

    comfy.model_management.load_models_gpu([model])
    times = sigma.float().expand(len(z)).contiguous()
    with torch.inference_mode():
        v = model.model.diffusion_model(z, times, captions, y=None, guidance=None)
    return v.float().numpy()


def state_of(model: Any) -> dict[str, Any]:
    """Bytes of the parameters, of which dtypes they are, and a hash of all of them."""
    import torch

    digest, sizes = hashlib.sha256(), {}
    for name, p in sorted(model.model.diffusion_model.named_parameters()):
        data = p.detach().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(name.encode() + data.tobytes())
        kind = str(p.dtype).removeprefix("torch.")
        sizes[kind] = sizes.get(kind, 0) + data.nbytes
    return {"bytes": sum(sizes.values()), "dtypes": sizes, "sha256": digest.hexdigest()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
