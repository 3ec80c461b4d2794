"""FLUX.2's transformer in MLX, from the names and shapes of diffusers' `Flux2Transformer2DModel`.

Double blocks keep picture and text apart and let them attend together; single blocks take both as
one row of tokens, text first, and compute attention and feed-forward side by side. All blocks of a
kind share one modulation, computed from the noise level alone.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from bonsai_quant.runners.tokens import text_position_ids

from .linear import Layers

TIME_PERIOD = 10_000
TIMESTEPS = 1000


class Transformer:
    """config: diffusers' config.json."""

    def __init__(self, config: dict[str, Any], layers: Layers) -> None:
        self.linears, self.norms = layers.linears, layers.norms
        self.double, self.single = int(config["num_layers"]), int(config["num_single_layers"])
        self.heads, self.head = (
            int(config["num_attention_heads"]),
            int(config["attention_head_dim"]),
        )
        self.eps = float(config.get("eps", 1e-6))
        self.axes = tuple(config.get("axes_dims_rope", (32, 32, 32, 32)))
        self.theta = float(config.get("rope_theta", 2000))
        self.time_channels = int(config.get("timestep_guidance_channels", 256))

    def __call__(
        self, tokens: mx.array, position_ids: np.ndarray, sigma: float, captions: mx.array
    ) -> mx.array:
        """tokens [n, k, channels], position_ids [k, 4], captions [n, m, width] -> like tokens."""
        rotation = _rotation(position_ids, captions.shape[1], self.axes, self.theta, tokens.dtype)
        time = self._time(sigma, tokens.dtype)
        image = self.linears["x_embedder"](tokens)
        text = self.linears["context_embedder"](captions)
        of_image = self._modulation("double_stream_modulation_img", time, 6)
        of_text = self._modulation("double_stream_modulation_txt", time, 6)
        for i in range(self.double):
            name = f"transformer_blocks.{i}"
            image, text = self._double(name, image, text, of_image, of_text, rotation)
            mx.eval(image, text)
        both = mx.concatenate([text, image], axis=1)
        of_both = self._modulation("single_stream_modulation", time, 3)
        for i in range(self.single):
            both = self._single(f"single_transformer_blocks.{i}.attn", both, of_both, rotation)
            mx.eval(both)
        image = both[:, text.shape[1] :]
        scale, shift = mx.split(self.linears["norm_out.linear"](_silu(time)), 2, axis=-1)
        image = self._normed(image) * (1 + scale) + shift
        return self.linears["proj_out"](image)

    def _time(self, sigma: float, dtype: mx.Dtype) -> mx.array:
        """[1, 1, width]: cosines and sines of the noise level through two layers."""
        half = self.time_channels // 2
        periods = np.exp(-np.log(TIME_PERIOD) * np.arange(half, dtype=np.float32) / half)
        angle = np.float32(sigma) * TIMESTEPS * periods
        wave = mx.array(np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32))
        x = wave.astype(dtype)[None, None]
        name = "time_guidance_embed.timestep_embedder"
        return self.linears[f"{name}.linear_2"](_silu(self.linears[f"{name}.linear_1"](x)))

    def _modulation(self, name: str, time: mx.array, n: int) -> list[mx.array]:
        """Shift, scale and gate, once or twice: [1, 1, width] each."""
        return list(mx.split(self.linears[f"{name}.linear"](_silu(time)), n, axis=-1))

    def _double(
        self, name: str, image: mx.array, text: mx.array, of_image: list[mx.array],
        of_text: list[mx.array], rotation: mx.array,
    ) -> tuple[mx.array, mx.array]:  # fmt: skip
        x = self._normed(image) * (1 + of_image[1]) + of_image[0]
        c = self._normed(text) * (1 + of_text[1]) + of_text[0]
        attn, n_words = f"{name}.attn", text.shape[1]
        q, k, v = (
            mx.concatenate(
                [self._heads(f"{attn}.add_{role}_proj", f"{attn}.norm_added_{role}", c),
                 self._heads(f"{attn}.to_{role}", f"{attn}.norm_{role}", x)], axis=2,
            )
            for role in "qkv"
        )  # fmt: skip
        attended = self._attend(q, k, v, rotation)
        image = image + of_image[2] * self.linears[f"{attn}.to_out.0"](attended[:, n_words:])
        text = text + of_text[2] * self.linears[f"{attn}.to_add_out"](attended[:, :n_words])
        x = self._normed(image) * (1 + of_image[4]) + of_image[3]
        image = image + of_image[5] * self._feed_forward(f"{name}.ff", x)
        c = self._normed(text) * (1 + of_text[4]) + of_text[3]
        return image, text + of_text[5] * self._feed_forward(f"{name}.ff_context", c)

    def _single(
        self, attn: str, x: mx.array, modulation: list[mx.array], rotation: mx.array
    ) -> mx.array:
        shift, scale, gate = modulation
        wide = self.linears[f"{attn}.to_qkv_mlp_proj"](self._normed(x) * (1 + scale) + shift)
        width = self.heads * self.head
        q, k, v, gated = mx.split(wide, [width, 2 * width, 3 * width], axis=-1)
        attended = self._attend(
            self._split(q, f"{attn}.norm_q"), self._split(k, f"{attn}.norm_k"),
            self._split(v, ""), rotation,
        )  # fmt: skip
        return x + gate * self.linears[f"{attn}.to_out"](
            mx.concatenate([attended, _swiglu(gated)], axis=-1)
        )

    def _feed_forward(self, name: str, x: mx.array) -> mx.array:
        return self.linears[f"{name}.linear_out"](_swiglu(self.linears[f"{name}.linear_in"](x)))

    def _heads(self, linear: str, norm: str, x: mx.array) -> mx.array:
        return self._split(self.linears[linear](x), "" if norm[-1] == "v" else norm)

    def _split(self, x: mx.array, norm: str) -> mx.array:
        """[n, tokens, heads * 128] -> [n, heads, tokens, 128]; queries and keys are normed."""
        x = x.reshape(*x.shape[:2], self.heads, self.head).swapaxes(1, 2)
        return mx.fast.rms_norm(x, self.norms[norm], self.eps) if norm else x

    def _attend(self, q: mx.array, k: mx.array, v: mx.array, rotation: mx.array) -> mx.array:
        attended = mx.fast.scaled_dot_product_attention(
            _rotated(q, rotation), _rotated(k, rotation), v, scale=self.head**-0.5
        )
        return attended.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)

    def _normed(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, None, None, self.eps)


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _swiglu(x: mx.array) -> mx.array:
    gate, value = mx.split(x, 2, axis=-1)
    return _silu(gate) * value


def _rotation(
    position_ids: np.ndarray, n_words: int, axes: tuple[int, ...], theta: float, dtype: mx.Dtype
) -> mx.array:
    """[2, tokens, 64]: cosines and sines of every token's four positions, words first."""
    position_ids = np.concatenate([text_position_ids(n_words), position_ids]).astype(np.float64)
    angles = [
        np.outer(position_ids[:, i], theta ** -(np.arange(0, size, 2) / size))
        for i, size in enumerate(axes)
    ]
    angle = np.concatenate(angles, 1)
    return mx.array(np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)).astype(dtype)


def _rotated(x: mx.array, rotation: mx.array) -> mx.array:
    """Each pair of neighbouring channels turned by its angle: x [n, heads, tokens, 128]."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = rotation[0], rotation[1]
    return mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
