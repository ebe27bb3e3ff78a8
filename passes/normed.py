"""BatchNorm in the middle of a repair: its statistics follow what the slim model gives it.

A repair restores what kept inputs can say, and no more, so that repaired outputs vary less than the original's. With the
original's statistics a BatchNorm would pass that on, and layers behind it would be repaired for inputs that are too small:
training, which normalises by the batch, would find them far too large. When the repair comes to a BatchNorm whose input has
changed, its statistics follow: with m and s the mean and deviation of the input on the data, before and after,

    deviation' = deviation * s_after / s_before        mean' = m_after - (m_before - mean) * s_after / s_before

so that its output has the mean and the deviation that the original's has, whether or not its statistics are those of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.analysis import Analysis
from fxprune.cut import Cut
from fxprune.distributed import summed
from fxprune.passes.lockstep import Lockstep
from fxprune.passes.module_table import bind

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNCHANGED = 1e-10
"""Relative squared difference below which inputs are what they were."""


def follow_input(origin: Node, node: Node, slim: GraphModule, pair: Lockstep, cut: Cut, analysis: Analysis) -> bool:
    """Let a BatchNorm's statistics follow its input, if that has changed; whether it was one and did.

    Args:
        origin: the operation in the original graph.
        node: its copy in the slim one, executed.
        slim: the slim module.
        pair: values of both models.
        cut: what the slim model kept.
        analysis: of the original.
    """
    layer = _batchnorm(node, slim)
    if layer is None:
        return False
    bound, copied = bind(origin), node.args[0]
    axes, source = analysis.propagation.values[bound["input"]], bind(pair.twin(origin))["input"]
    assert isinstance(copied, Node)
    now = [values[copied] for values in pair.slim.values]
    before = [cut.slice(values[source], axes) for values in pair.original.values]
    found = summed({name: each.cpu().numpy() for name, each in _sums(now, before).items()})
    if float(found["difference"].sum()) <= UNCHANGED * float(found["squares before"].sum()):
        return False
    mean, variance = (_statistic(bound[name], cut, analysis) for name in ("running_mean", "running_var"))
    (m_after, s_after), (m_before, s_before) = (_mean_and_deviation(found, when) for when in ("now", "before"))
    ratio = np.divide(s_after, s_before, out=np.ones_like(s_after), where=(s_before > 0) & (s_after > 0))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.from_numpy(m_after - (m_before - mean) * ratio))
    layer.running_var.copy_(torch.from_numpy(((variance + layer.eps) * ratio**2 - layer.eps).clip(min=0)))
    return True


def _batchnorm(node: Node, slim: GraphModule) -> _BatchNorm | None:
    """The module that a node calls, if it is a BatchNorm with statistics."""
    if node.op != "call_module":
        return None
    layer = slim.get_submodule(str(node.target))
    return layer if isinstance(layer, _BatchNorm) and layer.running_mean is not None else None


def _statistic(node: Node, cut: Cut, analysis: Analysis) -> NDArray[np.float64]:
    """What the original's BatchNorm holds for the channels that are kept."""
    name = str(node.target)
    kept = cut.slice(analysis.program.tensors[name], analysis.propagation.tensors[name])
    found: NDArray[np.float64] = kept.detach().double().cpu().numpy()
    return found


def _mean_and_deviation(
    found: Mapping[str, NDArray[np.float64]], when: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = found[f"sum {when}"] / found["count"]
    return mean, np.sqrt((found[f"squares {when}"] / found["count"] - mean**2).clip(min=0))


def _sums(now: Sequence[Tensor], before: Sequence[Tensor]) -> dict[str, Tensor]:
    """Moments by channel over all batches, and how far the inputs are from what they were: float64."""
    parts = [_moments(x.double(), y.double()) for x, y in zip(now, before, strict=True)]
    return {name: torch.stack([each[name] for each in parts]).sum(0) for name in parts[0]} if parts else {}


def _moments(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    now, before = (each.movedim(1, -1).reshape(-1, each.shape[1]) for each in (x, y))
    return {
        "count": now.new_tensor([len(now)]),
        "sum now": now.sum(0),
        "squares now": now.square().sum(0),
        "sum before": before.sum(0),
        "squares before": before.square().sum(0),
        "difference": (now - before).square().sum(0),
    }
