"""The child process that imports gemlite: see `gemlite_process`; arguments IN OUT.

IN holds the arrays of several tasks as 'index/name'. A task with `x` is a layer to run, one with
`codes` is a layer to pack. What comes out goes to OUT under 'index/output'; one line of JSON on
stdout says where it ran.

Without a CUDA GPU the same kernels, but for GEMM, are interpreted on the CPU.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np

from bonsai_quant.runners.gemlite import interpreted

LEAVES = ("W_q", "scales", "zeros", "metadata", "orig_shape")
COMPILED = ("GEMV_REVSPLITK", "GEMM_SPLITK", "GEMM")


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

    compiled = torch.cuda.is_available() and not interpreted.is_asked_for()
    if not compiled:
        interpreted.stand_in()
        torch.set_num_threads(1)
    import gemlite
    import triton

    version: str = triton.__version__
    if compiled:
        gemlite.set_autotune(False)
        return f"{torch.cuda.get_device_name()}, triton {version}", "cuda"
    if problem := interpreted.too_old():
        raise RuntimeError(problem)
    return f"interpreted by triton {version} on the CPU", "cpu"


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
    for kernel in interpreted.BLOCKS if device == "cpu" else COMPILED:
        if device == "cpu":
            shape, metadata = task["orig_shape"].tolist(), task["metadata"].tolist()
            interpreted.tune(kernel, len(task["x"]), shape, metadata)
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
