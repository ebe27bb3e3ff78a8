"""A local model of the costs that makes neighbouring candidates almost free to judge.

Around an anchor a, with D_g(k) the measured change in cost when only group g moves to level k, and P_gh the measured
interaction of a pair of groups per unit of their moves u_g(k) (proportional to the change in width),

    cost(x) = cost(a) + sum_g D_g(x_g) + sum_{g<h} P_gh u_g(x_g) u_h(x_h).

This is exact wherever terms are products of at most two groups' widths or a function of one: chains of convolutions,
residual streams, hidden features times neurons. For products of three and for peak memory it is an approximation, which
is why the anchor moves along with the search and every result is checked with the true costs. In units of the original
cost, so that metrics are comparable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fxprune.search.choices import Floats, Ints
from fxprune.search.interactions import pair_interactions
from fxprune.search.problem import CELLS_PER_BATCH, Problem


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The local model of one problem.

    Attributes:
        problem: what it models.
        scale: original cost, the unit of all below, `[metrics]`.
        limits: limits in these units, `[metrics]`.
        anchor: levels at which `single` was measured, `[groups]`.
        centre: cost at the anchor, `[metrics]`.
        single: change in cost when one group leaves the anchor, `[groups, levels, metrics]`.
        pair: interaction of two groups per unit move of both, `[metrics, groups, groups]`.
        move: units that a level lies away from the anchor, `[groups, levels]`.
    """

    problem: Problem
    scale: Floats
    limits: Floats
    anchor: Ints
    centre: Floats
    single: Floats
    pair: Floats
    move: Floats

    def moved_to(self, anchor: Ints) -> Surrogate:
        """Measure the single moves anew, around another anchor; interactions are kept."""
        centre, single = _measure_singles(self.problem, anchor)
        return replace(
            self,
            anchor=anchor,
            centre=centre / self.scale,
            single=single / self.scale,
            move=self.move - _pick(self.move, anchor)[:, None],
        )

    def field(self, levels: Ints) -> Floats:
        """Change in cost per unit move of each group that is due to the others' moves, `[groups, metrics]`."""
        return (self.pair @ _pick(self.move, levels)).T

    def changes(self, levels: Ints) -> Floats:
        """Change in cost of all single moves away from `levels`, `[groups, levels, metrics]`."""
        total = self.single + self.field(levels)[:, None, :] * self.move[:, :, None]
        return total - total[np.arange(len(levels)), levels][:, None, :]


def build_surrogate(problem: Problem, anchor: Ints) -> Surrogate:
    """Measure interactions at half width, single moves at the anchor."""
    base = problem.counts // 2
    probe = np.zeros_like(base)
    span = np.maximum(_pick(problem.widths, base) - problem.widths[:, 0], 1)
    full = problem.usage(problem.full[None])[0]
    scale = np.where(full > 0, full, 1.0)
    centre, single = _measure_singles(problem, anchor)
    return Surrogate(
        problem=problem,
        scale=scale,
        limits=problem.limits / scale,
        anchor=anchor,
        centre=centre / scale,
        single=single / scale,
        pair=pair_interactions(problem, base, probe) / scale[:, None, None],
        move=(problem.widths - _pick(problem.widths, anchor)[:, None]) / span[:, None],
    )


def _measure_singles(problem: Problem, anchor: Ints) -> tuple[Floats, Floats]:
    """Cost at the anchor, and its change for every single move; levels beyond a group's last repeat the last."""
    centre = problem.usage(anchor[None])[0]
    groups, levels = problem.widths.shape
    block = max(CELLS_PER_BATCH // (groups * levels), 1)
    starts = range(0, groups, block)
    usage = [_measure_block(problem, anchor, np.arange(start, min(start + block, groups))) for start in starts]
    return centre, np.concatenate(usage) - centre


def _measure_block(problem: Problem, anchor: Ints, groups: Ints) -> Floats:
    """Cost `[groups, levels, metrics]` with one of some groups at each of its levels, the others at the anchor."""
    levels = problem.widths.shape[1]
    rows = np.repeat(anchor[None], len(groups) * levels, axis=0)
    target = np.minimum(np.arange(levels), problem.full[groups, None])
    rows[np.arange(len(rows)), np.repeat(groups, levels)] = target.ravel()
    return problem.usage(rows).reshape(len(groups), levels, -1)


def _pick(table: Floats | Ints, levels: Ints) -> Floats:
    """One entry per group."""
    return np.asarray(table[np.arange(len(levels)), levels], dtype=np.float64)
