"""Making a distillation fit: which measures a memory calls for, taken in order of what they cost.

First those that change no result but cost time, then those that round, last those that leave out a
part of the method. What lies in main memory is a saving on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.memory import available
from bonsai_quant.core.numbers import size
from bonsai_quant.training.settings import DistillationSettings, Saving

from .job import DistillationJob
from .memory_need import in_main_memory, needed


@dataclass(frozen=True, slots=True)
class Budget:
    """device: bytes of each that may be used.  half: it is a GPU.

    main: bytes of main memory for what is moved there; None when it is not known.
    """

    device: int
    processes: int
    half: bool
    main: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """A change of the settings: others, savings, or states at once if there are more."""

    change: dict[str, bool | float]
    savings: tuple[Saving, ...] = ()

    def of(self, settings: DistillationSettings) -> DistillationSettings:
        """The settings with it."""
        change: dict[str, object] = dict(self.change)
        if "at_once" in change:
            change["at_once"] = min(settings.at_once, int(self.change["at_once"]))
        savings = dict.fromkeys((*settings.savings, *self.savings))
        return settings.model_copy(update=change | {"savings": tuple(savings)})


OFFLOADED: tuple[Saving, ...] = ("teacher-offloaded", "gradients-offloaded", "mean-offloaded")


def measures(settings: DistillationSettings, budget: Budget) -> Iterator[Measure]:
    """Those that this run can take, from the cheapest.

    Sharded weights keep their optimizer: with several processes there are no savings.
    """
    yield Measure({"checkpointing": True})
    fewer = settings.at_once
    while fewer > 1:
        yield Measure({"at_once": (fewer := fewer // 2)})
    if budget.processes == 1:
        if budget.half:
            yield from (Measure({}, (name,)) for name in OFFLOADED)
        yield Measure({}, ("8bit-moments",))
        # With the above: moments of weights in bfloat16 would be in bfloat16, too.
        yield Measure({}, ("8bit-moments", "bf16-latents"))
    yield Measure({"freeze": 0.0})
    yield Measure({"average": 0.0})


def fitted(job: DistillationJob, budget: Budget) -> DistillationJob:
    """The job with what it takes to fit, and nothing that it does not take."""
    taken: list[Measure] = []
    for measure in chain([Measure({})], measures(job.settings, budget)):
        taken.append(measure)
        if _fits(_with(job, taken), budget):
            break
    else:
        raise _too_little(_with(job, taken), budget)
    for measure in reversed(taken):
        fewer = [m for m in taken if m is not measure]
        if _fits(_with(job, fewer), budget):
            taken = fewer
    return _with(job, taken)


def _with(job: DistillationJob, taken: Sequence[Measure]) -> DistillationJob:
    settings = job.settings
    for measure in taken:
        settings = measure.of(settings)
    return replace(job, settings=settings)


def _need(job: DistillationJob, budget: Budget) -> tuple[int, int]:
    """Bytes of the device and of main memory."""
    parts = needed(job, budget.processes, half=budget.half)
    return sum(parts.values()), sum(in_main_memory(job, half=budget.half).values())


def _fits(job: DistillationJob, budget: Budget) -> bool:
    device, main = _need(job, budget)
    return device <= budget.device and (budget.main is None or main <= budget.main)


def _too_little(job: DistillationJob, budget: Budget) -> EnvironmentFault:
    device, main = _need(job, budget)
    problem = f"does not fit into {size(budget.device)}: with every saving it takes {size(device)}"
    if device <= budget.device:
        problem = f"takes {size(main)} of main memory, and {size(budget.main or 0)} are free"
    return EnvironmentFault(
        problem, where=job.pipeline.name, hint=f"give --fit {-(-device // 10**8) / 10:g}GB"
    )


def budget_here(device: int, processes: int) -> Budget:
    """A budget of this machine. device: bytes of each device that may be used."""
    from bonsai_quant.training.compute import device_here

    on_gpu = device_here().type == "cuda"
    return Budget(device, processes, on_gpu, available() if on_gpu else None)
