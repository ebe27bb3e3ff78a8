"""From `1x3x224x224` to an example input."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from fxprune.errors import InputError

__all__ = ["ExampleInputs", "parse_inputs"]

ExampleInputs = tuple[Tensor, ...] | dict[str, Tensor]

SHAPE = re.compile(r"(?:(?P<name>[^\W\d]\w*)=)?(?P<sizes>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")
EXAMPLES = "1x3x224x224, 1x128:int64 or input_ids=1x128:int64"


def parse_inputs(texts: Sequence[str], generator: torch.Generator) -> ExampleInputs | None:
    """Make example inputs of the shapes that `texts` describe.

    Args:
        texts: One for each input: `[name=]sizes[:dtype]`. Without a dtype, float32.
        generator: Where the values come from. Floating-point values are normally distributed. Whole numbers are 0 or 1,
            which are valid indices into anything.

    Returns:
        A tuple (positional) or, if all have names, a dict (keyword); None if `texts` is empty.

    Raises:
        InputError: A text is not understood, or only some have names.

    Example:
        >>> images, mask = parse_inputs(["2x3x8x8", "2x8:bool"], torch.Generator())
        >>> images.shape, mask.dtype
        (torch.Size([2, 3, 8, 8]), torch.bool)
    """
    if not texts:
        return None
    named = [_parse(text, generator) for text in texts]
    names = [name for name, _ in named if name is not None]
    if not names:
        return tuple(tensor for _, tensor in named)
    if len(set(names)) < len(named):
        raise InputError(f"Either none or all of --input have names, each its own: given {', '.join(texts)}.")
    return {name: tensor for name, tensor in named if name is not None}


def _parse(text: str, generator: torch.Generator) -> tuple[str | None, Tensor]:
    match = SHAPE.fullmatch(text)
    if match is None:
        raise InputError(f"--input {text!r} is not a shape, such as {EXAMPLES}.")
    dtype = getattr(torch, match["dtype"] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"--input {text!r}: {match['dtype']!r} is not a dtype of PyTorch, such as float32 or int64.")
    sizes = [int(size) for size in match["sizes"].split("x")]
    return match["name"], _values(sizes, dtype, generator)


def _values(sizes: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(sizes, generator=generator).to(dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(dtype)
