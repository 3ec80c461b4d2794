"""The MLX runner: one component in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.memory import resident
from bonsai_quant.core.requirements import check_mlx
from bonsai_quant.packs.integrity import held
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.memory_meter import give_back
from bonsai_quant.runners.sampling import Latents, Velocity, check_scheduler
from bonsai_quant.runners.text import load_tokenizer, loading
from bonsai_quant.runners.tokens import Reference, position_ids, with_references

if TYPE_CHECKING:
    import mlx.core as mx

    from .autoencoder import Autoencoder

ENCODER, DECODER = ("encoder.", "quant_conv."), ("decoder.", "post_quant_conv.")
"""Beginnings of the names of the weights of either half of an autoencoder."""


class MlxRunner:
    """Runs a pack in any format with MLX: in bfloat16 on Apple's GPU, in float32 on a CPU."""

    name = "mlx"

    def __init__(self, pipeline: Pipeline) -> None:
        check_mlx()
        if pipeline.pack is None:
            raise Unsupported(
                "is not a pack, and the mlx runner runs packs",
                where=pipeline.name,
                hint="pass --backend torch",
            )
        check_scheduler(pipeline.folder)
        import mlx.core as mx

        self.pipeline, self.pack = pipeline, pipeline.pack
        self.on_gpu = mx.default_device() == mx.gpu
        self.dtype = mx.bfloat16 if self.on_gpu else mx.float32
        self.computes = "bfloat16" if self.on_gpu else "float32"

    def encode(self, prompts: Sequence[str], length: int) -> NDArray[np.float32]:
        """Hidden states of the prompts [n, length, width], by mlx-lm's Qwen3."""
        from . import text

        tokenizer = load_tokenizer(self.pipeline.part("tokenizer"))
        folder = self.pipeline.part("text_encoder")
        if folder.name.startswith("text_encoder-hqq"):
            raise Unsupported(
                "is quantized for CUDA", where=str(folder), hint="pass --pipeline FOLDER"
            )
        with loading("MLX", folder):
            model = text.load(folder, self.dtype)
        ids, real = text.tokens(tokenizer, prompts, length)
        states = [
            text.hidden_states(model, ids[i : i + 1], real[i : i + 1], self.dtype)
            for i in range(len(ids))
        ]
        del model
        self._free_memory()
        return np.concatenate(states)

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> list[Reference]:
        """Latents of pictures, by the autoencoder's encoder in float32."""
        import mlx.core as mx

        with self._autoencoder(ENCODER) as model:
            return [self._to_numpy(model.encode(mx.array(image)[None]))[0] for image in images]

    @contextmanager
    def transformer(self, references: Sequence[Reference] = ()) -> Iterator[Velocity]:
        """The transformer with the pack's codes as they are."""
        from .linear import load
        from .transformer import Transformer

        with held(self.pack, check=not self.pipeline.unverified) as pack:
            layers = load(pack, self.dtype)
        model = Transformer(self.pack.info.config, layers)

        def velocity(z: Latents, sigma: float, captions: NDArray[np.float32]) -> Latents:
            tokens = self._array(with_references(z, references))
            rows, columns = z.shape[1:3]
            positions = position_ids(rows, columns, references)
            v = self._to_numpy(model(tokens, positions, sigma, self._array(captions)))
            return v[:, : rows * columns].reshape(z.shape)

        try:
            yield velocity
        finally:
            layers.clear()
            self._free_memory()

    @contextmanager
    def decoder(self) -> Iterator[Callable[[Latents], NDArray[np.float32]]]:
        """The autoencoder's decoder, in float32 everywhere."""
        import mlx.core as mx

        with self._autoencoder(DECODER) as model:
            yield lambda latents: self._to_numpy(model.decode(mx.array(latents)))

    @contextmanager
    def _autoencoder(self, half: tuple[str, ...]) -> Iterator[Autoencoder]:
        import mlx.core as mx

        from .autoencoder import Autoencoder

        folder = self.pipeline.part("vae")
        with loading("MLX", folder):
            model = Autoencoder(folder, half, mx.float32)
        try:
            yield model
        finally:
            model.weights.clear()
            self._free_memory()

    def active_bytes(self) -> int:
        """What MLX holds on the GPU, or what the process holds."""
        import mlx.core as mx

        return int(mx.get_active_memory()) if self.on_gpu else resident()

    def _array(self, values: NDArray[np.float32]) -> mx.array:
        import mlx.core as mx

        return mx.array(np.ascontiguousarray(values)).astype(self.dtype)

    def _to_numpy(self, values: Any) -> NDArray[np.float32]:
        import mlx.core as mx

        return np.array(values.astype(mx.float32))

    def _free_memory(self) -> None:
        import mlx.core as mx

        give_back()
        mx.clear_cache()
