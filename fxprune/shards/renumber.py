"""Names after blocks have gone: layers that follow move up, as they do in a list of modules.

Of `model.layers.0` ... `model.layers.5` without `model.layers.2`, what was `model.layers.5` is `model.layers.4`. That is
what a model that is built with fewer layers calls it. Only children whose names are numbers move.
"""

from __future__ import annotations

from collections.abc import Iterable


def is_below(name: str, paths: Iterable[str]) -> bool:
    """Whether a name is one of the paths or lies below one."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def renumbered(name: str, dropped: Iterable[str]) -> str:
    """What a tensor, module or group is called once the dropped blocks are gone.

    Args:
        name: in the original; not below a dropped block.
        dropped: paths of the blocks that go.

    Example:
        >>> renumbered("model.layers.5.mlp.up_proj.weight", ["model.layers.2", "model.layers.3"])
        'model.layers.3.mlp.up_proj.weight'
    """
    gone: dict[str, list[int]] = {}
    for path in dropped:
        parent, _, child = path.rpartition(".")
        if child.isdecimal():
            gone.setdefault(parent, []).append(int(child))
    parts = name.split(".")
    made = list(parts)
    for at, part in enumerate(parts):
        numbers = gone.get(".".join(parts[:at]))
        if numbers and part.isdecimal():
            made[at] = str(int(part) - sum(number < int(part) for number in numbers))
    return ".".join(made)
