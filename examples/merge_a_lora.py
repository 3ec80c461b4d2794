"""Merge a LoRA into mini-klein before it is rounded, and see which layers it changed.

Writes ./style.safetensors, ./plain and ./styled. The LoRA is made here, of random numbers, for one
layer. Put the path of a real one in its place.
"""

import numpy as np
from safetensors.numpy import save_file

from bonsai_quant import convert, diff, plan

LAYER, RANK = "transformer_blocks.0.attn.to_q", 4

work = plan("mini-klein", mode="ternary")
rows, columns = next(p.tensor.shape for p in work.tensors if p.tensor.name == f"{LAYER}.weight")
rng = np.random.default_rng(0)
down = rng.normal(0, 0.1, (RANK, columns)).astype(np.float32)  # [rank, in]
up = rng.normal(0, 0.1, (rows, RANK)).astype(np.float32)  # [out, rank]
name = f"transformer.{LAYER}"
save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, "style.safetensors")

convert("mini-klein", mode="ternary", formats="bonsai", out="plain")
convert("mini-klein", mode="ternary", formats="bonsai", out="styled", lora="style.safetensors:0.8")

for layer in diff("plain", "styled").layers:
    if not layer.same:
        print(f"{layer.name}: {layer.flipped:,} of {layer.size:,} codes changed")
