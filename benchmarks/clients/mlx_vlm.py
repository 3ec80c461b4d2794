"""mlx-vlm's own transformer for Bonsai Image, with our sizes in the place of Klein 4B's.

Where there is no Metal, its two kernels (norms and rotary positions of queries and keys) are
replaced by the same equations in MLX's own operations; all matrix products stay its own. And it
does not compile, which on a CPU takes minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.sampling import Latents, Velocity
from bonsai_quant.runners.tokens import position_ids, text_position_ids

PRECISION = {"ternary": "2bit", "binary": "1bit"}
TIME = "time_guidance_embed.timestep_embedder.linear_{}.weight"


def open_velocity(pack: Path) -> Velocity:
    """It computes in bf16, one picture at a time."""
    import mlx.core as mx

    model = _model(pack)

    def velocity(z: Latents, sigma: float, captions: np.ndarray) -> Latents:
        _, rows, columns, channels = z.shape
        where = position_ids(rows, columns, ()), text_position_ids(captions.shape[1])
        ids = [mx.array(i) for i in where]
        parts = []
        for one, caption in zip(z, captions, strict=True):
            flat = mx.array(one.reshape(1, -1, channels)).astype(mx.bfloat16)
            words = mx.array(caption[None]).astype(mx.bfloat16)
            v = model(flat, words, mx.array([sigma]).astype(mx.bfloat16), *ids)
            parts.append(np.array(v.astype(mx.float32)).reshape(rows, columns, channels))
        return np.stack(parts)

    return velocity


def _model(pack: Path) -> Any:
    """As its `load_transformer` makes one, which takes Klein 4B's sizes for granted."""
    import mlx.core as mx
    from mlx_vlm.models.bonsai import klein_fast

    if not mx.metal.is_available():
        _do_without_metal()
    info = open_pack(pack).info
    config, folder = info.config, klein_fast.find_packed_artifact_dir(pack)
    heads, width = config["num_attention_heads"], config["attention_head_dim"]
    spec = klein_fast.Flux2KleinMegakernelSpec(
        num_double_blocks=config["num_layers"], num_single_blocks=config["num_single_layers"],
        dim=heads * width, num_heads=heads, head_dim=width, mlp_ratio=config["mlp_ratio"],
        rope_theta=config["rope_theta"], axes_dims_rope=tuple(config["axes_dims_rope"]),
        in_channels=config["in_channels"], context_dim=config["joint_attention_dim"],
    )  # fmt: skip
    model = klein_fast.Flux2KleinFastTransformer(
        weights=klein_fast.load_klein_fast_packed_weights_from_disk(folder, spec),
        precision=PRECISION[info.mode], in_channels=spec.in_channels,
        num_layers=spec.num_double_blocks, num_single_layers=spec.num_single_blocks,
        attention_head_dim=width, num_attention_heads=heads, mlp_ratio=spec.mlp_ratio,
        joint_attention_dim=spec.context_dim, axes_dims_rope=spec.axes_dims_rope,
        rope_theta=spec.rope_theta,
    )  # fmt: skip
    stored = mx.load(str(folder / "diffusion_pytorch_model.safetensors"))
    for i in (1, 2):
        layer = getattr(model.time_guidance_embed, f"linear_{i}")
        layer.weight = stored[TIME.format(i)].astype(mx.bfloat16)
    return model


def _do_without_metal() -> None:
    import mlx.core as mx
    from mlx_vlm.models.bonsai.klein_fast import blocks

    mx.disable_compile()
    blocks._get_fused_single_norm_rope_kernel = lambda spec, tokens: _Single(spec)
    blocks._get_fused_double_norm_rope_kernel = lambda spec, *tokens: _Double(spec)


class _Single:
    """Queries, keys and values of a single block: [n, heads, tokens, width] in bf16."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __call__(self, inputs: list[Any], **_: Any) -> list[Any]:
        fused, norm_q, norm_k, cos, sin = inputs
        q, k, v = self.heads(fused)
        return self.turned([self.normed(q, norm_q), self.normed(k, norm_k)], cos, sin, v)

    def heads(self, fused: Any) -> list[Any]:
        """[n, tokens, at least 3 dim] -> three of [n, heads, tokens, width] in float32."""
        import mlx.core as mx

        n, tokens, _ = fused.shape
        parts = mx.split(fused[..., : 3 * self.spec.dim].astype(mx.float32), 3, axis=-1)
        return [p.reshape(n, tokens, self.spec.num_heads, -1).transpose(0, 2, 1, 3) for p in parts]

    def normed(self, x: Any, weight: Any) -> Any:
        """Root mean square norm of each head."""
        import mlx.core as mx

        return mx.fast.rms_norm(x, weight.astype(mx.float32), self.spec.rms_norm_eps)

    def turned(self, queries_keys: list[Any], cos: Any, sin: Any, v: Any) -> list[Any]:
        """Neighbouring channels turned by their position's angle."""
        import mlx.core as mx
        from mlx_vlm.models.bonsai.klein_fast.blocks import _apply_rope_bshd

        turned = [_apply_rope_bshd(x, cos, sin) for x in queries_keys]
        return [x.astype(mx.bfloat16) for x in (*turned, v)]


class _Double(_Single):
    """The same of a double block: first the caption's tokens, then the picture's."""

    def __call__(self, inputs: list[Any], **_: Any) -> list[Any]:
        import mlx.core as mx

        image, text, norm_q, norm_k, text_q, text_k, cos, sin = inputs
        (q, k, v), (tq, tk, tv) = self.heads(image), self.heads(text)
        pairs = ((self.normed(tq, text_q), self.normed(q, norm_q)),
                 (self.normed(tk, text_k), self.normed(k, norm_k)))  # fmt: skip
        both = [mx.concatenate(p, axis=2) for p in pairs]
        return self.turned(both, cos, sin, mx.concatenate((tv, v), axis=2))
