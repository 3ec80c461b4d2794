"""One process, or the many that `torchrun` starts, and the model sharded among them.

FSDP2: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """rank: which of `size` processes this is.  device: the one it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def share(self, x: torch.Tensor) -> torch.Tensor:
        """This process's rows of a tensor that all processes have alike."""
        return x[self.rank :: self.size]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over the processes, of each element."""
        if self.size > 1:
            value = value.detach().clone()
            torch.distributed.all_reduce(value)
            value /= self.size
        return value

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, of each element, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, by rank; each gets all of it, through main memory."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """What the first process gives, for all."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, 0)
        return values[0]

    def agree(self, yes: bool) -> bool:
        """The answer of the first process, for all: their clocks differ."""
        if self.size == 1:
            return yes
        answer = torch.tensor(int(yes), device=self.device)
        torch.distributed.broadcast(answer, 0)
        return bool(answer)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def join() -> Iterator[ProcessGroup]:
    """Join the others that torchrun has started, if it has."""
    size, cuda = int(os.environ.get("WORLD_SIZE", 1)), torch.cuda.is_available()
    if size == 1:
        yield ProcessGroup(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield ProcessGroup(torch.distributed.get_rank(), size, device)
    finally:
        torch.distributed.destroy_process_group()


def shard(model: nn.Module, processes: ProcessGroup) -> nn.Module:
    """Move a model to its device; with several processes, shard every parameter among them."""
    if processes.size == 1:
        return model.to(processes.device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.size,))
    transformer = model.transformer
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The outermost too, or its parameters would be whole after a walk that no gradient follows.
    return fully_shard(model, mesh=mesh, reshard_after_forward=True).to(processes.device)


def local(x: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this process holds: whole rows of it."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: torch.Tensor) -> torch.Tensor:
    """All of a parameter; every process has to ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x
