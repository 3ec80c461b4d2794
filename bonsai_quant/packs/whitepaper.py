"""What the whole deployments of FLUX.2 Klein 4B take, as its whitepaper says, beside a plan's."""

from __future__ import annotations

from collections.abc import Iterable

BASE = "flux2-klein-4b"
TEXT_ENCODER = {"mlx": 2.28, "gemlite": 2.84}
VAE = 0.17
TRANSFORMER = {
    ("binary", "mlx"): 0.97,
    ("ternary", "mlx"): 1.43,
    ("binary", "gemlite"): 1.08,
    ("ternary", "gemlite"): 1.54,
}
TOTAL = {
    ("binary", "mlx"): 3.42,
    ("ternary", "mlx"): 3.88,
    ("binary", "gemlite"): 4.09,
    ("ternary", "gemlite"): 4.55,
}
"""Table 2, in 10^9 bytes."""
FOLDERS = {"transformer-": "transformer", "text_encoder": "text encoder", "tokenizer": "tokenizer",
           "vae": "VAE"}  # fmt: skip
OTHERS = "other files"


def beside_published(
    mode: str, format_name: str, files: Iterable[tuple[str, int]]
) -> list[tuple[str, int, float | None]]:
    """Part, bytes, and 10^9 bytes as published (None where nothing is); the last is the total.

    files: path in the pack's folder, and bytes.
    """
    sums = dict.fromkeys((*FOLDERS.values(), OTHERS), 0)
    for path, size in files:
        part = next((name for start, name in FOLDERS.items() if path.startswith(start)), OTHERS)
        sums[part] += size
    said = {"transformer": TRANSFORMER[mode, format_name], "VAE": VAE}
    said["text encoder"] = TEXT_ENCODER[format_name]
    rows = [(part, size, said.get(part)) for part, size in sums.items() if size]
    return [*rows, ("total", sum(sums.values()), TOTAL[mode, format_name])]


WHITEPAPER = {
    "ternary": {"bonsai": 1.21, "mlx": 1.43, "gemlite": 1.54},
    "binary": {"bonsai": 0.93, "mlx": 0.97, "gemlite": 1.08},
}
"""Sizes of the released transformers in GB; `bonsai`: the ideal of codes and scales alone."""
WHITEPAPER_BASE = "flux2-klein-4b"
