"""What a machine adds numbers with: it decides the last bits of what is trained on it."""

from __future__ import annotations

import torch

from bonsai_quant.packs.provenance_record import ComputeRecord


def device_here() -> torch.device:
    """What a training or a calibration computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_here(processes: int = 1) -> ComputeRecord:
    """The record of this process's device. processes: that share a training."""
    on_gpu = torch.cuda.is_available()
    return ComputeRecord(
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        processes=processes,
    )
