"""onnxruntime on an onnx pack: one step of the transformer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.runners.sampling import Latents, Velocity
from bonsai_quant.runners.tokens import position_ids, text_position_ids

THREADS = 1


def open_velocity(pack: Path) -> Velocity:
    """All pictures at once, in float32."""

    def of_pictures(z: Latents, sigma: float, captions: NDArray[np.float32]) -> Latents:
        n, rows, columns, channels = z.shape
        ids = position_ids(rows, columns, ()), text_position_ids(captions.shape[1])
        return velocity(pack, z.reshape(n, -1, channels), sigma, captions, *ids).reshape(z.shape)

    return of_pictures


def velocity(
    pack_folder: Path,
    z: NDArray[np.float32],
    sigma: float,
    captions: NDArray[np.float32],
    img_ids: NDArray[np.int64],
    txt_ids: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The velocity [n, tokens, channels] at a state.

    z: [n, tokens, channels], the picture's tokens and those of references after them.
    sigma: 1 is noise, 0 the picture.  captions: [n, length, width].
    img_ids, txt_ids: [tokens, 4] and [length, 4].
    """
    result: NDArray[np.float32]
    (result,) = _session(pack_folder).run(
        ["velocity"],
        {
            "hidden_states": np.ascontiguousarray(z, np.float32),
            "encoder_hidden_states": np.ascontiguousarray(captions, np.float32),
            "timestep": np.full(len(z), sigma, np.float32),
            "img_ids": img_ids.astype(np.float32),
            "txt_ids": txt_ids.astype(np.float32),
        },
    )
    return result


@cache
def _session(pack_folder: Path) -> Any:
    """A session of a pack; loading takes longer than a step of a small model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(pack_folder / "model.onnx", options, providers=providers)
