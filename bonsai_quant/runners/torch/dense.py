"""diffusers itself on a pack's decoded weights, in float32: the reference for every runner.

Many pictures at once, everything in memory. The weights are those of every format, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput, EnvironmentFault
from bonsai_quant.core.requirements import RUN, install, require
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.quantization.dequantize import weights
from bonsai_quant.runners.text import load_tokenizer, loading, one_line

from .text_encoder import load_quantized

if TYPE_CHECKING:
    from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

BATCH = 32
"""Pictures made at once."""


def open_pipeline(place: str | Path, *, pipeline: str | None = None) -> Flux2KleinPipeline:
    """Load a pipeline's folder, a shipped model or a pack, on a GPU if there is one.

    pipeline: where the text encoder, tokenizer, VAE and scheduler of a pack come from; by default
    the source that its manifest names.
    """
    check_packages()
    import torch
    from diffusers import Flux2KleinPipeline

    located = locate(str(place), pipeline=pipeline)
    replaced = {} if located.pack is None else {"transformer": dense_transformer(located.pack)}
    with quiet(), loading("diffusers", located.folder):
        if located.brings_all:
            pipe = Flux2KleinPipeline(
                **replaced, **_components(located), is_distilled=located.distilled
            )
        else:
            pipe = Flux2KleinPipeline.from_pretrained(
                located.folder, local_files_only=True, use_safetensors=True, **replaced
            )
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        part.float()  # exact: they are stored in 16 bits
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def _components(pipeline: Pipeline) -> dict[str, Any]:
    """The parts that a deployment brings; a text encoder in 4 bits stays so, to save memory."""
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
    from transformers import Qwen3Model

    local = {"local_files_only": True}
    text, scheduler = pipeline.part("text_encoder"), pipeline.folder / "scheduler"
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(scheduler, **local)
        if scheduler.is_dir()
        else FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "text_encoder": load_quantized(text, torch.float32, torch.device("cpu"))
        or Qwen3Model.from_pretrained(text, use_safetensors=True, **local),
        "tokenizer": load_tokenizer(pipeline.part("tokenizer")),
        "vae": AutoencoderKLFlux2.from_pretrained(
            pipeline.part("vae"), use_safetensors=True, **local
        ),
    }


def check_packages() -> None:
    """Refuse to go on without torch and diffusers, or with a diffusers that has no FLUX.2 Klein."""
    require(RUN, "run")
    try:
        import torch  # noqa: F401
        from diffusers import Flux2KleinPipeline  # noqa: F401
    except (ImportError, OSError, RuntimeError) as e:
        raise EnvironmentFault(
            f"diffusers does not import: {one_line(e)}", hint=install("run")
        ) from e


def dense_transformer(pack: Pack) -> Flux2Transformer2DModel:
    """diffusers' own class with a pack's weights, decoded layer by layer to float32."""
    import torch
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        model = Flux2Transformer2DModel.from_config(pack.info.config)
    state = {}
    for t in pack.info.tensors:
        values = weights(pack.layer(t)) if t.packed else pack.kept(t).astype(np.float32)
        state[t.name] = torch.from_numpy(values)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as e:
        raise BadInput(one_line(e), where=str(pack.folder), hint="convert again") from e
    return model.eval()


def paint_dense(
    pipe: Flux2KleinPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: PictureSettings,
    *,
    batch: int = BATCH,
) -> NDArray[np.uint8]:
    """One picture per prompt and seed: [n, height, width, 3] uint8 sRGB.

    The noise is drawn on the CPU for each picture alone, so that neither its neighbours nor the
    device decide what it shows.
    """
    import torch

    pictures = [np.empty((0, settings.height, settings.width, 3), np.uint8)]
    for at in range(0, len(prompts), batch):
        noise = [torch.Generator().manual_seed(seed) for seed in seeds[at : at + batch]]
        texts = list(prompts[at : at + batch])
        out = pipe(prompt=texts, generator=noise, output_type="np", **asdict(settings))
        pictures.append(_as_bytes(out.images))
    return np.concatenate(pictures)


def _as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Floats in [0, 1], rounded as diffusers does for a file; what overflowed becomes black."""
    return np.rint(np.nan_to_num(images, nan=0.0) * 255).astype(np.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of diffusers and transformers while they load."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    shown = [m for m in (diffusers, transformers) if m.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()
