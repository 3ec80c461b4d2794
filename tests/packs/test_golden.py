"""The bytes of mini-klein's packs, as they have been since the first version of the formats.

A change of these is a change of every pack that anybody makes: it needs a new format version.
"""

from __future__ import annotations

import hashlib

import pytest

from bonsai_quant import convert

SHA256 = {
    "ternary": {
        "bonsai/model.safetensors":
        "f26923d34bcdf18af1debb44dc7a66c6535c487db2f5466903932e67fd99c60f",
        "mlx/transformer-packed-mflux/diffusion_pytorch_model.safetensors":
        "4c421e3757c8524d1c2c8d22afd651963725ec591bb56ebbb11e4f09bf91440d",
    },
    "binary": {
        "bonsai/model.safetensors":
        "f89a5084d1f9ce45f1ed29bf22d25c548b8e7a62eab935a53fbc5c5fa3b0b100",
        "mlx/transformer-packed-mflux/diffusion_pytorch_model.safetensors":
        "49dfc7ff3cbd906e423fd1711fa00270e5f678e87e522576d24cb1be39fd2a77",
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", SHA256)
def test_mini_klein_gives_the_same_bytes_as_ever(mode, tmp_path):
    out = tmp_path / "packs"
    convert("mini-klein", mode=mode, formats="bonsai,mlx", out=out, transformer_only=True)
    found = {path: hashlib.sha256((out / path).read_bytes()).hexdigest() for path in SHA256[mode]}
    assert found == SHA256[mode]
