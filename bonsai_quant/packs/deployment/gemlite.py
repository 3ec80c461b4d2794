"""A Gemlite deployment: the text encoder in HQQ's 4 bits where hqq can make it, else in 16."""

from __future__ import annotations

import logging
import math

from bonsai_quant.core import requirements as needs
from bonsai_quant.sources.components import Components, TextEncoder

from .contents import Deployment, MadeEncoder, encoder_files, in_16_bits, index
from .scheme import GROUP

FOLDER = "text_encoder-hqq-4bit"
OF_AN_ARRAY = 330
"""Bytes that each stored array takes in the file beside its data, about."""

log = logging.getLogger(__name__)


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer-gemlite-int2/` or `-int1/`."""
    copies = {f.name: f for part in ("", "vae") for f in parts.of(part)}
    small, words = index(parts, always=True), parts.of("tokenizer")
    if problem := needs.missing(needs.HQQ):
        log.warning(
            "%s: the text encoder of the gemlite pack stays in 16 bits -> %s",
            problem, needs.install("gemlite"),
        )  # fmt: skip
        encoder, config, others = in_16_bits(parts)
        copies |= {f.name: f for f in (*others, *words)}
        return Deployment(copies, small | config, encoder)
    copies |= {f"{FOLDER}/{f.name}": f for f in words}
    path, size = f"{FOLDER}/qmodel.pt", expected_size(parts.encoder)
    return Deployment(copies, small, MadeEncoder(
        scheme=None, path=path, size=size, encoder=parts.encoder, files=encoder_files(parts),
    ))  # fmt: skip


def expected_size(encoder: TextEncoder) -> int:
    """About what hqq's file takes: linears in 4 bits with two halves per group, the rest in 16."""
    total = 0
    for t in encoder.tensors:
        n = math.prod(t.spec.shape)
        packed = len(t.spec.shape) == 2 and "layers." in t.spec.name
        total += n // 2 + n // GROUP * 4 if packed else 2 * n
        total += OF_AN_ARRAY * (3 if packed else 1)
    return total
