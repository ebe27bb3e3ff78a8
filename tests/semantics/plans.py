"""Random plans: for every group some width, and some indices of that many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.cut import Cut
from fxprune.groups import Group
from tests.randomgraphs.registry import Draw


def random_cut(groups: Sequence[Group], draw: Draw) -> Cut:
    """Keep a random number of random indices of every group; nested groups choose anew for each outer index."""
    kept, outers = {}, {}
    for group in groups:
        width = group.size - draw.between(0, group.size - 1)
        if width == group.size:
            continue
        rows = 1 if group.outer is None else group.outer.size
        chosen = np.array([draw.some(group.size, width) for _ in range(rows)], dtype=np.int64)
        kept[group.variable] = chosen[0] if group.outer is None else chosen
        if group.outer is not None:
            outers[group.variable] = group.outer
    return Cut(kept, outers)
