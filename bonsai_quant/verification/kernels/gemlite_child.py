"""The child process that imports gemlite: see `gemlite_process`; arguments IN OUT.

IN holds the arrays of several tasks as 'index/name'. A task with `x` is a layer to run, one with
`codes` is a layer to pack. What comes out goes to OUT under 'index/output'; one line of JSON on
stdout says where it ran.

Without a CUDA GPU the same kernels are interpreted on the CPU. Gemlite asks the driver only what
the GPU is, while it is imported; a stand-in answers. Large blocks make that some ten times faster
than gemlite's smallest; they are given as tuned configurations, as gemlite_autotune.json does. GEMM
cannot be interpreted: it calls `.to` on a number that only the compiler makes a tensor.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

LEAVES = ("W_q", "scales", "zeros", "metadata", "orig_shape")
COMPILED = ("GEMV_REVSPLITK", "GEMM_SPLITK", "GEMM")
INTERPRETED = {
    "GEMV_REVSPLITK": {"BLOCK_SIZE_M": 1, "BLOCK_SIZE_K": 64, "dot_prod_mode": 0},
    "GEMM_SPLITK": {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 8, "SPLIT_K": 1},
}
"""Kernels that can be interpreted, and blocks for them. SPLIT_K > 1 needs a hook on the output."""
ALL_KERNELS = {"A_load_order": 0, "num_warps": 1, "num_stages": 1}
BLOCK_ROWS = (128, 64, 32)
INTERPRETER_SINCE = (3, 8)
"""Triton before refuses to mix the integer types that these kernels mix."""


class StandIn:
    """A driver that knows what the GPU would be, and nothing else."""

    utils = SimpleNamespace(get_device_properties=lambda _device: {"max_shared_mem": 1 << 17})

    def get_current_target(self) -> SimpleNamespace:
        """Asked to tell NVIDIA from AMD."""
        return SimpleNamespace(backend="cuda", arch=90, warp_size=32)

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """Asked when a shape has several configurations: all are equally fast."""
        return lambda _call, quantiles: [0.0 for _ in quantiles]


def main(tasks_file: str, outputs_file: str) -> None:
    """Run all tasks of a file, write their outputs to another."""
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    try:
        where, device = _import_gemlite()
    except (ImportError, AttributeError, RuntimeError) as error:
        print(json.dumps({"not_run": f"gemlite cannot run here ({error})"}), file=answer)
        return
    outputs: dict[str, np.ndarray] = {}
    for index, task in _tasks(tasks_file).items():
        done = _run(task, device) if "x" in task else _pack(task)
        outputs |= {f"{index}/{name}": array for name, array in done.items()}
    np.savez(outputs_file, allow_pickle=False, **outputs)
    print(json.dumps({"where": where}), file=answer)


def _import_gemlite() -> tuple[str, str]:
    """Import it for the GPU, or for the interpreter -> (in words, torch device)."""
    warnings.simplefilter("ignore")
    import torch

    compiled = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET", "0") != "1"
    if not compiled:
        _stand_in()
    import gemlite
    import triton

    version: str = triton.__version__
    if compiled:
        gemlite.set_autotune(False)
        return f"{torch.cuda.get_device_name()}, triton {version}", "cuda"
    if tuple(map(int, version.split(".")[:2])) < INTERPRETER_SINCE:
        raise RuntimeError(f"triton {version} cannot interpret its kernels, 'triton>=3.8' can")
    return f"interpreted by triton {version} on the CPU", "cpu"


def _stand_in() -> None:
    """Put the interpreter and the stand-in in place; must come before gemlite is imported."""
    import torch

    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    gpu = SimpleNamespace(name="stand-in", major=9, minor=0, multi_processor_count=1)
    for name, answer in (("capability", (gpu.major, gpu.minor)), ("properties", gpu)):
        setattr(torch.cuda, f"get_device_{name}", lambda _device=None, answer=answer: answer)
    import triton

    triton.runtime.driver.set_active(StandIn())


def _tasks(tasks_file: str) -> dict[int, dict[str, np.ndarray]]:
    """The file's arrays by task."""
    tasks: dict[int, dict[str, np.ndarray]] = {}
    with np.load(tasks_file, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            index, name = key.split("/", 1)
            tasks.setdefault(int(index), {})[name] = array
    return tasks


def _run(task: dict[str, np.ndarray], device: str) -> dict[str, np.ndarray]:
    """x through every kernel: [rows, out] float16 each.

    Twice: with scales as stored, and cast to fp16 as the published CUDA loader does.
    """
    outputs = {}
    for kernel in INTERPRETED if device == "cpu" else COMPILED:
        if device == "cpu":
            _tune(task, kernel)
        stored = "fp16" if task["scales"].dtype == np.float16 else "fp32"
        outputs[f"{kernel} with {stored} scales"] = _forward(task, device, kernel)
        half = {name: task[name].astype(np.float16) for name in ("scales", "zeros")}
        outputs[f"{kernel} with fp16 scales"] = _forward(task | half, device, kernel)
    return outputs


def _forward(task: dict[str, np.ndarray], device: str, kernel: str) -> np.ndarray:
    """x through one kernel: [rows, out] float16. The layer is made as gemlite packs' loaders do."""
    import torch
    from gemlite import DType, GemLiteLinearTriton

    state = {name: torch.from_numpy(task[name]).to(device) for name in LEAVES}
    out, width = task["orig_shape"].tolist()
    bits, group = task["metadata"][1:3].tolist()
    layer = GemLiteLinearTriton(bits, group, width, out, DType.FP16, DType.FP16)
    layer.load_state_dict(state)
    y = layer.forward_manual(torch.from_numpy(task["x"]).to(device), matmul_type=kernel)
    return np.asarray(y.cpu().numpy())


def _tune(task: dict[str, np.ndarray], kernel: str) -> None:
    """Name the one configuration that this shape may use, in gemlite's cache of tuned ones."""
    from gemlite.core import GEMLITE_TRITON_CONFIG_CACHE
    from gemlite.triton_kernels.utils import get_closest_m

    out, width = task["orig_shape"].tolist()
    _, bits, group, _, per_byte, input_type = task["metadata"][:6].tolist()
    key = (get_closest_m(len(task["x"])), out, width, group, per_byte, input_type * 100 + bits)
    block = {"BLOCK_SIZE_N": next(rows for rows in BLOCK_ROWS if out % rows == 0)}
    tuned = INTERPRETED[kernel] | ALL_KERNELS | block
    GEMLITE_TRITON_CONFIG_CACHE.setdefault(kernel, {})[str(key)] = tuned


def _pack(task: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """gemlite's own packing -> the leaves that it would store."""
    import torch
    from gemlite import DType, GemLiteLinearTriton

    out, width = task["codes"].shape
    group = width // task["scales"].shape[1]
    layer = GemLiteLinearTriton(int(task["bits"]), group, width, out, DType.FP16, DType.FP16)
    codes, scales, zeros = (torch.from_numpy(task[k]) for k in ("codes", "scales", "zeros"))
    layer.pack(codes, scales, zeros, None, fma_mode=True, packing_bitwidth=8)
    state = layer.state_dict()
    return {name: state[name].numpy() for name in LEAVES}


if __name__ == "__main__":
    main(*sys.argv[1:])
