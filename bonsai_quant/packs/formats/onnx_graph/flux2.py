"""FLUX.2's transformer as diffusers computes it, operator by operator, in float32.

Text and picture each have their own weights in the double blocks and meet in the attention; in the
single blocks they are one sequence. The time moves and scales every layer's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.schema import PackInfo

from .angles import position_table, time_features
from .graph import MICROSOFT, Graph

LAST = np.iinfo(np.int64).max
DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
TIME = "time_guidance_embed.timestep_embedder"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a transformer. axes, theta: of its position ids.  rooms: channels in, of text, and out."""

    hidden: int
    head: int
    mlp: int
    time: int
    doubles: int
    singles: int
    rooms: tuple[int, int, int]
    axes: tuple[int, ...]
    theta: float
    eps: float

    @property
    def heads(self) -> int:
        """Of an attention."""
        return self.hidden // self.head


def sizes_of(info: PackInfo) -> Sizes:
    """From the shapes of a pack's tensors, and its config where they do not tell."""
    shapes, config = {t.linear: t.shape for t in info.tensors}, info.config
    hidden, channels = shapes["x_embedder"]
    return Sizes(
        hidden=hidden,
        head=shapes[f"{DOUBLE}.0.attn.norm_q"][0],
        mlp=shapes[f"{DOUBLE}.0.ff.linear_out"][1],
        time=shapes[f"{TIME}.linear_1"][1],
        doubles=config["num_layers"],
        singles=config["num_single_layers"],
        rooms=(channels, shapes["context_embedder"][1], shapes["proj_out"][0]),
        axes=tuple(config["axes_dims_rope"]),
        theta=config["rope_theta"],
        eps=config["eps"],
    )


class Transformer:
    """Adds the transformer to a graph. Values of the inputs have the names of the inputs."""

    def __init__(self, g: Graph, sizes: Sizes) -> None:
        self.g, self.sizes = g, sizes

    def build(self) -> str:
        """All of it; -> the name of the velocity [batch, image, channels]."""
        g, s = self.g, self.sizes
        time = self._time()
        image_mods = self._modulation("double_stream_modulation_img", time, 6)
        text_mods = self._modulation("double_stream_modulation_txt", time, 6)
        single_mods = self._modulation("single_stream_modulation", time, 3)
        ids = g.join(("txt_ids", "img_ids"), to="ids", axis=0)
        self.table = position_table(g, ids, s.axes, s.theta)
        self.place = g.constant("first_position", np.zeros(1, np.int64))
        self.n_text = g.op("Shape", "encoder_hidden_states", to="n_text", start=1, end=2)
        image = g.linear("x_embedder", "hidden_states")
        text = g.linear("context_embedder", "encoder_hidden_states")
        for k in range(s.doubles):
            image, text = self._double(f"{DOUBLE}.{k}", image, text, image_mods, text_mods)
        both = g.join((text, image), to="both", axis=1)
        for k in range(s.singles):
            both = self._single(f"{SINGLE}.{k}", both, single_mods)
        return self._last(self._image_part(both, "image"), time)

    def _time(self) -> str:
        """SiLU of the time's embedding [batch, hidden], which is all that is used of it."""
        g = self.g
        features = time_features(g, "timestep", self.sizes.time)
        inner = g.silu(g.linear(f"{TIME}.linear_1", features), "time.inner")
        return g.silu(g.linear(f"{TIME}.linear_2", inner), "time.embedding")

    def _modulation(self, name: str, time: str, n: int) -> list[str]:
        """n tensors [batch, 1, hidden]: shift, 1 + scale and gate, for each of n / 3 layers."""
        g = self.g
        flat = g.linear(f"{name}.linear", time)
        rows = g.op("Unsqueeze", flat, g.ints(1), to=f"{name}.rows")
        parts = g.split(rows, to=name, axis=2, sizes=(self.sizes.hidden,) * n)
        for k in range(1, n, 3):
            parts[k] = g.op("Add", parts[k], g.number(1.0), to=f"{name}.{k}.factor")
        return parts

    def _normed(self, x: str, mods: Sequence[str], to: str) -> str:
        """Normed without weights; mods: what is added then, and first the factor. -> like x."""
        g, s, (shift, factor) = self.g, self.sizes, mods
        ones = g.constant("ones", np.ones(s.hidden, np.float32))
        normed = g.op("LayerNormalization", x, ones, to=f"{to}.norm", axis=-1, epsilon=s.eps)
        return g.op("Add", g.op("Mul", normed, factor, to=f"{to}.scaled"), shift, to=to)

    def _head_normed(self, x: str, weight: str, to: str) -> str:
        """Each head divided by its root mean square: [batch, tokens, hidden]."""
        g, s = self.g, self.sizes
        heads = g.op("Reshape", x, g.ints(0, 0, s.heads, s.head), to=f"{to}.heads")
        square = g.op("Pow", heads, g.number(2.0), to=f"{to}.square")
        mean = g.op("ReduceMean", square, g.ints(-1), to=f"{to}.mean", keepdims=1)
        eps = g.op("Add", mean, g.number(s.eps), to=f"{to}.mean_eps")
        root = g.op("Sqrt", eps, to=f"{to}.root")
        normed = g.op("Div", heads, root, to=f"{to}.unit")
        weighted = g.op("Mul", normed, g.kept(weight), to=f"{to}.weighted")
        return g.op("Reshape", weighted, g.ints(0, 0, -1), to=to)

    def _attention(self, q: str, k: str, v: str, to: str) -> str:
        """Of all tokens to all, turned by their positions: [batch, tokens, hidden].

        Head by head: the scores of all heads would take 2 GB for a picture of 1,024 pixels. The
        operator MultiHeadAttention needs no more than this, and is no faster on a CPU; but on the
        one WebGPU device where it was tried it is off by 5 %.
        """
        g, s = self.g, self.sizes
        q, k = (
            g.op("RotaryEmbedding", x, self.place, *self.table, to=f"{x}.turned",
                 domain=MICROSOFT, interleaved=1)
            for x in (q, k)
        )  # fmt: skip
        q = g.op("Mul", q, g.number(s.head**-0.5), to=f"{to}.q")
        k = g.op("Transpose", k, to=f"{to}.k", perm=(0, 2, 1))
        each = (s.head,) * s.heads
        heads = []
        for n, (query, key, value) in enumerate(
            zip(
                g.split(q, to=f"{to}.q", axis=2, sizes=each),
                g.split(k, to=f"{to}.k", axis=1, sizes=each),
                g.split(v, to=f"{to}.v", axis=2, sizes=each),
                strict=True,
            )
        ):
            scores = g.op("MatMul", query, key, to=f"{to}.scores.{n}")
            shares = g.op("Softmax", scores, to=f"{to}.shares.{n}", axis=-1)
            heads.append(g.op("MatMul", shares, value, to=f"{to}.head.{n}"))
        return g.join(heads, to=to, axis=2)

    def _text_part(self, both: str, to: str) -> str:
        g = self.g
        return g.op("Slice", both, g.ints(0), self.n_text, g.ints(1), to=to)

    def _image_part(self, both: str, to: str) -> str:
        g = self.g
        return g.op("Slice", both, self.n_text, g.ints(LAST), g.ints(1), to=to)

    def _double(
        self, name: str, image: str, text: str, image_mods: Sequence[str], text_mods: Sequence[str]
    ) -> tuple[str, str]:
        g = self.g
        x = self._normed(image, image_mods[:2], f"{name}.norm1")
        c = self._normed(text, text_mods[:2], f"{name}.norm1_context")
        at, joined = f"{name}.attn", []
        for own, added in (("to_q", "add_q_proj"), ("to_k", "add_k_proj"), ("to_v", "add_v_proj")):
            pair = [g.linear(f"{at}.{added}", c), g.linear(f"{at}.{own}", x)]
            if (letter := own[-1]) != "v":
                pair = [
                    self._head_normed(y, f"{at}.norm_{kind}{letter}", f"{at}.{kind}{letter}")
                    for kind, y in zip(("added_", ""), pair, strict=True)
                ]
            joined.append(g.join(pair, to=f"{at}.{letter}.both", axis=1))
        q, k, v = joined
        both = self._attention(q, k, v, f"{at}.attended")
        text_out = g.linear(f"{at}.to_add_out", self._text_part(both, f"{at}.text"))
        image_out = g.linear(f"{at}.to_out.0", self._image_part(both, f"{at}.image"))
        image = self._gated(image, image_mods[2], image_out, f"{name}.image.attended")
        text = self._gated(text, text_mods[2], text_out, f"{name}.text.attended")
        return (
            self._feed(f"{name}.ff", image, image_mods[3:], f"{name}.image"),
            self._feed(f"{name}.ff_context", text, text_mods[3:], f"{name}.text"),
        )

    def _feed(self, name: str, x: str, mods: Sequence[str], to: str) -> str:
        g, s = self.g, self.sizes
        inner = g.linear(f"{name}.linear_in", self._normed(x, mods[:2], f"{name}.norm"))
        gate, value = g.split(inner, to=f"{name}.half", axis=2, sizes=(s.mlp, s.mlp))
        active = g.op("Mul", g.silu(gate, f"{name}.gate"), value, to=f"{name}.active")
        return self._gated(x, mods[2], g.linear(f"{name}.linear_out", active), to)

    def _gated(self, x: str, gate: str, change: str, to: str) -> str:
        g = self.g
        return g.op("Add", x, g.op("Mul", gate, change, to=f"{to}.gated"), to=to)

    def _single(self, name: str, x: str, mods: Sequence[str]) -> str:
        g, s = self.g, self.sizes
        at = f"{name}.attn"
        inner = g.linear(f"{at}.to_qkv_mlp_proj", self._normed(x, mods[:2], f"{name}.norm"))
        sizes = (s.hidden,) * 3 + (s.mlp,) * 2
        q, k, v, gate, value = g.split(inner, to=f"{at}.part", axis=2, sizes=sizes)
        q, k = (
            self._head_normed(y, f"{at}.norm_{letter}", f"{at}.{letter}")
            for letter, y in (("q", q), ("k", k))
        )
        attended = self._attention(q, k, v, f"{at}.attended")
        active = g.op("Mul", g.silu(gate, f"{at}.gate"), value, to=f"{at}.active")
        both = g.join((attended, active), to=f"{at}.joined", axis=2)
        return self._gated(x, mods[2], g.linear(f"{at}.to_out", both), name)

    def _last(self, image: str, time: str) -> str:
        g, s = self.g, self.sizes
        flat = g.linear("norm_out.linear", time)
        rows = g.op("Unsqueeze", flat, g.ints(1), to="norm_out.rows")
        scale, shift = g.split(rows, to="norm_out", axis=2, sizes=(s.hidden,) * 2)
        factor = g.op("Add", scale, g.number(1.0), to="norm_out.factor")
        return g.linear("proj_out", self._normed(image, (shift, factor), "norm_out.normed"))
