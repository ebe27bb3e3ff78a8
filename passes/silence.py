"""The original with switches: any cut can be silenced, without building or tracing a model for it.

One module is made from the captured graph; it computes what the original computes. At every product that sums over the
indices of a dependency group stands a *gate*: it multiplies one operand by the group's mask at the group's axis,

    y[..., o] = sum_i (m_i x[..., i]) w[o, i]

and every statistic that runs along such an axis (LayerNorm, GroupNorm, means) stands in a wrapper that takes it over what
is kept alone. With zeros in the mask the module so computes what the slim model as cut would compute (design: what a cut
means), at the original's speed; with the mask a differentiable vector of ones, the gradient of a loss with respect to
`m_i` says what losing index `i` everywhere would do. A gate that silences nothing passes its operand on, at no cost.

In a recurrent layer the hidden units are consumed inside: there the gate stands at the columns of its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.analysis import Analysis
from fxprune.copying import copying_graphs
from fxprune.cut import Cut
from fxprune.passes.gating import insert_gates
from fxprune.passes.slim import emit
from fxprune.passes.switches import Consumer, Switch
from fxprune.program import Program
from fxprune.slim_module import build_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


class SilencedModel(GraphModule):
    """The original, in eval mode, with a switch for every index of every group.

    Parameters have no gradients and are the user's own memory unless asked otherwise; buffers are copies. Call it as the
    user's model; `silence` says what is cut from then on. Hooks on the gates see the operands of the products.
    """

    analysis: Analysis
    consumers: tuple[Consumer, ...]
    switch_name: str

    def __deepcopy__(self, memo: dict[int, Any]) -> SilencedModel:
        """A copy with weights, buffers and switches of its own; the analysis, which is never edited, is shared."""
        memo[id(self.analysis)], memo[id(self.consumers)] = self.analysis, self.consumers
        with copying_graphs():
            copied = super().__deepcopy__(memo)
        assert isinstance(copied, SilencedModel)
        copied.analysis, copied.consumers, copied.switch_name = self.analysis, self.consumers, self.switch_name
        return copied

    @property
    def switch(self) -> Switch:
        """Where the masks are."""
        found = self.get_submodule(self.switch_name)
        assert isinstance(found, Switch)
        return found

    def silence(self, kept: Mapping[str, NDArray[np.int64]]) -> None:
        """Silence all that is not kept, and nothing else.

        Args:
            kept: group name -> sorted kept indices [k], or [outer size, k] for a nested group; groups left out stay
                whole.
        """
        switch = self.switch
        switch.cut = self.analysis.cut(kept)
        masks = torch.ones(switch.masks.shape)
        for name, indices in kept.items():
            mask = switch.view(name, masks)
            mask.zero_()
            mask.scatter_(-1, torch.as_tensor(indices), 1.0)
        switch.masks.copy_(masks)
        switch.touched = frozenset(name for name in kept if kept[name].shape[-1] < self.analysis.group(name).size)

    @contextlib.contextmanager
    def silenced(self, kept: Mapping[str, NDArray[np.int64]]) -> Iterator[SilencedModel]:
        """Silence for as long as the context lasts."""
        self.silence(kept)
        try:
            yield self
        finally:
            self.silence({})

    @contextlib.contextmanager
    def differentiable(self) -> Iterator[Tensor]:
        """Masks as a leaf of the autograd graph, for as long as the context lasts."""
        self.switch.masks.requires_grad_()
        try:
            yield self.switch.masks
        finally:
            self.switch.masks.requires_grad_(False)
            self.switch.masks.grad = None

    def by_group(self, vector: Tensor) -> dict[str, NDArray[np.float64]]:
        """A vector laid out as the masks, such as their gradient, by group."""
        return {name: self.switch.view(name, vector).double().cpu().numpy() for name in self.switch.spans}

    def consumers_of(self, group: str) -> tuple[Consumer, ...]:
        """The products that sum over a group's indices."""
        return tuple(each for each in self.consumers if each.group == group)


def silenced_model(analysis: Analysis, *, gated: bool = True, own_weights: bool = False) -> SilencedModel:
    """Make the module with switches; the user's model is not changed.

    Args:
        analysis: the captured model and its groups.
        gated: False for the model alone, with all of its `torch.nn` modules and no switches.
        own_weights: copy the parameters, instead of sharing the memory of the user's: where functions of the user's see
            the module.
    """
    program, propagation = analysis.program, analysis.propagation
    graph = emit(program, propagation, Cut({}, {}))
    switch = Switch(analysis.groups if gated else ())
    prefix = _free_prefix(program)
    gates, consumers = insert_gates(graph, analysis, switch, prefix) if gated else ({}, [])
    tensors: dict[str, Tensor] = {}
    for name, tensor in program.tensors.items():
        canonical = program.canonical(name)
        if canonical not in tensors:
            tensors[canonical] = (
                nn.Parameter(tensor.detach().clone() if own_weights else tensor.detach(), requires_grad=False)
                if isinstance(tensor, nn.Parameter)
                else tensor.detach().clone()
            )
        tensors[name] = tensors[canonical]
    tensors = {name: tensors[name] for name in program.tensors}
    name = f"Silenced{program.root.__name__}"
    extra = {f"{prefix}switch": switch, **gates}
    module, _ = build_module(SilencedModel, name, program, graph, tensors, program.constants, extra)
    module.analysis = analysis
    module.consumers = tuple(consumers)
    module.switch_name = f"{prefix}switch"
    return module.eval().to(_device(program.tensors.values()))


def _free_prefix(program: Program) -> str:
    """What names of the switches begin with, and no name of the model does."""
    prefix = "silence_"
    while any(name.startswith(prefix) for name in (*program.module_types, *program.tensors, *program.constants)):
        prefix += "_"
    return prefix


def _device(tensors: Iterable[Tensor]) -> torch.device | None:
    return next((tensor.device for tensor in tensors), None)
