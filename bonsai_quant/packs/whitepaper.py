"""What the whole deployments of FLUX.2 Klein 4B take, as its whitepaper says, beside a plan's."""

from __future__ import annotations

from collections.abc import Iterable

BASE = "flux2-klein-4b"
IDEAL = {"ternary": 1.21, "binary": 0.93}
"""10^9 bytes of a transformer, as the ideal of codes and scales alone."""
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


def transformer_size(base: str, mode: str, format_name: str) -> float | None:
    """10^9 bytes of the released transformer in a format; of `bonsai`, the ideal. None: unknown."""
    if base != BASE:
        return None
    return IDEAL.get(mode) if format_name == "bonsai" else TRANSFORMER.get((mode, format_name))


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
    published = {"transformer": TRANSFORMER[mode, format_name], "VAE": VAE}
    published["text encoder"] = TEXT_ENCODER[format_name]
    rows = [(part, size, published.get(part)) for part, size in sums.items() if size]
    return [*rows, ("total", sum(sums.values()), TOTAL[mode, format_name])]
