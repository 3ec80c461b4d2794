"""The models that can be trained: `small` on two cores in a few hours, `large` on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bonsai_quant.evaluation.scenes.world import LARGE, SMALL, World


@dataclass(frozen=True)
class Stage:
    """How long and how fast one part is trained. batch: samples in a step."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Size:
    """One model and its training.

    channels: of the autoencoder's blocks.  latents: its latent channels.
    words: longest prompt with its chat template, in tokens.  width: of the text encoder.
    heads, double, single: of the transformer; a head is 128 wide.
    scenes: pictures in the training set.  paths: of the teacher, from which the student learns.
    dev_captions: of each category, painted in every validation.
    """

    world: World
    channels: tuple[int, ...]
    norm_groups: int
    latents: int
    words: int
    width: int
    heads: int
    double: int
    single: int
    scenes: int
    paths: int
    dev_captions: int
    autoencoder: Stage
    decoder: Stage
    encoder: Stage
    teacher: Stage
    distill: Stage

    @property
    def joint(self) -> int:
        """Width of a text token as the transformer gets it: three layers side by side."""
        return 3 * self.width


SMALL_SIZE = Size(
    world=SMALL,
    channels=(12, 24, 48, 64),
    norm_groups=4,
    latents=16,
    words=20,
    width=64,
    heads=2,
    double=2,
    single=4,
    scenes=30_000,
    paths=5_120,
    dev_captions=25,
    autoencoder=Stage(3_600, 16, 1.5e-3),
    decoder=Stage(500, 16, 5e-4),
    encoder=Stage(500, 48, 2e-3),
    teacher=Stage(4_050, 128, 2e-3),
    distill=Stage(300, 128, 4e-4),
)

SIZES = {
    "small": SMALL_SIZE,
    "half": replace(SMALL_SIZE, double=1, single=2),
    "large": Size(
        world=LARGE,
        channels=(32, 64, 128, 128),
        norm_groups=8,
        latents=16,
        words=24,
        width=128,
        heads=3,
        double=2,
        single=6,
        scenes=400_000,
        paths=131_072,
        dev_captions=50,
        autoencoder=Stage(20_000, 64, 1e-3),
        decoder=Stage(4_000, 64, 3e-4),
        encoder=Stage(8_000, 256, 1e-3),
        teacher=Stage(60_000, 256, 1e-3),
        distill=Stage(6_000, 256, 2e-4),
    ),
}
"""`half` has half the packed weights of `small`: it tells whether `small` is too large."""
