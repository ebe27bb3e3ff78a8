"""The skip path: how a value comes through a stretch of graph without passing a weight.

What a residual block hands on is its input plus what it computed. From the input every operation either keeps the
stream (`Skip`), or does not:

    x + f(x), x - f(x)                     keeps it, and is a residual add where f(x) depends on x and is no statistic
    dropout, detach, a cast, x * 1         keeps it
    view, permute                          keeps it in another layout, until the layout is undone
    norm(x), relu(x), x * s, x + b         keeps it, but no longer exactly: what is skipped is not the identity
    anything else                          does not; nor does x * g(x) where g has weights: a gate is no skip path

Layouts are a stack: a view back to the shape before the last views takes them off, a permutation is composed with the
one before and taken off where the two cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from torch._ops import OpOverload
from torch.fx import Node

from fxprune.rules import find_rule
from fxprune.rules.elementwise import elementwise
from fxprune.rules.trace import result_shapes

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skip:
    """How the stream arrives at a value.

    Attributes:
        exact: whether by adds alone, so that with all branches at zero the value is the input.
        adds: residual adds on the way.
        own: those of them that do not lie in blocks further inside.
        layout: what is still to be undone: ("view", shape before) or ("permute", dimensions), the last one last.
    """

    exact: bool = True
    adds: int = 0
    own: int = 0
    layout: tuple[tuple[str, Shape], ...] = ()

    @property
    def untouched(self) -> bool:
        """Whether the value is the input itself."""
        return self.exact and not self.adds and not self.layout

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Of two ways to arrive the better one has the larger rank."""
        return self.exact, self.own, self.adds


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of graph to be walked.

    Attributes:
        nodes: its operations, in order of execution.
        weighted: those of them whose values depend on parameters or buffers, and these.
        inner: those of them that lie in blocks further inside.
    """

    nodes: tuple[Node, ...]
    weighted: AbstractSet[Node]
    inner: AbstractSet[Node]


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the stream goes.

    Attributes:
        skips: node -> how the stream arrives there, where it does.
        fed: nodes that depend on the stream in any way.
    """

    skips: Mapping[Node, Skip]
    fed: AbstractSet[Node]


def walk(stretch: Stretch, source: Node) -> Walk:
    """Follow the stream from `source` through a stretch."""
    skips, fed, branches = {source: Skip()}, {source}, set[Node]()
    for node in stretch.nodes:
        inputs = node.all_input_nodes
        if fed.isdisjoint(inputs):
            continue
        found = _best(_Step(node, skips, fed, branches, stretch).ways()) if any(map(skips.get, inputs)) else None
        fed.add(node)
        if found is not None:
            skips[node] = found
        elif any(each in branches or (each in stretch.weighted and each not in fed) for each in inputs):
            branches.add(node)
    return Walk(skips, fed)


def weighted_nodes(nodes: Iterable[Node], constants: AbstractSet[str]) -> set[Node]:
    """Those of `nodes`, in order, whose values depend on parameters or buffers that they read, and these."""
    found = set[Node]()
    for node in nodes:
        found.update(each for each in node.all_input_nodes if each.op == "get_attr" and each.target not in constants)
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def adds_two(node: Node) -> bool:
    """Whether an operation adds or subtracts two values: what a residual add looks like from afar."""
    return isinstance(node.target, OpOverload) and _name(node) in _SUMS and len(node.all_input_nodes) > 1


def shape_of(node: Node) -> Shape | None:
    """Shape of a node's value at the captured sizes; None where it is no single tensor."""
    shapes = result_shapes(node)
    return shapes[0] if len(shapes) == 1 else None


def _best(ways: Iterable[Skip]) -> Skip | None:
    return max(ways, key=lambda way: way.rank, default=None)


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation under way; `branches` are values computed from the stream with weights."""

    node: Node
    skips: Mapping[Node, Skip]
    fed: AbstractSet[Node]
    branches: AbstractSet[Node]
    stretch: Stretch

    def ways(self) -> list[Skip]:
        """How the stream comes through this operation, for each operand on which it arrives."""
        target, shape = self.node.target, shape_of(self.node)
        if not isinstance(target, OpOverload) or shape is None:
            return []
        name = _name(self.node)
        first = self.node.args[0] if self.node.args else None
        on_first = self.skips.get(first) if isinstance(first, Node) else None
        if name in _SUMS:
            return [skip for at in range(2) if (skip := self._sum(at, name)) is not None]
        if on_first is not None and isinstance(first, Node):
            known = _through(name, self.node, on_first, shape_of(first) == shape)
            if known is not None:
                return [known]
        rule = find_rule(target)
        return self._elementwise() if rule is not None and rule.function is elementwise else []

    def _sum(self, at: int, name: str) -> Skip | None:
        """The stream is operand `at` of a + b or a - b."""
        operand, other = self.node.args[at], self.node.args[1 - at]
        skip = self.skips.get(operand) if isinstance(operand, Node) else None
        if skip is None or shape_of(operand) != shape_of(self.node):  # type: ignore[arg-type]
            return None
        plain = at == 0 or (name == "add" and self.node.kwargs.get("alpha", 1) == 1)
        if not isinstance(other, Node) or not self._is_branch(other):
            return replace(skip, exact=False)
        if not plain:
            return None
        return replace(skip, adds=skip.adds + 1, own=skip.own + (self.node not in self.stretch.inner))

    def _is_branch(self, other: Node) -> bool:
        """Whether a value is computed from the stream and no mere statistic of it, as a norm's mean is."""
        return other in self.branches or (other in self.fed and shape_of(other) == shape_of(self.node))

    def _elementwise(self) -> list[Skip]:
        """f(x, s, ...) element by element, where no other operand is computed from the stream with weights."""
        operands = [each for each in self.node.all_input_nodes if each in self.skips]
        return [
            replace(self.skips[operand], exact=self.skips[operand].exact and self._is_unit(operand))
            for operand in operands
            if shape_of(operand) == shape_of(self.node) and self.branches.isdisjoint(self.node.all_input_nodes)
        ]

    def _is_unit(self, operand: Node) -> bool:
        args = self.node.args
        return _name(self.node) in {"mul", "div"} and args[0] is operand and args[1:] in ((1,), (1.0,))


def _name(node: Node) -> str:
    assert isinstance(node.target, OpOverload)
    return node.target._schema.name.removeprefix("aten::").rstrip("_")


def _through(name: str, node: Node, skip: Skip, same: bool) -> Skip | None:
    """The stream, as the first operand, behind an operation of these; None where it is none of them, or changed."""
    if name in _VIEWS:
        shape, before = shape_of(node), shape_of(node.args[0])  # type: ignore[arg-type]
        return None if shape is None or before is None else replace(skip, layout=_viewed(skip.layout, before, shape))
    if name in _PERMUTATIONS:
        order = _order(name, node)
        return None if order is None else replace(skip, layout=_permuted(skip.layout, order))
    if not same:
        return None
    if name in _UNCHANGED:
        return skip
    return replace(skip, exact=False) if name in _NORMS else None


def _viewed(layout: tuple[tuple[str, Shape], ...], before: Shape, after: Shape) -> tuple[tuple[str, Shape], ...]:
    if layout and layout[-1][0] == "view":
        return layout[:-1] if layout[-1][1] == after else layout
    return layout if before == after else (*layout, ("view", before))


def _permuted(layout: tuple[tuple[str, Shape], ...], order: Shape) -> tuple[tuple[str, Shape], ...]:
    if layout and layout[-1][0] == "permute":
        before = layout[-1][1]
        layout, order = layout[:-1], tuple(before[at] for at in order)
    return layout if order == tuple(range(len(order))) else (*layout, ("permute", order))


def _order(name: str, node: Node) -> Shape | None:
    """Dimensions of the operand in the order in which they come out."""
    shape = shape_of(node)
    if shape is None or not all(isinstance(each, int | list | tuple) for each in node.args[1:]):
        return None
    order = list(range(len(shape)))
    if name == "permute":
        return tuple(order[at] for at in node.args[1])  # type: ignore[union-attr, index]
    a, b = (-1, -2) if name in {"t", "mT"} else node.args[1:3]
    order[a], order[b] = order[b], order[a]  # type: ignore[index]
    return tuple(order)


_SUMS = frozenset({"add", "sub"})
_VIEWS = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"})
_PERMUTATIONS = frozenset({"permute", "transpose", "t", "mT", "swapaxes", "swapdims"})
_NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"})
_UNCHANGED = frozenset(
    {
        *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
        *("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "positive"),
        *("to", "_to_copy", "type_as", "slice", "expand"),
    }
)
"""Operations that, where the shape stays, return what they get, in the eval mode of the capture."""
