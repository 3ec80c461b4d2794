"""Paint one prompt with three packs that ship with the package or are made here, from one seed.

Writes ./circle-*.png and ./rounded. Needs `pip install -e '.[run]'`.
"""

from bonsai_quant import convert, generate

PROMPT = "a red circle left of a blue square"

convert("mini-klein", mode="ternary", formats="bonsai", out="rounded")

models = {
    "source": "mini-klein",  # full precision
    "rounded": "rounded",  # codes as near to the weights as they can be
    "trained": "mini-klein-ternary",  # codes that were trained afterwards
}
for name, place in models.items():
    painted = generate(place, [PROMPT], out=f"circle-{name}.png", seeds=[0])
    seconds = sum(stage.seconds for stage in painted.stages)
    print(f"{painted.pictures[0].path}: {seconds:.1f} s with {painted.runner}")
