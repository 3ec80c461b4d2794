"""One update after another: the student's velocities to the teacher's, states of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bonsai_quant.core.errors import UsageError
from bonsai_quant.quantization.grid import round_kept
from bonsai_quant.training.distributed import ProcessGroup, whole
from bonsai_quant.training.settings import DistillationSettings

from .adam_8bit import adam_8bit
from .batches import Batch, Batches
from .ema import EMA
from .freeze import Freeze
from .gradient_sums import GradientSums
from .grid_linear import GridLinear, grid_linears

MAX_GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this."""


class Trainer:
    """A student, its teacher, and all that changes from step to step."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, batches: Batches,
        settings: DistillationSettings, processes: ProcessGroup,
    ) -> None:  # fmt: skip
        self.student, self.teacher, self.batches = student, teacher, batches
        self.settings, self.processes = settings, processes
        main = torch.device("cpu")
        mean_apart = "mean-offloaded" in settings.savings
        self.ema = EMA(student, settings.average, main if mean_apart else None)
        self.optimizer = _optimizer(student, settings)
        self.sums: GradientSums | None = None
        if {"gradients-offloaded", "bf16-latents"} & {*settings.savings}:
            away = "gradients-offloaded" in settings.savings
            self.sums = GradientSums(student, main if away else processes.device)
        self.freeze: Freeze | None = None
        self.step = 0

    def update(self) -> float:
        """Take one step; -> its loss: mean square error over the teacher's mean square."""
        if self.settings.freezes(self.step) and self.freeze is None:
            self.freeze = Freeze(self.student, self.ema)
        self.optimizer.zero_grad()  # before the teacher needs room
        batch = self.batches.draw(self.step, self.teacher, self.student)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * self.settings.rate_share(self.step)
        loss = self._learn(batch)
        self._apply()
        self.ema.update()
        if self.freeze is not None:
            self.freeze.hold()
        self.step += 1
        return self._checked(float(self.processes.mean(loss)))

    def _apply(self) -> None:
        if self.sums is None:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            return
        # By the step alone, as the batches: a run that goes on rounds as one that never stopped.
        rng = torch.Generator(self.processes.device)
        rng.manual_seed(self.batches.seed * 1_000_003 + self.step)
        self.sums.apply(self.optimizer, MAX_GRADIENT_NORM, rng)

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss of update {self.step} is {loss}: the training has come apart",
                hint="lower the rate, and run with --overwrite, without --resume",
            )
        return loss

    def rates(self) -> dict[str, float]:
        """The last update's share of the full learning rate, and the share of held codes."""
        rates = {"rate": self.settings.rate_share(self.step - 1)}
        return rates if self.freeze is None else rates | {"held": self.freeze.share()}

    def _learn(self, batch: Batch) -> torch.Tensor:
        total = torch.zeros((), device=batch.z.device)
        parts = self.batches.pieces(
            batch.z, batch.sigma, batch.captions, batch.target, batch.weight
        )
        for z, sigma, captions, target, weight in parts:
            error = (self.student(z, sigma, captions) - target).square().mean((1, 2))
            loss = (weight * error).sum() / len(batch.z)
            loss.backward()
            total += loss.detach()
        return total

    def stored_weight(self, name: str) -> torch.Tensor:
        """A weight as it is to be stored, in bf16: exactly what a pack of any format can hold.

        Every process calls it while the running mean is swapped in. name: of the parameter, in the
        student.
        """
        value = whole(self.student.get_parameter(name).detach()).float()
        layer = self.student.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, GridLinear):
            return layer.stored(value).cpu()
        return torch.from_numpy(round_kept(value.cpu().numpy())).bfloat16()

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on, in a form that any number of processes can load."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.student, self.optimizer)
        state = {"model": model, "optimizer": optimizer}
        if self.settings.average:
            state["average"] = self.ema.values
        if self.freeze is not None:
            state |= {"often": self.freeze.often, "held": self.freeze.held}
            state |= {"codes": self.freeze.codes}
        return state

    def restore(self, step: int, load: Any) -> None:
        """Go on from a step. load: fills a state from a checkpoint, in place."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        if step and self.settings.freezes(step - 1):
            self.freeze = Freeze(self.student, self.ema)
        state = self.state()
        load(state)
        set_state_dict(
            self.student, self.optimizer,
            model_state_dict=state["model"], optim_state_dict=state["optimizer"],
        )  # fmt: skip
        self.step = self.ema.steps = step


def _optimizer(student: nn.Module, settings: DistillationSettings) -> torch.optim.Optimizer:
    """Adam, with one rate for packed layers and one for what is kept in 16 bits."""
    packed = {id(m.get_parameter(m.learned)) for _, m in grid_linears(student)}
    groups = [
        {"params": [p for p in student.parameters() if id(p) in packed], "full": settings.rate},
        {
            "params": [p for p in student.parameters() if id(p) not in packed],
            "full": settings.kept_rate,
        },
    ]
    how: dict[str, Any] = {"lr": settings.rate, "betas": (0.9, 0.95), "weight_decay": 0.0}
    if "8bit-moments" in settings.savings:
        return adam_8bit(groups, **how)
    # Not all weights at once, as a GPU would by itself: that needs as much again as they take.
    return torch.optim.AdamW(groups, **how, foreach=False)
