"""A random module from a seed: blocks drawn from the registry, applied to values drawn from those made before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tests.randomgraphs import (
    attention,
    channels,
    experts,
    images,
    joins,
    mixers,
    moves,
    operations,
    positions,
    recurrent,
    stages,
    tokens,
    weights,
)
from tests.randomgraphs.initialise import randomise
from tests.randomgraphs.kinds import Ids, Image, Kind, Tokens, Vector, example
from tests.randomgraphs.outputs import make_outputs
from tests.randomgraphs.registry import BLOCKS, Block, Draw, Seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

FAMILIES = (
    attention,
    channels,
    experts,
    images,
    joins,
    mixers,
    moves,
    operations,
    positions,
    recurrent,
    stages,
    tokens,
    weights,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One block and the values that it is applied to, by number."""

    name: str
    sources: tuple[int, ...]
    kind: Kind


class RandomModule(nn.Module):
    """Blocks applied in order; each may take any value made before it.

    Attributes:
        seed: what it was made from; None where something else than a seed made it.
        inputs: the kinds of the inputs, which are the first values.
        steps: which block makes each further value, and from what.
        form: how outputs are returned: one tensor, a tuple or a dict.
    """

    def __init__(
        self,
        seed: int | None,
        inputs: Sequence[Kind],
        steps: Sequence[Step],
        blocks: Sequence[nn.Module],
        outputs: Sequence[int],
        form: str,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.inputs = tuple(inputs)
        self.steps = tuple(steps)
        self.blocks = nn.ModuleDict({self.label(position): each for position, each in enumerate(blocks)})
        self.outputs = tuple(outputs)
        self.form = form

    def label(self, position: int) -> str:
        """The name of the block that makes a value."""
        return f"v{position + len(self.inputs)}_{self.steps[position].name}"

    def forward(self, *inputs: Tensor) -> Any:
        """All values in order, and of them the outputs."""
        values = list(inputs)
        for step, module in zip(self.steps, self.blocks.values(), strict=True):
            values.append(module(*(values[source] for source in step.sources)))
        results = [values[position] for position in self.outputs]
        if self.form == "dict":
            return {f"output_{position}": result for position, result in enumerate(results)}
        return results[0] if self.form == "tensor" else tuple(results)

    def describe(self) -> str:
        """The module in one line, with the seed that makes it again."""
        taken = ", ".join(f"v{position}: {kind}" for position, kind in enumerate(self.inputs))
        made = "; ".join(
            f"v{position} = {step.name}({', '.join(f'v{source}' for source in step.sources)})"
            for position, step in enumerate(self.steps, start=len(self.inputs))
        )
        returned = ", ".join(f"v{position}" for position in self.outputs)
        made_by = "" if self.seed is None else f"random_module({self.seed}): "
        return f"{made_by}{taken}; {made}; return {self.form} {returned}"


def random_module(
    seed: int, *, size: int | None = None, only: Sequence[str] | None = None
) -> tuple[RandomModule, tuple[Tensor, ...]]:
    """A module and inputs for it, float64, in eval mode; the same for the same arguments, always.

    Args:
        seed: any integer that is not negative.
        size: how many blocks lie between inputs and outputs; drawn if None.
        only: names of the blocks to draw from; all if None.
    """
    return module_and_inputs(Draw(Seeded(seed)), seed, size=size, only=only)


def module_and_inputs(
    draw: Draw, seed: int | None = None, *, size: int | None = None, only: Sequence[str] | None = None
) -> tuple[RandomModule, tuple[Tensor, ...]]:
    """As ``random_module``, from any dice; numbers come from the seed, the structure from the dice."""
    generator = torch.Generator().manual_seed((seed or 0) % 2**63)
    with torch.random.fork_rng(devices=[]):
        module = drawn_module(draw, seed, size or draw.between(1, 6), only or sorted(BLOCKS, key=simple_first))
    module = module.double().eval()
    randomise(module, generator)
    return module, tuple(example(kind, generator) for kind in module.inputs)


SIMPLE = ("dense", "linear", "conv", "head_scale", "slice_channels")
"""Blocks that a counterexample shrinks towards."""


def simple_first(name: str) -> tuple[bool, str]:
    """Sort key of blocks."""
    return name not in SIMPLE, name


def dynamic_batch(inputs: Sequence[Tensor]) -> tuple[tuple[dict[int, Any]], ...]:
    """``dynamic_shapes`` for ``torch.export`` of a random module: the first axis of every input, if the module lets it."""
    return (tuple({0: torch.export.Dim.AUTO} for _ in inputs),)  # type: ignore[return-value]


def drawn_module(draw: Draw, seed: int | None, size: int, names: Sequence[str]) -> RandomModule:
    """Inputs, then blocks, then outputs from what no block has used."""
    inputs = [draw_input(draw) for _ in range(draw.one((1, 1, 1, 2)))]
    kinds: list[Kind] = list(inputs)
    steps: list[Step] = []
    blocks: list[nn.Module] = []
    for _ in range(size):
        grow(draw, kinds, steps, blocks, names)
    outputs, heads = make_outputs(draw, kinds, {source for step in steps for source in step.sources})
    for name, source, module, kind in heads:
        steps.append(Step(name, (source,), kind))
        blocks.append(module)
    form = draw.one(("tuple", "dict")) if len(outputs) > 1 else draw.one(("tensor", "tensor", "tuple", "dict"))
    return RandomModule(seed, inputs, steps, blocks, outputs, form)


def draw_input(draw: Draw) -> Kind:
    """An image, a sequence, a vector or token numbers."""
    kinds: tuple[Kind, ...] = (
        Image(draw.one((3, 4, 6)), *draw.one(((4, 4), (5, 4), (6, 6), (8, 8)))),
        Image(3, 6, 6),
        Tokens(draw.between(3, 7), draw.width()),
        Tokens(draw.between(3, 7), draw.one((8, 12, 16))),
        Ids(draw.between(3, 7), 11),
        Vector(draw.width()),
    )
    return draw.one(kinds)


def grow(draw: Draw, kinds: list[Kind], steps: list[Step], blocks: list[nn.Module], names: Sequence[str]) -> None:
    """Add one value by the first of the blocks drawn that fits the values it is tried on."""
    left = [name for name in names if takes_some(BLOCKS[name], kinds)]
    while left:
        name = left.pop(draw.between(0, len(left) - 1))
        sources = draw_sources(draw, BLOCKS[name], kinds)
        made = None if sources is None else BLOCKS[name].make(draw, *(kinds[source] for source in sources))
        if sources is None or made is None:
            continue
        blocks.append(made[0])
        kinds.append(made[1])
        steps.append(Step(name, sources, made[1]))
        return


def takes_some(block: Block, kinds: Sequence[Kind]) -> bool:
    """Whether there are values of the kinds that the block takes."""
    return all(sum(isinstance(value, kind) for value in kinds) >= block.takes.count(kind) for kind in set(block.takes))


def draw_sources(draw: Draw, block: Block, kinds: Sequence[Kind]) -> tuple[int, ...] | None:
    """A value of each kind that the block takes, later ones more often, none twice."""
    sources: list[int] = []
    for kind in block.takes:
        fitting = [each for each, value in enumerate(kinds) if isinstance(value, kind) and each not in sources]
        if not fitting:
            return None
        sources.append(fitting[-1] if draw.chance(0.6) else draw.one(fitting))
    return tuple(sources)
