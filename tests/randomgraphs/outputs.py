"""What a random module returns: every value that nothing has used, through a head more often than not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from tests.randomgraphs.kinds import Ids, Image, Kind, Tokens, Vector
from tests.randomgraphs.registry import Apply, Draw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

Head = tuple[str, int, nn.Module, Kind]


def make_outputs(draw: Draw, kinds: Sequence[Kind], used: AbstractSet[int]) -> tuple[list[int], list[Head]]:
    """The numbers of the values to return, and the heads that make those which are not there yet."""
    outputs: list[int] = []
    heads: list[Head] = []
    for position, kind in enumerate(kinds):
        if position in used:
            continue
        if draw.chance(0.15) and not isinstance(kind, Ids):
            outputs.append(position)
            continue
        module, made = make_head(draw, kind)
        outputs.append(len(kinds) + len(heads))
        heads.append(("head", position, module, made))
    return outputs, heads


def make_head(draw: Draw, kind: Kind) -> tuple[nn.Module, Kind]:
    """A classifier of the kind."""
    classes = draw.between(2, 5)
    match kind:
        case Image() if draw.chance():
            return nn.Conv2d(kind.channels, classes, 1), kind.wide(classes)
        case Image():
            layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(kind.channels, classes)]
            return nn.Sequential(*layers), Vector(classes)
        case Tokens() if draw.chance():
            return nn.Linear(kind.features, classes), kind.wide(classes)
        case Tokens():
            return nn.Sequential(Apply(lambda x: x.mean(dim=1)), nn.Linear(kind.features, classes)), Vector(classes)
        case Vector():
            return nn.Linear(kind.features, classes), Vector(classes)
        case Ids():
            layers = [nn.Embedding(kind.vocabulary, 8), nn.Linear(8, classes)]
            return nn.Sequential(*layers), Tokens(kind.length, classes)
