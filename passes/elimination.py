"""Structured optimal brain surgeon: which inputs a layer can do without, once the others make up for them.

A problem is a layer with weights W [d, o] and the centred Gram matrix of its inputs, damped in proportion to each input's
own energy, H = S + ridge * diag(S): inputs a thousand times larger beside it change nothing. Removing the rows B that
belong to one index, with the best correction of all others, costs exactly

    cost(B) = tr( W_B^T [H^-1]_BB^-1 W_B )

and leaves the problem

    W <- W - H^-1_:B [H^-1]_BB^-1 W_B,      H^-1 <- H^-1 - H^-1_:B [H^-1]_BB^-1 H^-1_B:

so that costs of removals add up to the squared error of the best correction for all that is removed. Several layers that
read the same indices are several problems whose costs are added. Indices are removed greedily; of a wide group several at
once: they are picked one after the other among the cheapest, with exact updates among these, and then eliminated
together.

Sources: Optimal Brain Surgeon (Hassibi and Stork 1993), its structured form in ZipLM (Kurtic et al., NeurIPS 2023), batched
updates as in GPTQ (Frantar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.passes.least_squares import factor

ROUNDS = 96
"""About how many rounds a group is removed in; wider groups lose several indices in each."""
CANDIDATES = 4
"""How many times as many indices as are removed in a round are looked at with exact updates."""

SMALL = 1024
"""Rows of a matrix that counts as small: removing one of its indices costs less than waiting for a GPU."""

DEAD = 1e-10
"""Energy, relative to the mean, that an input counts as having at least."""


@dataclass(slots=True)
class Problem:
    """One layer's inputs, what is left of them.

    Attributes:
        inverse: inverse of the damped Gram matrix, float64 [d, d].
        weight: float64 [d, o], scaled so that squared errors are what is to be added up.
        labels: index to which each row belongs, -1 for none; int64 [d].
    """

    inverse: Tensor
    weight: Tensor
    labels: Tensor

    @classmethod
    def of(cls, gram: Tensor, weight: Tensor, labels: Tensor, ridge: float) -> Problem:
        """From a Gram matrix."""
        return cls(torch.cholesky_inverse(factor(damped(gram, ridge)[None], 0.0))[0], weight.clone(), labels)

    def part(self, labels: Tensor) -> Problem:
        """The rows of some indices, as a problem of its own that is exact as long as only those are removed."""
        rows = torch.isin(self.labels, labels).nonzero()[:, 0]
        return Problem(self.inverse[rows][:, rows].clone(), self.weight[rows].clone(), self.labels[rows])

    def costs(self, count: int) -> Tensor:
        """Cost of removing each index, 0 where it has no row: [count]."""
        total = torch.zeros(count, dtype=torch.float64, device=self.weight.device)
        order = torch.argsort(self.labels, stable=True)
        order = order[self.labels[order] >= 0]
        found, sizes = torch.unique_consecutive(self.labels[order], return_counts=True)
        starts = sizes.cumsum(0) - sizes
        for size in sizes.unique().tolist():
            same = sizes == size
            rows = order[starts[same][:, None] + torch.arange(size, device=order.device)]
            total[found[same]] = self._block_costs(rows)
        return total

    def _block_costs(self, rows: Tensor) -> Tensor:
        """tr(W_B^T [H^-1]_BB^-1 W_B) for each row of [blocks, size]."""
        if rows.shape[1] == 1:
            rows = rows[:, 0]
            return self.weight[rows].square().sum(1) / self.inverse.diagonal()[rows]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        factors = factor(blocks, 0.0)
        whitened: Tensor = torch.linalg.solve_triangular(factors, self.weight[rows], upper=False)
        return whitened.square().sum((1, 2))

    def remove(self, labels: Tensor) -> None:
        """Eliminate all rows of some indices, and forget them."""
        gone = torch.isin(self.labels, labels)
        if not gone.any():
            return
        left = self.inverse[~gone][:, gone]
        solved = torch.cholesky_solve(left.T, factor(self.inverse[gone][:, gone][None], 0.0)[0])  # [B, rest]
        self.weight = self.weight[~gone] - solved.T @ self.weight[gone]
        self.inverse = self.inverse[~gone][:, ~gone] - left @ solved
        self.labels = self.labels[~gone]


@dataclass(frozen=True, slots=True)
class Elimination:
    """In which order indices go, and what that costs.

    Attributes:
        order: indices in the order of their removal: int64 [outer size, size], one row for each outer index.
        widths: numbers of indices (of each outer one) kept, descending from the size.
        errors: accumulated cost at each width.
    """

    order: Tensor
    widths: tuple[int, ...]
    errors: tuple[float, ...]


def eliminate(problems: Sequence[Problem], size: int, rows: int = 1, rounds: int = ROUNDS) -> Elimination:
    """Remove indices until one is left.

    Args:
        problems: consumed: emptied on the way. Labels are `row * size + index`.
        size: number of indices in each row.
        rows: number of rows, which lose equally many in every round.
        rounds: about how many rounds; more are more exact.
    """
    problems, quota = _settled(problems), max(1, -(-size // rounds))
    order: list[list[int]] = [[] for _ in range(rows)]
    alive = torch.ones(rows * size, dtype=torch.bool, device=problems[0].weight.device)
    widths, errors, left, error = [size], [0.0], size, 0.0
    while left > 1:
        count = min(quota, left - 1)
        picked, cost = _pick(problems, alive, size, rows, count)
        for label in picked:
            order[label // size].append(label % size)
            alive[label] = False
        gone = torch.tensor(picked, device=alive.device)
        for problem in problems:
            problem.remove(gone)
        left, error = left - count, error + cost
        widths.append(left)
        errors.append(error)
    for label in alive.nonzero()[:, 0].tolist():
        order[label // size].append(label % size)
    return Elimination(torch.tensor(order), tuple(widths), tuple(errors))


def _settled(problems: Sequence[Problem]) -> Sequence[Problem]:
    """On the CPU where all matrices are small: there a removal ends before a GPU would have begun with it."""
    if max(len(problem.inverse) for problem in problems) > SMALL:
        return problems
    return [Problem(each.inverse.cpu(), each.weight.cpu(), each.labels.cpu()) for each in problems]


def _pick(problems: Sequence[Problem], alive: Tensor, size: int, rows: int, count: int) -> tuple[list[int], float]:
    """`count` indices of each row, one after the other, with exact updates among the cheapest ones."""
    costs = _total(problems, alive).reshape(rows, size)
    wanted = min(CANDIDATES * count, size)
    labels = torch.topk(costs, wanted, dim=1, largest=False, sorted=True).indices
    labels = (labels + torch.arange(rows, device=alive.device)[:, None] * size).flatten()
    labels = labels[alive[labels]]
    parts = _settled([problem.part(labels) for problem in problems])
    labels, open_ = labels.to(parts[0].weight.device), torch.zeros_like(alive, device=parts[0].weight.device)
    open_[labels] = True
    picked: list[int] = []
    spent, cost = [0] * rows, 0.0
    for _ in range(count * rows):
        costs = _total(parts, open_)
        best = int(costs.argmin())
        picked.append(best)
        cost += max(float(costs[best]), 0.0)
        open_[best] = False
        spent[best // size] += 1
        if spent[best // size] == count:
            open_[best // size * size : (best // size + 1) * size] = False
        for part in parts:
            part.remove(torch.tensor([best], device=open_.device))
    return picked, cost


def _total(problems: Sequence[Problem], alive: Tensor) -> Tensor:
    """Sum of costs over all problems, infinite for what may not be removed."""
    total = torch.zeros(len(alive), dtype=torch.float64, device=alive.device)
    for problem in problems:
        total += problem.costs(len(alive))
    return torch.where(alive, total, torch.inf)


def corrected(gram: Tensor, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The weights that best replace all rows by those kept, zero for the others: [d, o].

    Args:
        gram: centred Gram matrix [d, d].
        weight: [d, o].
        kept: bool [d].
        ridge: relative to each input's energy; pulls towards the weights that are there.
    """
    found = torch.zeros_like(weight)
    cross = gram[kept][:, ~kept] @ weight[~kept]
    found[kept] = weight[kept] + torch.cholesky_solve(cross, factor(damped(gram[kept][:, kept], ridge)[None], 0.0)[0])
    return found


def damped(gram: Tensor, ridge: float) -> Tensor:
    """A Gram matrix [d, d] with its diagonal raised in proportion, by a little of the mean where an input is always zero."""
    diagonal = gram.diagonal()
    return gram + ridge * torch.diag(diagonal + DEAD * diagonal.mean())
