"""The analysis proper: run every operation's rule over the captured graph in order, and settle what axes became."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from fxprune.axes import Axes, Axis, Conflict, Solver, Variable, head, leaves, settle
from fxprune.errors import CouplingConflict, FxpruneError, GraphError
from fxprune.program import Program
from fxprune.rules import find_rule
from fxprune.rules.elementwise import TensorAxes
from fxprune.rules.trace import UNKNOWN_SIZE, Trace, result_shapes
from fxprune.rules.unknown import pin_everything


@dataclass(frozen=True, slots=True)
class Propagation:
    """Axes of every value after unification.

    Attributes:
        values: node -> its axes; a tuple of axes per result where there are several; None for what is no tensor.
        tensors: canonical name of each parameter, buffer and constant that the graph reads -> its axes.
        conflicts: equations that could not be satisfied, whose axes were pinned.
        unknown: nodes whose operation has no rule.
        mixed: for each operation the axes along which it combines different indices.
        needed: variable -> how many of its indices have to stay at least, where that is more than one.
    """

    values: Mapping[Node, Any]
    tensors: Mapping[str, Axes]
    conflicts: tuple[Conflict, ...]
    unknown: tuple[Node, ...]
    mixed: Mapping[Node, Axes]
    needed: Mapping[Variable, int] = field(default_factory=dict)


def propagate(program: Program, ignored: Mapping[str, str], *, strict: bool = False) -> Propagation:
    """Give every axis of every value its expression.

    Args:
        program: the captured model.
        ignored: canonical name of each tensor that keeps its shape -> the pattern that says so.
        strict: raise instead of pinning where an operation has no rule or an equation no solution.

    Raises:
        GraphError: `strict`, and an operation has no rule.
        CouplingConflict: `strict`, and two axes cannot be matched.
    """
    walk = _Walk(program, ignored)
    for node in program.graph_module.graph.nodes:
        walk.visit(node)
    if strict:
        _complain(walk)
    settled: dict[int, Any] = {}
    values = {node: _settle(value, settled) for node, value in walk.values.items()}
    tensors = {name: _settle(axes, settled) for name, axes in walk.tensors.items()}
    mixed = {node: tuple(settle(axis) for axis in axes) for node, axes in walk.trace.mixed.items()}
    return Propagation(values, tensors, tuple(walk.trace.solver.conflicts), tuple(walk.unknown), mixed, _needed(walk))


def _needed(walk: _Walk) -> dict[Variable, int]:
    found: dict[Variable, int] = {}
    for axis, least in walk.trace.needed:
        for variable in leaves(settle(axis)):
            found[variable] = max(found.get(variable, 1), least)
    return found


class _Walk:
    """State of one pass over the graph."""

    __slots__ = ("dependent", "ignored", "program", "tensors", "trace", "unknown", "values")

    def __init__(self, program: Program, ignored: Mapping[str, str]) -> None:
        self.program = program
        self.ignored = ignored
        self.trace = Trace(Solver())
        self.values: dict[Node, Any] = {}
        self.tensors: dict[str, TensorAxes] = {}
        self.dependent = {node for node in program.graph_module.graph.nodes if _is_data_dependent(node)}
        self.unknown: list[Node] = []

    def visit(self, node: Node) -> None:
        """Axes of one node's result."""
        self.trace.enter(node)
        if node.op == "call_function":
            self.values[node] = self._call(node)
        elif node.op == "get_attr":
            self.values[node] = self._attribute(node)
        elif node.op == "placeholder":
            shape = result_shapes(node)[0]
            self.values[node] = None if shape is None else TensorAxes(self.trace.fixed_axes(shape, "model input"))
        elif node.op == "output":
            for each in node.all_input_nodes:
                self._pin_value(each, "model output")

    def _attribute(self, node: Node) -> TensorAxes | None:
        name = self.program.canonical(str(node.target))
        if name not in self.tensors:
            tensor = self.program.tensor(name)
            if tensor is None:
                return None
            shape = result_shapes(node)[0] or tuple(tensor.shape)
            self.tensors[name] = TensorAxes([Variable(size) for size in shape])
            if name in self.ignored:
                self.trace.pin_all(self.tensors[name], f"ignored ({self.ignored[name]})")
        return self.tensors[name]

    def _call(self, node: Node) -> Any:
        if node.target is operator.getitem:
            source = self.values[node.args[0]]  # type: ignore[index]
            return None if source is None else source[node.args[1]]
        if not _has_tensor(node):
            return None
        args, kwargs = self._arguments(node.args), self._arguments(node.kwargs)
        found = find_rule(node.target)
        if found is None or (self.dependent and not self.dependent.isdisjoint((node, *node.all_input_nodes))):
            self.unknown.append(node)
            return _mark(pin_everything(self.trace, args, kwargs))
        try:
            axes = _mark(found.function(self.trace, *args, **kwargs))
        except FxpruneError:
            raise
        except Exception as error:
            msg = f"the rule for {node.target} failed: {type(error).__name__}: {error}"
            raise GraphError(msg, node) from error
        _check_sizes(node, axes)
        return axes

    def _arguments(self, value: Any) -> Any:
        if isinstance(value, Node):
            axes = self.values.get(value)
            return value if axes is None else axes
        if isinstance(value, dict):
            return {name: self._arguments(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._arguments(each) for each in value]
        return value

    def _pin_value(self, node: Node, reason: str) -> None:
        axes = self.values.get(node)
        for each in axes if isinstance(axes, tuple) and not isinstance(axes, TensorAxes) else (axes,):
            if each is not None:
                self.trace.pin_all(each, reason)


def _mark(axes: Any) -> Any:
    """Tell axes of one tensor from a tuple of results."""
    if isinstance(axes, TensorAxes) or axes is None:
        return axes
    if axes and all(each is None or isinstance(each, tuple) for each in axes):
        return tuple(None if each is None else TensorAxes(each) for each in axes)
    return TensorAxes(axes)


def _check_sizes(node: Node, axes: Any) -> None:
    """Axes that a rule returned must have the sizes of the operation's results."""
    found = [axes] if isinstance(axes, TensorAxes) else axes
    for own, shape in zip(found, result_shapes(node), strict=False):
        if own is not None and shape is not None and tuple([axis.size for axis in own]) != shape:
            sizes = [axis.size for axis in own]
            msg = f"the rule for {node.target} returned axes of sizes {sizes}, the result is {list(shape)}"
            raise GraphError(msg, node)


def _settle(value: Any, settled: dict[int, Any]) -> Any:
    """Settled axes; `settled` remembers them by what they were, so that equal axes stay one object."""
    if value is None:
        return None
    if isinstance(value, TensorAxes):
        found = settled.get(id(value))
        if found is None:
            found = settled[id(value)] = TensorAxes([_settle_axis(axis, settled) for axis in value])
        return found
    return tuple(_settle(each, settled) for each in value)


def _settle_axis(axis: Axis, settled: dict[int, Any]) -> Axis:
    axis = head(axis)
    if isinstance(axis, Variable):
        return axis
    found: Axis | None = settled.get(id(axis))
    if found is None:
        found = settled[id(axis)] = settle(axis)
    return found


def _has_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _is_data_dependent(node: Node) -> bool:
    """Whether a size of the result depends on the data."""
    return any(shape is not None and UNKNOWN_SIZE in shape for shape in result_shapes(node))


def _complain(walk: _Walk) -> None:
    for node in walk.unknown:
        msg = f"{node.target} has no rule; add one with `@fxprune.rule`, or drop strict=True to pin its axes"
        raise GraphError(msg, node)
    for conflict in walk.trace.solver.conflicts:
        msg = f"{conflict.left} cannot be matched with {conflict.right}"
        raise CouplingConflict(msg, conflict.node)
