"""Gemlite without a GPU: Triton's interpreter, and a stand-in for the driver that gemlite asks.

Slow, and the same sums. Gemlite asks the driver only what the GPU is, while it is imported. Large
blocks make the interpreter some ten times faster than gemlite's smallest; they are given as tuned
configurations, as gemlite_autotune.json does. GEMM cannot be interpreted: it calls `.to` on a
number that only the compiler makes a tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

BLOCKS = {
    "GEMV_REVSPLITK": {"BLOCK_SIZE_M": 1, "BLOCK_SIZE_K": 64, "dot_prod_mode": 0},
    "GEMM_SPLITK": {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 8, "SPLIT_K": 1},
}
"""Kernels that can be interpreted, and blocks for them. SPLIT_K > 1 needs a hook on the output."""
ALL_KERNELS = {"A_load_order": 0, "num_warps": 1, "num_stages": 1}
BLOCK_ROWS = (128, 64, 32)
SINCE = (3, 8)
"""Triton before refuses to mix the integer types that these kernels mix."""
CHOICE_OF_GEMLITE = -1
"""In place of a kernel's number."""
ASKED = "TRITON_INTERPRET"
"""Triton's own variable; it must be set before Triton is imported."""


class StandIn:
    """A driver that knows what the GPU would be, and nothing else."""

    utils = SimpleNamespace(get_device_properties=lambda _device: {"max_shared_mem": 1 << 17})

    def get_current_target(self) -> SimpleNamespace:
        """Asked to tell NVIDIA from AMD."""
        return SimpleNamespace(backend="cuda", arch=90, warp_size=32)

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """Asked when a shape has several configurations: all are equally fast."""
        return lambda _call, quantiles: [0.0 for _ in quantiles]


def is_asked_for() -> bool:
    """Whether this process is to interpret kernels."""
    return os.environ.get(ASKED, "0") == "1"


def stand_in() -> None:
    """Put the interpreter and the stand-in in place; must come before gemlite is imported."""
    os.environ[ASKED] = "1"
    import torch

    gpu = SimpleNamespace(name="stand-in", major=9, minor=0, multi_processor_count=1)
    for name, answer in (("capability", (gpu.major, gpu.minor)), ("properties", gpu)):
        setattr(torch.cuda, f"get_device_{name}", lambda _device=None, answer=answer: answer)
    import triton

    triton.runtime.driver.set_active(StandIn())


def too_old() -> str:
    """Why this Triton cannot interpret these kernels; "" if it can."""
    import triton

    version: str = triton.__version__
    if tuple(map(int, version.split(".")[:2])) >= SINCE:
        return ""
    return f"triton {version} cannot interpret its kernels, 'triton>=3.8' can"


def choose(rows: int, shape: tuple[int, int], metadata: list[int]) -> int:
    """The number of the kernel that gemlite would take, tuned; of another where it takes GEMM."""
    from gemlite.core import GEMLITE_MATMUL_TYPES_MAPPING, get_matmul_type

    kernel = get_matmul_type(rows, metadata[1])
    kernel = kernel if kernel in BLOCKS else "GEMM_SPLITK"
    tune(kernel, rows, shape, metadata)
    return int(GEMLITE_MATMUL_TYPES_MAPPING[kernel])


def tune(kernel: str, rows: int, shape: tuple[int, int], metadata: list[int]) -> None:
    """Name the one configuration that a product may use, in gemlite's cache of tuned ones.

    shape: out and in of the layer.  metadata: gemlite's arguments.
    """
    from gemlite.core import GEMLITE_TRITON_CONFIG_CACHE
    from gemlite.dtypes import DType
    from gemlite.triton_kernels.utils import get_closest_m

    out, width = shape
    _, bits, group, _, per_byte, kind = metadata[:6]
    kind = DType.FP16.value if kind == DType.BF16.value else kind
    key = (get_closest_m(rows), out, width, group, per_byte, kind * 100 + bits)
    block = {"BLOCK_SIZE_N": next(n for n in BLOCK_ROWS if out % n == 0)}
    tuned = BLOCKS[kernel] | ALL_KERNELS | block
    GEMLITE_TRITON_CONFIG_CACHE.setdefault(kernel, {})[str(key)] = tuned
