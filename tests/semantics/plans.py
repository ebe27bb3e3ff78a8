"""Random plans: for every group some width, and some indices of that many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.cut import Cut
from fxprune.groups import Group


def random_cut(groups: Sequence[Group], random: np.random.Generator) -> Cut:
    """Keep a random number of random indices of every group; nested groups choose anew for each outer index."""
    kept, outers = {}, {}
    for group in groups:
        width = int(random.integers(1, group.size + 1))
        if width == group.size:
            continue
        rows = 1 if group.outer is None else group.outer.size
        chosen = np.stack([np.sort(random.choice(group.size, width, replace=False)) for _ in range(rows)])
        kept[group.variable] = chosen[0] if group.outer is None else chosen
        if group.outer is not None:
            outers[group.variable] = group.outer
    return Cut(kept, outers)
