"""Made-up models for the search: costs that are sums of products of widths, and peak memory as a maximum of such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxprune.search import Choices

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """Sum of `coefficient * w_a * w_b * w_c`; a factor -1 means 1."""

    coefficients: Floats
    factors: Ints

    def of(self, padded: Floats) -> Floats:
        """Each term for each row of widths, which end in a column of ones."""
        product = padded[:, self.factors[:, 0]]
        for column in range(1, self.factors.shape[1]):
            product = product * padded[:, self.factors[:, column]]
        result: Floats = product * self.coefficients
        return result


@dataclass(frozen=True)
class SyntheticCosts:
    """Costs as the search expects them."""

    groups: tuple[str, ...]
    sizes: Ints
    flops: Terms
    params: Terms
    activations: Terms

    def evaluate(self, widths: Ints, metrics: Sequence[str] = ("flops", "params", "memory")) -> dict[str, Floats]:
        """Evaluate some of the metrics."""
        padded = np.concatenate([widths, np.ones((len(widths), 1))], axis=1).astype(np.float64)
        result = {}
        if "flops" in metrics:
            result["flops"] = self.flops.of(padded).sum(axis=1)
        if "params" in metrics or "memory" in metrics:
            result["params"] = self.params.of(padded).sum(axis=1)
        if "memory" in metrics:
            result["memory"] = 4 * (result["params"] + self.activations.of(padded).max(axis=1))
        return {metric: result[metric] for metric in metrics}


def make_model(seed: int, groups: int, levels: int, *, cubic: bool = False) -> tuple[SyntheticCosts, list[Choices]]:
    """A chain of layers with a residual stream through all of it, and losses that look like retained energy."""
    random = np.random.default_rng(seed)
    sizes = random.choice([8, 16, 32, 64], groups) * levels
    resolution = np.sort(random.choice([1, 4, 16, 64], groups))[::-1]
    kernel = random.choice([1, 9], groups)
    stream = int(random.integers(groups))
    chain = np.stack([np.arange(groups - 1), np.arange(1, groups), np.full(groups - 1, -1)], axis=1)
    ends = np.array([[0, -1, -1], [groups - 1, -1, -1]])
    square = np.array([[stream, stream, -1]])
    through = np.array([[g, stream, -1] for g in range(groups) if g != stream and random.random() < 0.3]).reshape(-1, 3)
    triple = np.array([[g, g + 1, stream] for g in range(0, groups - 1, 3)] if cubic else []).reshape(-1, 3)
    factors = np.concatenate([chain, ends, square, through, triple]).astype(np.int64)
    weight = random.choice([1.0, 9.0], len(factors))
    weight[len(factors) - len(triple) :] /= 64
    constant = np.array([[-1, -1, -1]])
    owner = np.maximum(factors[:, 0], 0)
    flops = Terms(np.append(2 * weight * resolution[owner] * kernel[owner], 1000), np.concatenate([factors, constant]))
    params = Terms(np.append(weight * kernel[owner], 500), np.concatenate([factors, constant]))
    activations = Terms(resolution[chain[:, 0]].astype(float) * 64, chain[:, [0, 2, 2]])
    names = tuple(f"layer{g}" for g in range(groups))
    costs = SyntheticCosts(names, sizes.astype(np.int64), flops, params, activations)
    return costs, [_make_choices(random, name, int(size), levels) for name, size in zip(names, sizes, strict=True)]


def _make_choices(random: np.random.Generator, name: str, size: int, levels: int) -> Choices:
    energy = np.sort(random.gamma(random.uniform(0.1, 3), size=size))[::-1] * random.uniform(0.1, 2)
    widths = np.arange(1, levels + 1, dtype=np.int64) * (size // levels)
    loss = -np.log(np.cumsum(energy)[widths - 1] / energy.sum()) * random.uniform(0.2, 5)
    loss = np.maximum.accumulate(np.maximum(loss, 0)[::-1])[::-1].copy()
    loss[-1] = 0
    return Choices(name, widths, loss)


def make_steep(seed: int, choices: list[Choices]) -> list[Choices]:
    """Losses that fall in random, unequal steps: far from convex."""
    random = np.random.default_rng(seed)
    powers = random.choice([1, 4, 16], len(choices))
    steps = [
        np.sort(random.random(len(choice.widths) - 1) ** power)[::-1]
        for choice, power in zip(choices, powers, strict=True)
    ]
    return [
        Choices(choice.group, choice.widths, np.append(step, 0.0)) for choice, step in zip(choices, steps, strict=True)
    ]


def brute_force(costs: SyntheticCosts, limits: dict[str, float], choices: list[Choices]) -> float:
    """Least loss of all combinations, or infinity."""
    counts = [len(choice.widths) for choice in choices]
    best, total = np.inf, int(np.prod(counts))
    for start in range(0, total, 1 << 15):
        levels = np.stack(np.unravel_index(np.arange(start, min(start + (1 << 15), total)), counts), axis=1)
        loss = np.sum([choice.loss[levels[:, g]] for g, choice in enumerate(choices)], axis=0)
        promising = loss < best
        widths = np.stack([choice.widths[levels[promising, g]] for g, choice in enumerate(choices)], axis=1)
        usage = costs.evaluate(widths, tuple(limits))
        fits = np.all([usage[metric] <= limit for metric, limit in limits.items()], axis=0)
        best = min(best, loss[promising][fits].min(initial=np.inf))
    return float(best)


def total_loss(choices: list[Choices], widths: dict[str, int]) -> float:
    """Sum of the losses at the chosen widths."""
    return float(sum(c.loss[np.searchsorted(c.widths, widths[c.group])] for c in choices))
