"""FLUX.2 Klein 4B as headers alone: a pipeline's folder with real shapes and a sparse file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tools.make_checkpoint import empty_model


def empty_klein(folder: Path, standin: Path) -> Path:
    """standin: whose other parts it gets. Weights are holes in the file, and read as 0."""
    ignored = shutil.ignore_patterns("transformer", "benchmark.json")
    shutil.copytree(standin, folder, ignore=ignored)
    model = empty_model("klein-4b")
    model.save_config(folder / "transformer")
    header, at = {}, 0
    for name, tensor in sorted(model.state_dict().items()):
        size = 2 * tensor.numel()
        offsets = [at, at + size]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        at += size
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data)
    os.truncate(path, 8 + len(data) + at)
    return folder
