"""A pack that cannot be made again from a source: is it nevertheless a pack of that source?

Training moves codes and scales, so none can be expected to be what rounding gives. What it leaves
is likeness: of each layer, row, group and strip of columns with the source's own. See `limits` for
what was measured, and for what remains unseen.
"""

from .compare import Likeness, compare

__all__ = ["Likeness", "compare"]
