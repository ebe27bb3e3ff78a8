"""Magnitude: an index is worth the squared L2 norm of its slices over all coupled parameters.

    importance_g(i) = sum over parameters w coupled in g of ||w[.., i, ..]||^2,   scaled to mean 1 within each group

Group norms over coupled parameters: DepGraph (Fang et al., CVPR 2023), equation 5, with p = 2. The squares are kept,
since sums of them over cut and kept indices are energies, which the search compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fxprune.errors import InputError
from fxprune.indexing import sum_by_index
from fxprune.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fxprune.groups import Group
    from fxprune.scorer import Context


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Scores by the norm of the weights; needs nothing but the model."""

    name: str = "magnitude"
    needs: frozenset[str] = field(default=frozenset())
    streams: ClassVar[bool] = True

    def score(self, context: Context) -> Scores:
        """Importance of every index of every group."""
        return Scores(self.name, {group.name: group_energies(context, group) for group in context.groups})


def group_energies(context: Context, group: Group) -> NDArray[np.float64]:
    """Squared norm per index over all coupled parameters, scaled to mean 1: float64 [size] or [outer size, size]."""
    shape = group.shape
    total = np.zeros(shape)
    for name, (tensor, axes) in context.parameters_of(group).items():
        if not tensor.isfinite().all():
            msg = f"parameter {name!r} holds values that are not finite; fxprune cannot tell what to keep"
            raise InputError(msg)
        total += sum_by_index(tensor.detach().float().square(), axes, group).cpu().numpy()
    mean = total.mean()
    return total / mean if mean > 0 else np.ones(shape)
