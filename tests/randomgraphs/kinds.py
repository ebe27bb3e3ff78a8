"""What the values of a random module are, batch axis aside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BATCH = 2


@dataclass(frozen=True, slots=True)
class Image:
    """[batch, channels, height, width]."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes but the batch."""
        return (self.channels, self.height, self.width)

    def wide(self, channels: int) -> Image:
        """The same image with other channels."""
        return Image(channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Tokens:
    """[batch, length, features]."""

    length: int
    features: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes but the batch."""
        return (self.length, self.features)

    def wide(self, features: int) -> Tokens:
        """The same sequence with other features."""
        return Tokens(self.length, features)


@dataclass(frozen=True, slots=True)
class Vector:
    """[batch, features]."""

    features: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes but the batch."""
        return (self.features,)


@dataclass(frozen=True, slots=True)
class Ids:
    """[batch, length] integers below a vocabulary's size."""

    length: int
    vocabulary: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes but the batch."""
        return (self.length,)


Kind = Image | Tokens | Vector | Ids


def example(kind: Kind, generator: torch.Generator, batch: int = BATCH) -> Tensor:
    """A random value of the kind."""
    if isinstance(kind, Ids):
        return torch.randint(kind.vocabulary, (batch, kind.length), generator=generator)
    return torch.randn((batch, *kind.shape), generator=generator, dtype=torch.float64)
