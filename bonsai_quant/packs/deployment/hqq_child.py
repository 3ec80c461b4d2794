"""The child process that imports hqq.

    python -m bonsai_quant.packs.deployment.hqq_child FOLDER FD PATH

FOLDER holds a Qwen3 text encoder. It is loaded whole, rounded to 4 bits by hqq's own library, and
written, as hqq would save it, to the open file FD (PATH, in messages). One line of JSON on stdout:
size and sha256 of what was written, and the config.json that belongs beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from bonsai_quant.storage import fs

BITS, GROUP, AXIS = 4, 64, 1
PR_SET_PDEATHSIG = 1
"""Linux: let this process end when the one that started it does, however that ends."""


class Sink:
    """A file that torch writes to, from front to back."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd, self.path = fd, path
        self.size, self.digest = 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write at the end."""
        view = memoryview(data).cast("B")
        fs.pwrite_all(self.fd, view, self.size, self.path)
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""


def main(folder: str, fd: str, path: str) -> None:
    """Make the file."""
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings.simplefilter("ignore")
    import torch
    from hqq.models.hf.base import AutoHQQHFModel

    with torch.inference_mode():
        model = _quantized(folder)
        sink = Sink(int(fd), Path(path))
        torch.save(AutoHQQHFModel.serialize_weights(model), sink)
    model.config.architectures = [type(model).__name__]
    record = {"size": sink.size, "sha256": sink.digest.hexdigest()}
    print(json.dumps(record | {"config": model.config.to_json_string()}), file=answer)


def _quantized(folder: str) -> Any:
    """The model with hqq's linears, as the CUDA clients load it: halves, groups of 64 inputs."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True
    )
    AutoHQQHFModel.quantize_model(
        model,
        quant_config=BaseQuantizeConfig(nbits=BITS, group_size=GROUP, axis=AXIS),
        compute_dtype=torch.float16,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
