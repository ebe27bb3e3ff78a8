"""Where a scorer that runs forward only looks at the indices of each group, and which groups lie inside heads.

Of a group's indices are looked at, whatever comes first:

1. what norms along them put out: of each module that holds a statistic along the indices and no product, the last value
   that has them (hidden features);
2. what products with weights read: the operand that depends on the model's inputs (neurons of a feed-forward layer at the
   input of the second one, heads at the input of the output projection);
3. what products of two activations read (dimensions of queries and keys).

Norms do not come first for heads and what lies inside them: where queries and keys are normalised over all heads together
(OLMo2), it is still the output of a head that counts.

A group lies *inside a head* where its indices, in some parameter, are counted within those of another variable (the head),
and a product of two activations sums over them, or has them in one factor alone: dimensions of queries, keys and values.
The axes of heads are in all factors of such products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch.fx import Node

from fxprune.axes import Variable, leaves
from fxprune.groups import occurrences, variables_of
from fxprune.rules import Role, find_rule
from fxprune.rules.elementwise import TensorAxes

if TYPE_CHECKING:
    from fxprune.analysis import Analysis
    from fxprune.program import Program
    from fxprune.propagate import Propagation


def find_taps(analysis: Analysis) -> dict[str, tuple[Node, ...]]:
    """Group name -> the values to look at, each once, in order of execution; none where no operation tells."""
    live = live_nodes(analysis.program)
    norms = _by_variable(_norm_outputs(analysis))
    weighted = _by_variable(_operands(analysis, live, activations=1))
    products = _by_variable(_operands(analysis, live, activations=2))
    attention = inside_heads(analysis) | heads_around(analysis)
    found: dict[str, tuple[Node, ...]] = {}
    for group in analysis.groups:
        if group.variable in analysis.propagation.needed:
            found[group.name] = ()  # whole experts: what is seen along their axis are the router's scores
            continue
        orders = (weighted, products, norms) if group.name in attention else (norms, weighted, products)
        found[group.name] = next((tuple(each[group.variable]) for each in orders if group.variable in each), ())
    return found


def inside_heads(analysis: Analysis) -> frozenset[str]:
    """Names of the groups whose indices lie inside heads."""
    live = live_nodes(analysis.program)
    own = {variable for node in _contractions(analysis.propagation) for variable in _own(analysis, node, live)}
    counted = _counted_within(analysis.propagation)
    return frozenset(group.name for group in analysis.groups if group.variable in own & counted)


def heads_around(analysis: Analysis) -> frozenset[str]:
    """Names of the groups within which what lies inside heads is counted: heads, key/value groups."""
    inside = {analysis.group(name).variable for name in inside_heads(analysis)}
    around = {
        each
        for axes in analysis.propagation.tensors.values()
        for axis in axes
        for variable, before in occurrences(axis, frozenset())
        if variable in inside
        for each in before
    }
    return frozenset(group.name for group in analysis.groups if group.variable in around - inside)


def sorted_rows(node: Node) -> bool:
    """Whether a value's rows are sorted by experts, so that they no longer follow the inputs' samples."""
    return any("grouped_mm" in str(user.target) for user in node.users)


def live_nodes(program: Program) -> set[Node]:
    """Values that depend on the model's inputs."""
    found = set[Node]()
    for node in program.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _by_variable(pairs: Iterator[tuple[Variable, Node]]) -> dict[Variable, dict[Node, None]]:
    found: dict[Variable, dict[Node, None]] = {}
    for variable, node in pairs:
        found.setdefault(variable, {})[node] = None
    return found


def _contractions(propagation: Propagation) -> Iterator[Node]:
    for node in propagation.mixed:
        rule = find_rule(node.target)
        if rule is not None and rule.role is Role.CONTRACTION:
            yield node


def _operands(analysis: Analysis, live: set[Node], *, activations: int) -> Iterator[tuple[Variable, Node]]:
    """What products with so many live factors along a variable read of it."""
    propagation = analysis.propagation
    for node in _contractions(propagation):
        for variable in {each: None for axis in propagation.mixed[node] for each in variables_of(axis)}:
            holding = [each for each in dict.fromkeys(node.all_input_nodes) if _holds(propagation, each, variable)]
            alive = [each for each in holding if each in live]
            if len(alive) == activations or (activations == 2 and alive and len(alive) == len(holding)):
                yield from ((variable, each) for each in alive)


def _holds(propagation: Propagation, node: Node, variable: Variable) -> bool:
    axes = propagation.values.get(node)
    return isinstance(axes, TensorAxes) and any(variable in leaves(axis) for axis in axes)


def _norm_outputs(analysis: Analysis) -> Iterator[tuple[Variable, Node]]:
    nodes = analysis.program.nodes
    order = {node: at for at, node in enumerate(nodes)}
    for node, mixed in analysis.propagation.mixed.items():
        rule = find_rule(node.target)
        if rule is None or rule.role is not Role.REDUCTION:
            continue
        stretch = _rest_of_module(nodes[order[node] :])
        for variable in {each: None for axis in mixed for each in variables_of(axis)}:
            holding = [each for each in stretch if _holds(analysis.propagation, each, variable)]
            if holding:
                yield variable, holding[-1]


def _rest_of_module(nodes: tuple[Node, ...]) -> list[Node]:
    """The first node and those right behind it in its innermost module; none where that module holds a product."""
    path, found = innermost(nodes[0]), list[Node]()
    for node in nodes:
        if node.op == "call_function" and innermost(node) != path:
            break
        rule = find_rule(node.target) if node.op == "call_function" else None
        if rule is not None and rule.role is Role.CONTRACTION:
            return []
        found.append(node)
    return found


def innermost(node: Node) -> str:
    """Path of the innermost module that an operation ran in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _own(analysis: Analysis, node: Node, live: set[Node]) -> Iterator[Variable]:
    """Variables of a product of activations that it sums over, or that one of its factors alone has at its end."""
    axes = [analysis.propagation.values.get(each) for each in node.all_input_nodes if each in live]
    factors = [each for each in axes if isinstance(each, TensorAxes)]
    if len(factors) < 2:
        return
    summed = {variable for axis in analysis.propagation.mixed[node] for variable in variables_of(axis)}
    held = [{variable for axis in each for variable in variables_of(axis)} for each in factors]
    for factor in factors:
        for axis in factor[-2:]:
            for variable in variables_of(axis):
                if variable in summed or sum(variable in each for each in held) == 1:
                    yield variable


def _counted_within(propagation: Propagation) -> set[Variable]:
    """Variables that stand behind another one in an axis of a parameter."""
    return {
        variable
        for axes in propagation.tensors.values()
        for axis in axes
        for variable, before in occurrences(axis, frozenset())
        if any(each.size > 1 for each in before)
    }
