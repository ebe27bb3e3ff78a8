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
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from fxprune.analysis import Analysis
from fxprune.axes import Axes, Variable, leaves
from fxprune.cut import Cut
from fxprune.groups import Group, variables_of
from fxprune.indexing import index_of
from fxprune.passes.masked import spread
from fxprune.passes.slim import emit
from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.rules import Resizing, Role, Rule, find_rule
from fxprune.rules.elementwise import TensorAxes
from fxprune.slim_module import build_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


@dataclass(frozen=True, slots=True)
class Consumer:
    """A product that sums over a group's indices, and the gate in front of it.

    Attributes:
        node: the operation in the captured graph.
        group: name of the group.
        gate: name of the gate among the module's children; its output is the silenced operand.
        dims: dimensions of the operand on which the group's indices lie.
    """

    node: Node
    group: str
    gate: str
    dims: tuple[int, ...]


class Switch(nn.Module):
    """The masks of all groups, one after the other in one vector, and which of them silence anything.

    Attributes:
        masks: float32 [sum of group sizes + 1]; the last entry is 1 and stands for positions without a group.
        spans: group name -> where its mask begins in `masks`, and its shape.
        cut: what is silenced.
        touched: names of the groups of which something is silenced.
    """

    masks: Tensor

    def __init__(self, groups: Sequence[Group]) -> None:
        """Masks of ones."""
        super().__init__()
        self.spans: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for group in groups:
            shape = (group.size,) if group.outer is None else (group.outer.size, group.size)
            self.spans[group.name] = (end, shape)
            end += int(np.prod(shape))
        self.register_buffer("masks", torch.ones(end + 1), persistent=False)
        self.cut = Cut({}, {})
        self.touched: frozenset[str] = frozenset()

    def applies(self, groups: frozenset[str]) -> bool:
        """Whether a gate of these groups has to multiply."""
        return self.masks.requires_grad or not groups.isdisjoint(self.touched)

    def view(self, group: str, vector: Tensor) -> Tensor:
        """The part of a vector laid out as `masks` that belongs to a group: [size] or [outer size, size]."""
        start, shape = self.spans[group]
        return vector[start : start + int(np.prod(shape))].reshape(shape)


class Gate(nn.Module):
    """Multiplies an operand by the masks of groups at their axes; passes it on where they silence nothing."""

    switch: Switch
    groups: frozenset[str]
    count: int

    def __init__(self, switch: Switch, groups: frozenset[str], places: Sequence[Tensor]) -> None:
        """`places`: for each occurrence of a group the entry of the masks at each position, to be broadcast."""
        super().__init__()
        self.__dict__["switch"] = switch  # not a child: it has one place in the tree
        self.groups = groups
        self.count = len(places)
        for number, place in enumerate(places):
            self.register_buffer(f"place_{number}", place, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """The operand, silenced."""
        if not self.switch.applies(self.groups):
            return value
        for number in range(self.count):
            mask = self.switch.masks[getattr(self, f"place_{number}")].to(value.dtype)
            # Cut slices may hold anything, infinities too, that nothing else sees.
            value = value * mask if mask.requires_grad else torch.where(mask == 0, value.new_zeros(()), value)
        return value


class OverKept(nn.Module):
    """Runs an operation whose statistics run along groups' axes on what is kept, and spreads the result out again."""

    switch: Switch
    groups: frozenset[str]
    site: Site

    def __init__(self, switch: Switch, groups: frozenset[str], site: Site) -> None:
        """An operation at its site in the captured graph."""
        super().__init__()
        self.__dict__["switch"] = switch
        self.groups = groups
        self.site = site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The operation's result."""
        if self.groups.isdisjoint(self.switch.touched):
            return self.site.node.target(*args, **kwargs)  # type: ignore[operator]
        return self.site.run(self.switch.cut, args, kwargs)


@dataclass(frozen=True, slots=True)
class Site:
    """An operation in the captured graph, which is never edited: copies of a module share it."""

    node: Node
    rule: Rule
    propagation: Propagation

    def __deepcopy__(self, _: dict[int, Any]) -> Site:
        """Itself."""
        return self

    def run(self, cut: Cut, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pack the operands, run the operation with its sizes as cut, spread out what it returns."""
        origins = tree_leaves((self.node.args, dict(self.node.kwargs)))
        values, structure = tree_flatten((args, kwargs))
        packed = [self._packed(cut, origin, value) for origin, value in zip(origins, values, strict=True)]
        args, kwargs = tree_unflatten(packed, structure)
        if self.rule.resize is not None:
            sizes = self.propagation.values
            args, kwargs = self.rule.resize(Resizing(self.node, args, kwargs, sizes, cut.count, Graph()))
        result = self.node.target(*args, **kwargs)  # type: ignore[operator]
        axes = self.propagation.values[self.node]
        if isinstance(axes, TensorAxes):
            return spread(result, axes, cut, self.node)
        return tuple(spread(each, own, cut, self.node) for each, own in zip(result, axes, strict=True))

    def _packed(self, cut: Cut, origin: Any, value: Any) -> Any:
        axes = self.propagation.values.get(origin) if isinstance(origin, Node) else None
        return cut.slice(value, axes) if isinstance(axes, TensorAxes) and isinstance(value, Tensor) else value


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about copying tree specifications
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
    gates, consumers = _insert(graph, analysis, switch, prefix) if gated else ({}, [])
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


def _insert(
    graph: Graph, analysis: Analysis, switch: Switch, prefix: str
) -> tuple[dict[str, nn.Module], list[Consumer]]:
    """Put gates and wrappers into an emitted graph; returns them by name."""
    by_variable = {group.variable: group for group in analysis.groups}
    gates: dict[str, nn.Module] = {}
    consumers: list[Consumer] = []
    live = _live(analysis)
    for node in list(graph.nodes):
        origin: Node = node.meta["origin"]
        rule = find_rule(origin.target) if origin.op == "call_function" else None
        mixed = [v for axis in analysis.propagation.mixed.get(origin, ()) for v in variables_of(axis)]
        groups = {by_variable[variable].name: by_variable[variable] for variable in mixed if variable in by_variable}
        if rule is None or not groups:
            continue
        if rule.role is Role.REDUCTION:
            name = f"{prefix}over_kept_{len(gates)}"
            gates[name] = OverKept(switch, frozenset(groups), Site(origin, rule, analysis.propagation))
            _wrap(graph, node, name)
        elif rule.role is Role.CONTRACTION:
            for operand, gating in _operands(node, list(groups.values()), analysis.propagation, live).items():
                name = f"{prefix}gate_{len(gates)}"
                axes = analysis.propagation.values[operand.meta["origin"]]
                own, dims = gating.groups, gating.dims
                places = [_place(switch, group, axes, dim) for group in own for dim in dims[group.name]]
                gates[name] = Gate(switch, frozenset(group.name for group in own), places)
                _gate(graph, node, operand, name, gating.times)
                consumers += [Consumer(origin, group.name, name, dims[group.name]) for group in own]
    return gates, consumers


def _live(analysis: Analysis) -> set[Node]:
    """Values that depend on the model's inputs."""
    found = set[Node]()
    for node in analysis.program.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


@dataclass(slots=True)
class Gating:
    """A gate to be: the groups that it is for, their dimensions, and at how many arguments the operand stands."""

    groups: list[Group]
    dims: dict[str, tuple[int, ...]]
    times: int


def _operands(node: Node, groups: Sequence[Group], propagation: Propagation, live: set[Node]) -> dict[Node, Gating]:
    """Operands to put gates at."""
    found: dict[Node, Gating] = {}
    origin: Node = node.meta["origin"]
    for group in groups:
        holders = {each: _dims(propagation, each, group.variable) for each in node.all_input_nodes}
        holders = {each: dims for each, dims in holders.items() if dims}
        times = sum(group.variable in variables_of(axis) for axis in propagation.mixed[origin])
        if origin.target in _RECURRENT:  # columns of weights: what the layer's own steps consume
            weights = [each for each, dims in holders.items() if dims[-1] == 1 and each.meta["origin"] not in live]
            wanted: dict[Node, tuple[int, ...]] = dict.fromkeys(weights, (1,))
        else:  # one factor of each sum of products
            ordered = sorted(holders, key=lambda each: each.meta["origin"] not in live)
            wanted = {each: holders[each] for each in ordered[:times]}
        for each, dims in wanted.items():
            gating = found.setdefault(each, Gating([], {}, 1))
            gating.groups.append(group)
            gating.dims[group.name] = dims
            gating.times = max(gating.times, times - len(wanted) + 1)
    return found


def _dims(propagation: Propagation, node: Node, variable: Variable) -> tuple[int, ...]:
    axes = propagation.values.get(node.meta["origin"])
    if not isinstance(axes, TensorAxes):
        return ()
    return tuple(dim for dim, axis in enumerate(axes) if variable in leaves(axis))


def _place(switch: Switch, group: Group, axes: Axes, dim: int) -> Tensor:
    """For every position along a dimension (and along that of the outer variable) its entry in the masks."""
    start, _ = switch.spans[group.name]
    labels = index_of(axes[dim], group.variable)
    shape = [1] * len(axes)
    shape[dim] = len(labels)
    labels = labels.reshape(shape)
    if group.outer is not None:
        rows, along = _rows(group.outer, axes, dim)
        shape = [1] * len(axes)
        shape[along] = len(rows)
        rows = rows.reshape(shape)
        labels = torch.where((labels < 0) | (rows < 0), -1, rows * group.size + labels)
    return torch.where(labels < 0, len(switch.masks) - 1, labels + start)


def _rows(outer: Variable, axes: Axes, dim: int) -> tuple[Tensor, int]:
    """Index of the outer variable along the dimension where it lies: the same one, or another."""
    along = dim if outer in leaves(axes[dim]) else next(at for at, each in enumerate(axes) if outer in leaves(each))
    return index_of(axes[along], outer), along


def _gate(graph: Graph, node: Node, operand: Node, name: str, times: int) -> None:
    """Put a gate between an operand and the first so many arguments of a node that it is."""
    with graph.inserting_before(node):
        gate = graph.call_module(name, (operand,))
    gate.meta = {"origin": operand.meta["origin"]}
    replaced = 0

    def once(each: Node) -> Node:
        nonlocal replaced
        replaced += each is operand
        return gate if each is operand and replaced <= times else each

    node.args, node.kwargs = map_arg((node.args, dict(node.kwargs)), once)


def _wrap(graph: Graph, node: Node, name: str) -> None:
    with graph.inserting_before(node):
        call = graph.call_module(name, node.args, dict(node.kwargs))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
