"""Write mini-klein's onnx packs, a step to try them on, and what runs it in node and in browsers.

    python -m benchmarks.onnx_web.prepare FOLDER
    cd FOLDER && npm install onnxruntime-web@1.30.0
    node run.mjs                           # wasm: the error and the seconds of a step, by mode
    python3 -m http.server 8000            # WebGPU: open http://localhost:8000/ and wait

The step is compared with diffusers' own transformer on the decoded weights, in float32. To try
WebGPU on a machine without a GPU: chromium --headless=new --enable-unsafe-webgpu
--use-webgpu-adapter=swiftshader --enable-features=Vulkan; it compiles for some minutes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from bonsai_quant import export
from bonsai_quant.packs.read import open_one
from bonsai_quant.runners.tokens import position_ids, text_position_ids

MODES = ("ternary", "binary")
ROWS = COLUMNS = 8
WORDS = 32
SIGMA = 0.7


def prepare(folder: Path) -> None:
    """Fill a folder; what is in it already is written over."""
    import torch

    from bonsai_quant.runners.torch.dense import dense_transformer

    folder.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        export(f"mini-klein-{mode}", format="onnx", out=folder / mode, overwrite=True)
        feeds = _feeds()
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(values) for name, values in feeds.items()}
            model = dense_transformer(open_one(folder / mode))
            velocity = model(**tensors, return_dict=False)[0].numpy()
        case = {name: _plain(values) for name, values in (feeds | {"velocity": velocity}).items()}
        (folder / f"{mode}.json").write_text(json.dumps(case))
    for name in ("step.mjs", "run.mjs", "index.html"):
        shutil.copy(Path(__file__).with_name(name), folder)


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "hidden_states": rng.standard_normal((1, ROWS * COLUMNS, 64), np.float32),
        "encoder_hidden_states": rng.standard_normal((1, WORDS, 192), np.float32),
        "timestep": np.full(1, SIGMA, np.float32),
        "img_ids": position_ids(ROWS, COLUMNS, ()).astype(np.float32),
        "txt_ids": text_position_ids(WORDS).astype(np.float32),
    }


def _plain(values: np.ndarray) -> dict[str, list[float]]:
    return {"dims": list(values.shape), "data": values.reshape(-1).tolist()}


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
