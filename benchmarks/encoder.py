"""What rounding the text encoder does to captions, pictures and score: a table of docs/quality.md.

    python -m benchmarks.encoder [--prompts 50] [--images 2] [--paint 16,mlx,fit-32]

Every rule rounds the text encoder of mini-klein in another way; what that does to captions takes
seconds. mini-klein and both packs that ship then paint the same captions from the same noise with
each rule, or with those of --paint: half a minute for each rule and model. The weights are decoded
beforehand, so that every rule runs through diffusers' own code in float32. The figures go to
benchmarks/results/encoder.json and, as a table, between the marks of docs/quality.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_quant.evaluation.gallery import Gallery, hang
from bonsai_quant.evaluation.judging import judge_batch, shrink
from bonsai_quant.evaluation.scenes.grammar import prompts as captions_of
from bonsai_quant.evaluation.score import compare
from bonsai_quant.evaluation.task import Task, scenery, task_for
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization import affine4
from bonsai_quant.quantization.affine4_fit import fit
from bonsai_quant.quantization.bf16 import from_bf16, to_bf16
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from bonsai_quant.sources.components import NEEDED_LAYERS, READ_LAYERS
from bonsai_quant.sources.components.text_encoder import shapes
from tools.make_parts import QWEN3_4B

from .marked_text import RESULTS, ROOT, write_between

Array = NDArray[np.float32]
MODELS = ("mini-klein", "mini-klein-ternary", "mini-klein-binary")
EMBEDDING = ("embed_tokens",)
LAYERS = tuple(f"layers.{i}." for i in (0, *(n - 1 for n in READ_LAYERS)))
"""The first layer, and those whose output is read."""
PER_CATEGORY = 40
"""Training captions whose states `gptq` knows."""
BATCH = 32


@dataclass(frozen=True)
class Rule:
    """One way to round. how: "" for not at all.  kept: parts of names that stay in 16 bits."""

    name: str
    how: str = "fit"
    kept: tuple[str, ...] = EMBEDDING
    group: int = 64

    def rounds(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor gets codes."""
        return bool(self.how) and len(shape) == 2 and not any(k in name for k in self.kept)

    def size(self) -> int:
        """Bytes that it takes of Klein 4B's text encoder, without the layers that nothing reads."""
        total = 0
        for name, shape in shapes(QWEN3_4B | {"num_hidden_layers": NEEDED_LAYERS}).items():
            n = math.prod(shape)
            total += n // 2 + 4 * n // self.group if self.rounds(name, shape) else 2 * n
        return total


RULES = {
    "16": Rule("16 bits", ""),
    "mlx": Rule("4 bits by MLX's rule", "mlx", ()),
    "mlx-embedding": Rule("the same, embedding in 16 bits", "mlx"),
    "mlx-layers": Rule("the same, layers 0, 8, 17, 26 in 16 bits", "mlx", EMBEDDING + LAYERS),
    "fit": Rule("4 bits by least squares, embedding in 16 bits"),
    "fit-32": Rule("the same in groups of 32", group=32),
    "gptq": Rule("by GPTQ in groups of 64, embedding in 16 bits", "gptq"),
}


def rounded(rule: Rule, weight: Array, hessian: Hessian | None) -> Array:
    """weight: [rows, in] -> what a pack of this rule decodes to."""
    if rule.how == "gptq":
        assert hessian is not None
        return gptq(weight, hessian, rule.group)
    bits = to_bf16(weight)
    return decode(*(affine4.quantize(bits) if rule.how == "mlx" else fit(bits, rule.group)))


def decode(words: NDArray[np.uint32], scales: NDArray[np.uint16], biases: Any) -> Array:
    """code * s + b, for groups of any width."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    codes = (words[..., None] >> shifts & np.uint32(15)).reshape(*scales.shape, -1)
    weights: Array = codes * from_bf16(scales)[..., None] + from_bf16(biases)[..., None]
    return weights.reshape(len(words), -1).astype(np.float32)


def gptq(weight: Array, hessian: Hessian, group: int) -> Array:
    """Error feedback: columns to come make up for what rounding one of them did to the outputs.

    A group's scale and bias are those of `fit`, when the sweep reaches it.
    """
    left, u, out = weight.astype(np.float64), hessian.factor, np.empty_like(weight)
    for start in range(0, weight.shape[1], group):
        columns = slice(start, start + group)
        _, s, b = fit(to_bf16(left[:, columns].astype(np.float32)), group)
        scale, bias = from_bf16(s)[:, 0], from_bf16(b)[:, 0]
        for j in range(start, start + group):
            code = np.clip(np.rint((left[:, j] - bias) / scale), 0, 15)
            out[:, j] = code * scale + bias
            left[:, j + 1 :] -= np.outer((left[:, j] - out[:, j]) / u[j, j], u[j, j + 1 :])
    return out


class Encoder:
    """The text encoder of a pipeline, which takes on the weights of one rule after the other."""

    def __init__(self, pipe: Any, task: Task) -> None:
        self.pipe, self.length = pipe, task.benchmark.settings.max_sequence_length
        self.model = pipe.text_encoder
        self.original = {n: w.detach().clone() for n, w in self.model.named_parameters()}
        self.moments: dict[str, Hessian] = {}

    def take(self, rule: Rule) -> None:
        """Round the weights by a rule."""
        with torch.no_grad():
            for name, w in self.model.named_parameters():
                w.copy_(self.original[name])
                if rule.rounds(name, tuple(w.shape)):
                    hessian = self.moments.get(name)
                    w.copy_(torch.from_numpy(rounded(rule, w.numpy().copy(), hessian)))

    @torch.no_grad()
    def captions(self, texts: list[str]) -> torch.Tensor:
        """The states that are read [n, tokens, 3 * width]."""
        return torch.cat([
            self.pipe.encode_prompt(texts[i : i + BATCH], max_sequence_length=self.length)[0]
            for i in range(0, len(texts), BATCH)
        ])  # fmt: skip

    def learn(self, texts: list[str]) -> None:
        """Second moments of what every linear reads."""
        sums: dict[str, torch.Tensor] = {}

        def add(name: str) -> Any:
            def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
                x = inputs[0].flatten(0, -2).double()
                sums[name] = sums.get(name, 0) + x.T @ x

            return hook

        linears = [(n, m) for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        hooks = [m.register_forward_pre_hook(add(f"{n}.weight")) for n, m in linears]
        self.captions(texts)
        for hook in hooks:
            hook.remove()
        self.moments = {n: Hessian(s.numpy()) for n, s in sums.items()}


def painted(pipe: Any, task: Task) -> tuple[NDArray[np.uint8], Gallery]:
    """All pictures of a task, and their judgement."""
    pictures = paint_dense(pipe, task.texts, task.seeds, task.benchmark.settings, batch=BATCH)
    small = shrink(pictures, scenery(task.benchmark).pixels)
    return pictures, hang("", task, [judge_batch(small, task, None, 0)])


def psnr(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> dict[str, float | None]:
    """Decibels of the picture in the middle, and the share of pictures with less than 30.

    The mean of all squared errors would tell of the few pictures that came out another way.
    """
    difference = pictures.astype(np.float32) - others
    errors = np.square(difference).reshape(len(pictures), -1).mean(1)
    middle, visible = float(np.median(errors)), float((errors > 255**2 / 10**3).mean())
    return {"psnr": 10 * math.log10(255**2 / middle) if middle else None, "below 30 dB": visible}


def measure(painting: list[str], task: Task) -> list[dict[str, Any]]:
    """A row for each rule, with pictures where its name is among `painting`."""
    rows = {n: {"rule": n, "name": r.name, "bytes": r.size()} for n, r in RULES.items()}
    source: Gallery | None = None
    for model in MODELS:
        pipe = open_pipeline(model)
        encoder = Encoder(pipe, task)
        encoder.learn([
            p.text for p in captions_of(scenery(task.benchmark), "train", per_category=PER_CATEGORY)
        ])  # fmt: skip
        unique = sorted({p.text for p in task.prompts})
        expected, (reference, exact) = encoder.captions(unique), painted(pipe, task)
        source = source or exact
        for n in RULES:
            if n not in painting and "captions" in rows[n]:
                continue
            encoder.take(RULES[n])
            off = encoder.captions(unique) - expected
            rows[n]["captions"] = float(off.norm() / expected.norm())
            if n not in painting:
                continue
            if RULES[n].how:
                pictures, gallery = painted(pipe, task)
            else:
                pictures, gallery = reference, exact
            kept = compare(gallery, source).kept[0].retention
            rows[n][model] = psnr(pictures, reference) | {"retention": asdict(kept)}
            click.echo(json.dumps(rows[n]), err=True)
    return list(rows.values())


def alone(task: Task) -> list[str]:
    """What each layer does to captions when it alone is rounded, by MLX's rule."""
    pipe = open_pipeline(MODELS[0])
    encoder, texts = Encoder(pipe, task), sorted({p.text for p in task.prompts})
    expected, lines = encoder.captions(texts), []
    for layer in range(NEEDED_LAYERS):
        others = tuple(f"layers.{i}." for i in range(NEEDED_LAYERS) if i != layer)
        encoder.take(Rule("", "mlx", EMBEDDING + others))
        off = encoder.captions(texts) - expected
        lines.append(f"layer {layer}: {float(off.norm() / expected.norm()):.4f}")
    return lines


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    head = ["text encoder", "Klein 4B, GB", "captions: error"]
    head += [f"{m}: {what}" for m in MODELS for what in ("PSNR, dB", "retention")]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        cells = [r["name"], f"{r['bytes'] / 1e9:.2f}", f"{r['captions']:.4f}"]
        for m in MODELS:
            if m not in r:
                cells += ["", ""]
                continue
            db, kept = r[m]["psnr"], r[m]["retention"]
            cells += ["same" if db is None else f"{db:.1f}", f"{100 * kept['value']:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--prompts", default=50, show_default=True, help="Per category.")
@click.option("--images", default=2, show_default=True, help="Pictures of each prompt.")
@click.option("--paint", default=",".join(RULES), show_default=True, help="Rules that paint.")
@click.option("--write/--print", default=True, help="Write the results, or only print them.")
@click.option("--layers", is_flag=True, help="Instead, round one layer after the other alone.")
def main(prompts: int, images: int, paint: str, write: bool, layers: bool) -> None:
    """Measure, print, and write results/encoder.json and the table of docs/quality.md."""
    task = task_for([locate(MODELS[0])], split="test", prompts=prompts, images=images, seed=0)
    if layers:
        click.echo("\n".join(alone(task)))
        return
    rows = measure(paint.split(","), task)
    told = f"{len(task.texts)} pictures each; `python -m benchmarks.encoder` repeats it."
    text = f"{table(rows)}\n\n{told}"
    if write:
        (RESULTS / "encoder.json").write_text(json.dumps(rows, indent=2) + "\n")
        write_between(ROOT / "docs" / "quality.md", "encoder", text)
    click.echo(text)


if __name__ == "__main__":
    main()
