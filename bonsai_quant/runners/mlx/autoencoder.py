"""FLUX.2's autoencoder in MLX, either half, from diffusers' names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from bonsai_quant.storage.strict_json import read_json

EPS = 1e-6


class Autoencoder:
    """Half of it. weights: by name, convolutions as [out, height, width, in]."""

    def __init__(self, folder: Path, half: tuple[str, ...], dtype: mx.Dtype) -> None:
        self.config: dict[str, Any] = read_json(folder / "config.json")
        stored: Any = mx.load(str(folder / "diffusion_pytorch_model.safetensors"))
        self.weights: dict[str, mx.array] = {
            name: (w.transpose(0, 2, 3, 1) if w.ndim == 4 else w).astype(dtype)
            for name, w in stored.items()
            if name.startswith((*half, "bn.running_"))
        }
        self.groups = int(self.config["norm_num_groups"])

    def decode(self, latents: mx.array) -> mx.array:
        """latents [n, rows, columns, channels] -> pictures [n, height, width, 3] in -1 to 1."""
        z = latents * self._spread() + self.weights["bn.running_mean"]
        n, rows, columns, channels = z.shape
        z = z.reshape(n, rows, columns, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        x = z.reshape(n, 2 * rows, 2 * columns, channels // 4)
        if self.config.get("use_post_quant_conv", True):
            x = self._conv("post_quant_conv", x)
        x = self._middle("decoder", self._conv("decoder.conv_in", x))
        for i in range(len(self.config["block_out_channels"])):
            x = self._up(f"decoder.up_blocks.{i}", x)
        return self._conv("decoder.conv_out", nn.silu(self._norm("decoder.conv_norm_out", x)))

    def encode(self, pictures: mx.array) -> mx.array:
        """pictures [n, height, width, 3] in -1 to 1 -> latents [n, rows, columns, channels]."""
        x = self._conv("encoder.conv_in", pictures)
        for i in range(len(self.config["block_out_channels"])):
            x = self._down(f"encoder.down_blocks.{i}", x)
        x = nn.silu(self._norm("encoder.conv_norm_out", self._middle("encoder", x)))
        x = self._conv("encoder.conv_out", x)
        if self.config.get("use_quant_conv", True):
            x = self._conv("quant_conv", x)
        mean = mx.split(x, 2, axis=-1)[0]  # and the logarithm of the variance
        n, high, wide, channels = mean.shape
        z = mean.reshape(n, high // 2, 2, wide // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
        z = z.reshape(n, high // 2, wide // 2, 4 * channels)
        return (z - self.weights["bn.running_mean"]) / self._spread()

    def _spread(self) -> mx.array:
        return mx.sqrt(self.weights["bn.running_var"] + self.config["batch_norm_eps"])

    def _middle(self, half: str, x: mx.array) -> mx.array:
        x = self._resnet(f"{half}.mid_block.resnets.0", x)
        if self.config.get("mid_block_add_attention", True):
            x = self._attention(f"{half}.mid_block.attentions.0", x)
        return self._resnet(f"{half}.mid_block.resnets.1", x)

    def _down(self, name: str, x: mx.array) -> mx.array:
        for j in range(self.config["layers_per_block"]):
            x = self._resnet(f"{name}.resnets.{j}", x)
            mx.eval(x)
        conv = f"{name}.downsamplers.0.conv"
        if f"{conv}.weight" not in self.weights:
            return x
        x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        weight, bias = self.weights[f"{conv}.weight"], self.weights[f"{conv}.bias"]
        return mx.conv2d(x, weight, stride=2) + bias

    def _up(self, name: str, x: mx.array) -> mx.array:
        for j in range(self.config["layers_per_block"] + 1):
            x = self._resnet(f"{name}.resnets.{j}", x)
            mx.eval(x)
        if f"{name}.upsamplers.0.conv.weight" not in self.weights:
            return x
        x = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
        return self._conv(f"{name}.upsamplers.0.conv", x)

    def _resnet(self, name: str, x: mx.array) -> mx.array:
        h = self._conv(f"{name}.conv1", nn.silu(self._norm(f"{name}.norm1", x)))
        h = self._conv(f"{name}.conv2", nn.silu(self._norm(f"{name}.norm2", h)))
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self._conv(f"{name}.conv_shortcut", x)
        return x + h

    def _attention(self, name: str, x: mx.array) -> mx.array:
        n, rows, columns, width = x.shape
        h = self._norm(f"{name}.group_norm", x).reshape(n, rows * columns, width)
        q, k, v = (self._linear(f"{name}.to_{role}", h)[:, None] for role in "qkv")
        attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=width**-0.5)[:, 0]
        return x + self._linear(f"{name}.to_out.0", attended).reshape(x.shape)

    def _linear(self, name: str, x: mx.array) -> mx.array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _conv(self, name: str, x: mx.array) -> mx.array:
        weight = self.weights[f"{name}.weight"]
        padding = weight.shape[1] // 2
        return mx.conv2d(x, weight, padding=padding) + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: mx.array) -> mx.array:
        """Group norm: mean and variance of each group of channels over the whole picture."""
        n, rows, columns, width = x.shape
        grouped = x.reshape(n, rows * columns, self.groups, width // self.groups)
        grouped = grouped.transpose(0, 2, 1, 3).reshape(n, self.groups, -1)
        grouped = mx.fast.layer_norm(grouped, None, None, EPS)
        grouped = grouped.reshape(n, self.groups, rows * columns, width // self.groups)
        x = grouped.transpose(0, 2, 1, 3).reshape(n, rows, columns, width)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
