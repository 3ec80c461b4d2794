"""The reference runner: diffusers' own parts, one in memory at a time, the packed linears packed.

On a CPU everything is computed in float32, on a GPU in bfloat16. Weights stay in 16 bits or as
codes until a layer is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.memory import resident
from bonsai_quant.packs.integrity import held
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.memory_meter import give_back, hold_little
from bonsai_quant.runners.sampling import Latents, Velocity, check_scheduler
from bonsai_quant.runners.text import load_tokenizer, loading
from bonsai_quant.runners.tokens import (
    Reference,
    position_ids,
    text_position_ids,
    with_references,
)
from bonsai_quant.sources.components import NEEDED_LAYERS
from bonsai_quant.storage.containers.safetensors import read_header

from .dense import check_packages, quiet
from .text_encoder import load_quantized

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchRunner:
    """Runs a pipeline's folder, or a pack in any format, with torch."""

    name = "torch"

    def __init__(self, pipeline: Pipeline) -> None:
        check_packages()
        check_scheduler(pipeline.folder)
        import torch

        self.pipeline = pipeline
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.computes = str(self.dtype).removeprefix("torch.")

    def encode(self, prompts: Sequence[str], length: int) -> NDArray[np.float32]:
        """Hidden states of the prompts [n, length, width], by diffusers' own method."""
        import torch
        from diffusers import Flux2KleinPipeline

        with torch.inference_mode(), self._open(self._text_encoder) as encoder:
            pipe = Flux2KleinPipeline(
                scheduler=None, vae=None, transformer=None,
                text_encoder=encoder, tokenizer=load_tokenizer(self.pipeline.part("tokenizer")),
            )  # fmt: skip
            states = [
                pipe.encode_prompt(text, device=self.device, max_sequence_length=length)[0]
                for text in prompts
            ]
            result: NDArray[np.float32] = torch.cat(states).float().cpu().numpy()
        return result

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> list[Reference]:
        """Latents of pictures, by diffusers' own method."""
        import torch
        from diffusers import Flux2KleinPipeline

        with torch.inference_mode(), self._open(lambda: self._autoencoder("decoder")) as vae:
            pipe = Flux2KleinPipeline(
                scheduler=None, vae=vae, transformer=None, text_encoder=None, tokenizer=None
            )
            latents = []
            for image in images:
                x = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device)
                z = pipe._encode_vae_image(x, None)
                latents.append(z[0].permute(1, 2, 0).cpu().numpy())
        return latents

    def transformer(self, references: Sequence[Reference] = ()) -> AbstractContextManager[Velocity]:
        """The transformer: packed for a pack, in 16 bits for a pipeline."""
        return self._bound(self._transformer, velocity_of, references)

    def decoder(self) -> AbstractContextManager[Callable[[Latents], NDArray[np.float32]]]:
        """The autoencoder without its encoder, in float32."""
        return self._bound(lambda: self._autoencoder("encoder"), self._decode)

    def active_bytes(self) -> int:
        """What torch holds on the GPU, or what the process holds."""
        import torch

        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated())
        return resident()

    @contextmanager
    def _bound(
        self, load: Callable[[], nn.Module], call: Callable[..., Any], *more: Any
    ) -> Iterator[Any]:
        import torch

        hold_little()
        with self._open(load) as model, torch.inference_mode():
            yield lambda *args: call(model, *args, *more)

    @contextmanager
    def _open(self, load: Callable[[], nn.Module]) -> Iterator[nn.Module]:
        with quiet(), loading("diffusers", self.pipeline.folder):
            model = load()
        try:
            yield model
        finally:
            # Whoever called may still hold the module: its weights leave all the same.
            model.to("meta")
            give_back()

    def _text_encoder(self) -> nn.Module:
        from transformers import Qwen3Config, Qwen3Model

        folder = self.pipeline.part("text_encoder")
        quantized = load_quantized(folder, self.dtype, self.device)
        if quantized is not None:
            return quantized
        config = Qwen3Config.from_pretrained(folder, local_files_only=True)
        # Layers after the last that is read are left out; one more stays, for the last is normed.
        config.num_hidden_layers = min(config.num_hidden_layers, NEEDED_LAYERS)
        config.layer_types = (config.layer_types or [])[: config.num_hidden_layers] or None
        model = Qwen3Model.from_pretrained(
            folder, config=config, dtype=_stored_dtype(folder), local_files_only=True,
            use_safetensors=True,
        )  # fmt: skip
        return self._on_device(model)

    def _transformer(self) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        if self.pipeline.pack is not None:
            from .transformer import packed_transformer

            with held(self.pipeline.pack, check=not self.pipeline.unverified) as pack:
                model = packed_transformer(pack)
            self._adapt(model)
            return model if self.device.type == "cpu" else self._moved(model)
        folder = self.pipeline.part("transformer")
        model = Flux2Transformer2DModel.from_pretrained(
            folder, torch_dtype=_stored_dtype(folder), local_files_only=True, use_safetensors=True
        )
        return self._on_device(model)

    def _adapt(self, model: nn.Module) -> None:
        if self.pipeline.loras:
            from .adapter import adapt

            adapt(model, self.pipeline.loras)

    def _autoencoder(self, without: str) -> nn.Module:
        import torch
        from diffusers import AutoencoderKLFlux2

        model = AutoencoderKLFlux2.from_pretrained(
            self.pipeline.part("vae"), torch_dtype=torch.float32, local_files_only=True,
            use_safetensors=True,
        )  # fmt: skip
        setattr(model, without, None)
        if without == "encoder":
            from .vae_strips import in_strips

            in_strips(model.decoder)
        return model.to(self.device).eval()

    def _on_device(self, model: nn.Module) -> nn.Module:
        if self.device.type != "cpu":
            return self._moved(model).eval()
        from .transformer import keep_small

        return keep_small(model.eval())

    def _moved(self, model: nn.Module) -> nn.Module:
        """To the device, in what is computed there, past diffusers' own warning about dtypes."""
        from torch import nn

        moved: nn.Module = nn.Module.to(model, self.device, self.dtype)
        return moved

    def _decode(self, vae: Any, latents: Latents) -> NDArray[np.float32]:
        import torch
        from diffusers import Flux2KleinPipeline

        z = torch.from_numpy(latents).to(self.device).permute(0, 3, 1, 2)
        spread = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        z = z * spread[:, None, None] + vae.bn.running_mean[:, None, None]
        image = vae.decode(Flux2KleinPipeline._unpatchify_latents(z), return_dict=False)[0]
        pictures: NDArray[np.float32] = image.permute(0, 2, 3, 1).cpu().numpy()
        return pictures


def velocity_of(
    model: nn.Module,
    z: Latents,
    sigma: float,
    captions: NDArray[np.float32],
    references: Sequence[Reference] = (),
) -> Latents:
    """The velocity of diffusers' transformer, or of one with its interface, at a state."""
    import torch

    n, rows, columns, channels = z.shape
    norm = next(model.parameters())
    like_norm = {"device": norm.device, "dtype": norm.dtype}
    v = model(
        hidden_states=torch.from_numpy(with_references(z, references)).to(**like_norm),
        encoder_hidden_states=torch.from_numpy(np.ascontiguousarray(captions)).to(**like_norm),
        timestep=torch.full((n,), sigma, **like_norm),
        img_ids=torch.from_numpy(position_ids(rows, columns, references)).to(norm.device),
        txt_ids=torch.from_numpy(text_position_ids(captions.shape[1])).to(norm.device),
        return_dict=False,
    )[0]
    result: Latents = v[:, : rows * columns].float().cpu().numpy().reshape(z.shape)
    return result


def _stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that the weights of a part are stored in."""
    import torch

    files = sorted(folder.glob("*.safetensors"))
    dtypes = {t.spec.dtype for f in files[:1] for t in read_header(f).tensors}
    halves = {"BF16": torch.bfloat16, "F16": torch.float16}
    return halves[dtypes.pop()] if len(dtypes) == 1 and dtypes <= set(halves) else torch.float32
