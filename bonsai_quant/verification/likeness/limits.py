"""What is still likeness, with the figures that the limits come from.

Measured against mini-klein on the two packs that ship, trained ternary and binary ones, and on
packs that `exact` and `gptq` rounded. `Worst` is the worst of them all, over 32 packed layers,
17,000 rows and 53,248 groups each. The limits lie between that and what damage leaves.

`tests/verification/test_trained_layers.py` plants faults in every layer and counts what is found.
Not seen, since trained packs have as much of it themselves: codes of a binary layer changed at
random, below about 20 % of them; a single group whose codes are noise, or which is switched off;
single columns that change places.
"""

from __future__ import annotations

LEAST_COSINE = 0.3
"""Of a packed layer. Worst: 0.41. Another layer: 0.0."""
LEAST_KEPT_COSINE = 0.9
"""Of a kept matrix. Worst: 0.976."""
KEPT_SIZE = (0.8, 1.25)
"""How large a kept matrix may be beside the source's. Worst: 0.99 and 1.06."""
LEAST_KEPT_ROW = 0.5
"""Cosine of a row of a kept matrix. Worst: 0.875."""
KEPT_ROW_SIZE = (0.5, 2.0)
"""How large a row of a kept matrix may be beside the source's. Worst: 0.875 and 1.27."""
LARGEST_KEPT_ERROR = 0.2
"""Relative error of a kept vector. Worst: 0.07."""
LEAST_KEPT_CORRELATION = 0.6
"""Of a kept vector without its mean, if it varies by more than 2 %. Worst: 0.915."""

SHARE = (0.45, 1.1)
"""Share of the source in a layer, <pack, source> / <source, source>: its median over the layers.

Worst: 0.60 and 0.83. Rounding alone leaves the squared cosine. Scales of half the size halve it.
"""
LAYER_SHARE = (0.65, 1.3)
"""The same of one layer, over the median. Worst: 0.77 and 1.11."""

STRIP = 16
"""Columns of a strip."""
LEAST_STRIP_COSINE = 0.15
"""Of a strip. Worst: 0.285. Strips that changed places: 0.0."""

LEAST_ROW_COSINE = 0.1
"""Of a row of 256 weights and more. Worst: 0.193. Noise: 0.0, 0.06 up or down."""
LEAST_ROW_SIZE = 0.2
"""How large a row must be beside the source's. Worst: 0.415."""
LEAST_ROW_SCALE = 0.78
"""A row's scales over what its codes ask for, beside the lowest rows of its layer. Worst: 0.865.

Training makes scales larger than what fits the source best, by the same factor in most rows. With
scales of half the size a row is below the limit in 99 % of the rows of the median ternary layer
(72 % in the worst one), and in 87 % of the binary one (31 %).
"""
LOWEST_ROWS = (0.01, 24)
"""The lowest rows: this share of them, but not more than so many."""

SUSPECT = 0.3
"""A row or group with a lower cosine is compared with all others of its layer."""
ROW_MARGIN, GROUP_MARGIN = 0.15, 0.1
"""How much more it must resemble another one than random ones by chance. Worst: 0.065, 0.04."""
OPPOSITE_GROUP = -0.3
"""Cosine of a group that is no longer the source's. Worst: -0.04, in one that is nearly off."""
OFF = 0.3
"""A group smaller than this, beside the source's, is switched off: its codes say nothing."""
MOST_OFF = 0.01
"""Share of a layer's groups that may be switched off. Worst: 1 group of a layer, 0.2 %."""
LARGEST_GROUP = 10.0
"""How large a group may be beside the source's, over the layer's median. Worst: 4.5."""

SMALLEST_GROUP, SMALL_COSINE = 0.15, 0.45
"""A smaller group whose codes are nevertheless like the source's has a wrong scale.

Worst: 0.26 with such codes; 0.16 with a cosine of -0.04, as training leaves what it switches off.
"""

LEAST_SCALE_ORDER = 0.2
"""Correlation of the logarithms of scales with the source's sizes, or with their row's others.

The larger of the two. Worst: 0.36. Scales that were shuffled, or are all the same: 0.0, 0.05 up
or down.
"""
LARGE = 2.0
"""Weights of the source beyond so many deviations of their group are large: 4.3 % and more."""
MOST_ZERO = 0.08
"""Share of large weights whose code is zero. Worst: 0.055. 10 % of zeros make it 0.1 and more."""
MOST_OPPOSITE = {"ternary": 0.0035, "binary": 0.15}
"""Share of large weights whose sign is the opposite. Worst: 0.0024 and 0.084.

1 % of a layer's ternary codes changed at random make it 0.005 and more. A binary layer has too
many of its own for that.
"""
OPPOSITE_FOR_ZERO = 0.15
"""So much of the share of zeros beyond 4 % may be opposite, too: layers far from the source have
more of both. Worst: 0.0050 opposite at 0.055 zero, where 0.0057 are allowed."""
MOST_BALANCE = 0.03
"""How far the mean sign of a layer's codes may be from that of the source's. Worst: 0.012."""
