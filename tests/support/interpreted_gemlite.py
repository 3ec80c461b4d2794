"""A child process: the gemlite runner under Triton's interpreter, beside torch in the same dtype.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_gemlite PIPELINE PACK...

The last line is JSON: for each pack how far its velocity is from that of the torch runner, computed
in float16 and in float32, and which way its products went.
"""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import torch

from bonsai_quant.packs.pipeline import locate
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.torch.runner import velocity_of
from bonsai_quant.runners.torch.transformer import packed_transformer
from bonsai_quant.verification.levels.pictures import relative_error

IMAGE, TEXT = (2, 2), 5
"""Tokens: 4 go through GEMV, 5 and 9 through split-K GEMM."""


def main(pipeline: str, *packs: str) -> None:
    # Torch imports Triton, perhaps before this process had the variable, and Triton looks for it
    # while it is imported. Its library in C++ stays: it cannot be loaded twice.
    for name in [n for n in sys.modules if re.fullmatch(r"triton(\.(?!_C\b).*)?", n)]:
        del sys.modules[name]
    torch.set_num_threads(1)
    print(json.dumps([compared(pack, pipeline) for pack in packs]))


def compared(pack: str, pipeline: str) -> dict:
    located = locate(pack, pipeline=pipeline)
    rng = np.random.default_rng(0)
    state = rng.normal(size=(1, *IMAGE, 64)).astype(np.float32), 0.7
    state += (rng.normal(size=(1, TEXT, 192)).astype(np.float32),)
    runner = open_runner(located, "gemlite")
    with runner.transformer() as velocity:
        mine = velocity(*state)
        ways = dict(runner.ways)
    with open_runner(located, "torch").transformer() as velocity:
        exact = velocity(*state)
    model = packed_transformer(located.pack)
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    with torch.inference_mode():
        half = velocity_of(model, *state)
    return {
        "computes": runner.computes,
        "ways": ways,
        "mine_from_half": relative_error(mine, half),
        "mine_from_exact": relative_error(mine, exact),
        "half_from_exact": relative_error(half, exact),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
