"""What a calibration takes, counted before it starts: time by multiplications, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch

from bonsai_quant.runners.sampling import PIXELS

from .job import CalibrationJob
from .paint import DRAWS
from .prepared import RECORDED

PROCESS = 900 << 20
"""Interpreter, torch and diffusers, measured."""
SOLVING = 23
"""Operations for each weight and each of its row's inputs, measured by benchmarks/solver.py: twelve
in products for the codes and four for the targets, and the time of what no product does."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """states: of one walk for each prompt.  tokens, words: of one state.  width: of a token.

    others: bytes of what stands around the blocks, in float32.
    """

    states: int
    tokens: int
    words: int
    width: int
    others: int


def sizes(job: CalibrationJob, n_prompts: int) -> Sizes:
    """Of a job, from its source's header."""
    pictures, config = job.pictures, job.plan.info.config
    blocks = tuple(f"{name}." for name in job.family.blocks)
    around = [t.tensor for t in job.plan.tensors if not t.tensor.name.startswith(blocks)]
    return Sizes(
        states=n_prompts * pictures.num_inference_steps,
        tokens=pictures.height * pictures.width // PIXELS**2,
        words=pictures.max_sequence_length,
        width=int(config["num_attention_heads"]) * int(config["attention_head_dim"]),
        others=4 * sum(t.size for t in around),
    )


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations: running the model, summing moments, solving."""

    running: float
    moments: float
    solving: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.running + self.moments + self.solving


def work(job: CalibrationJob, sizes: Sizes) -> Work:
    """Count a calibration with a solver."""
    blocks: dict[str, list[str]] = {}
    for linear in job.layers:
        blocks.setdefault(".".join(linear.split(".")[:2]), []).append(linear)
    attention = 4.0 * (sizes.tokens + sizes.words) ** 2 * sizes.width
    running = moments = solving = 0.0
    for name, linears in blocks.items():
        once = attention + sum(_product(job, sizes, n) for n in linears)
        running += (2 + DRAWS) * once  # painting, and the way back
        done = 0.0
        for stage in job.stages(name):
            running += 2 * done
            done += sum(_product(job, sizes, n) for n in stage) + attention / len(job.stages(name))
        running += once + done  # behind the block: the source's, in its last stage, is there
        for n in linears:
            out, width = job.layers[n].shape
            parts = len(job.starts(n))
            moments += 4.0 * sizes.states * _read(job, sizes, n) * width**2 * parts
            solving += SOLVING * out * width**2 + width**3 * parts / 3
    return Work(running * sizes.states, moments, solving)


def forward(job: CalibrationJob, sizes: Sizes) -> float:
    """Operations of one state's way through the packed layers."""
    blocks = {".".join(linear.split(".")[:2]) for linear in job.layers}
    attention = 4.0 * (sizes.tokens + sizes.words) ** 2 * sizes.width
    return attention * len(blocks) + sum(_product(job, sizes, n) for n in job.layers)


def _read(job: CalibrationJob, sizes: Sizes, linear: str) -> int:
    """Tokens that a layer reads in one state."""
    each = {"picture": sizes.tokens, "text": sizes.words, "both": sizes.tokens + sizes.words}
    return each[job.family.reads(linear)]


def _product(job: CalibrationJob, sizes: Sizes, linear: str) -> float:
    out, width = job.layers[linear].shape
    return 2.0 * _read(job, sizes, linear) * out * width


def memory(job: CalibrationJob, sizes: Sizes) -> dict[str, int]:
    """Bytes at the worst moment, by what they are for."""
    blocks: dict[str, int] = {}
    for linear, tensor in job.layers.items():
        name = ".".join(linear.split(".")[:2])
        blocks[name] = blocks.get(name, 0) + 4 * tensor.size
    stages = (stage for name in blocks for stage in job.stages(name))
    sums = (sum(8 * job.layers[n].shape[1] ** 2 * len(job.starts(n)) for n in s) for s in stages)
    widest = max((t.shape[1] for t in job.layers.values()), default=0)
    state = 4 * (sizes.tokens + sizes.words) * sizes.width
    return {
        "program and libraries": PROCESS,
        "what stands around the blocks": sizes.others,
        "one block, twice": 2 * max(blocks.values(), default=0),
        "moments of the layers that are solved": max(sums, default=0),
        "a factor, and what it is made of": 3 * 4 * widest**2,
        "states between two blocks, twice": 2 * sizes.states * state,
        "inputs of all blocks on the way back": min(RECORDED, sizes.states * state * len(blocks)),
    }


def speed(device: torch.device) -> float:
    """Operations a second of a matrix product in float32 here, measured in half a second."""
    a = torch.randn(1536, 1536, device=device)
    best = float("inf")
    for _ in range(4):
        begin = perf_counter()
        float((a @ a).sum())
        best = min(best, perf_counter() - begin)
    return 2 * 1536**3 / best
