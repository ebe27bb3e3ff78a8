"""A picture of what pruning took: the width of every layer before and after."""

from __future__ import annotations

from pathlib import Path

from torch import nn

__all__ = ["draw_widths", "layer_widths"]


def layer_widths(model: nn.Module) -> dict[str, int]:
    """Return the output channels or features of every convolution and linear layer by its name."""
    return {
        name: layer.weight.shape[0] for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def draw_widths(original: nn.Module, slim: nn.Module, path: Path) -> None:
    """Draw a bar for the width of every layer, what is left of it in front of what was there.

    Args:
        original: The network before.
        slim: The network after, with the same layer names.
        path: Where the picture goes; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    before, after = layer_widths(original), layer_widths(slim)
    figure = Figure(figsize=(7.5, 0.25 * len(before) + 1.2), layout="constrained")
    axes = figure.subplots()
    positions = range(len(before))
    axes.barh(positions, list(before.values()), color="#d9d9d9", label="original")
    axes.barh(positions, [after[name] for name in before], color="#1f77b4", label="pruned")
    for position, (name, width) in enumerate(before.items()):
        label = f"{after[name]} / {width}"
        axes.annotate(label, (width, position), (3, 0), textcoords="offset points", va="center", size=7)
    axes.set_yticks(positions, labels=list(before), size=7)
    axes.invert_yaxis()
    axes.set_xlabel("output channels or features")
    axes.margins(x=0.1, y=0.02)
    axes.legend(loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
