"""FLOPs of `einsum`, which torch computes pair by pair.

Of the letters that neither the result nor a later operand has, those of size above 1 in both operands are contracted
by one batched product, the others are summed beforehand; with none to contract, the pair is multiplied element by
element, which the counter does not see. Pairs follow `path` (which torch takes from opt_einsum where that is
installed), each result going to the end; without one the operands are taken from left to right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from fxprune.costs.formulas import flops
from fxprune.costs.polynomial import ONE, Monomial, Shape, volume

Operand: TypeAlias = Mapping[str, Monomial]
"""Letter -> size."""


@flops(torch.ops.aten.einsum.default)
def einsum(
    _: Shape,
    equation: str,
    operands: Sequence[Shape],
    path: Sequence[int] | None = None,
    **__: Any,
) -> list[Monomial]:
    """The sum over pairs of 2 * sizes of all letters that take part."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    left_terms = left.split(",")
    waiting = [_name(term, shape) for term, shape in zip(left_terms, operands, strict=True)]
    wanted = set(_letters(right, max(map(len, operands)))) if arrow else _implicit(waiting, left)
    found = list[Monomial]()
    for first, second in _pairs(len(operands), path):
        pair = [waiting.pop(at) for at in sorted((first, second), reverse=True)]
        cost, result = _contract(pair[1], pair[0], wanted.union(*waiting))
        waiting.insert(len(waiting) if path else 0, result)
        found.extend(cost)
    return found


def _contract(left: Operand, right: Operand, needed: set[str]) -> tuple[list[Monomial], Operand]:
    """FLOPs of one pair, and what it leaves."""
    letters = {**left, **right}
    sizes = {letter: _wider(left.get(letter, ONE), right.get(letter, ONE)) for letter in letters}
    result = {letter: size for letter, size in sizes.items() if letter in needed}
    contracted = [
        size
        for letter, size in sizes.items()
        if letter not in needed and not left.get(letter, ONE).is_one and not right.get(letter, ONE).is_one
    ]
    return ([2 * volume([*result.values(), *contracted])] if contracted else []), result


def _wider(left: Monomial, right: Monomial) -> Monomial:
    return right if left.is_one else left


def _pairs(count: int, path: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Positions of the operands to contract next."""
    for step in range(count - 1):
        yield (path[2 * step], path[2 * step + 1]) if path else (0, 1)


def _name(term: str, shape: Shape) -> Operand:
    """Sizes by letter; the dimensions of an ellipsis are numbered from the right."""
    return dict(zip(_letters(term, len(shape)), shape, strict=True))


def _letters(term: str, rank: int) -> list[str]:
    """Letters of a term; an ellipsis stands for as many dimensions as the rank leaves."""
    before, ellipsis, after = term.partition("...")
    covered = rank - len(before) - len(after) if ellipsis else 0
    return [*before, *(f".{at}" for at in range(covered, 0, -1)), *after]


def _implicit(operands: Sequence[Operand], left: str) -> set[str]:
    """Without an arrow the result has the letters that occur once, and the ellipsis."""
    return {letter for operand in operands for letter in operand if letter.startswith(".") or left.count(letter) == 1}
