"""The operations inside a module as a piece of the graph: what enters, what leaves, and the stream through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fxprune.aliasing import aliases, reached, sources, written
from fxprune.axes import leaves
from fxprune.propagate import Propagation
from fxprune.rules.elementwise import TensorAxes
from fxprune.skip import Skip, Stretch, Walk, adds_two, shape_of, walk, weighted_nodes


@dataclass(frozen=True, slots=True)
class Region:
    """Operations with what connects them to the rest.

    Attributes:
        nodes: the operations, in order of execution.
        members: the same as a set.
        entering: values from outside that they read, parameters, buffers and constants left out.
        leaving: those of the operations that are read outside.
        stretch: the same operations for walking.
    """

    nodes: tuple[Node, ...]
    members: AbstractSet[Node]
    entering: tuple[Node, ...]
    leaving: tuple[Node, ...]
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream through a region: where it enters and leaves, and how it gets there."""

    input: Node
    output: Node
    skip: Skip
    walk: Walk


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a region cannot be bypassed, and the nodes in the way."""

    reason: str
    nodes: tuple[Node, ...] = ()


def make_region(nodes: Iterable[Node], constants: AbstractSet[str], inner: AbstractSet[Node]) -> Region:
    """The region of these operations; `inner` are those that lie in blocks further inside."""
    ordered = tuple(nodes)
    members = frozenset(ordered)
    entering = dict.fromkeys(
        each for node in ordered for each in node.all_input_nodes if each.op != "get_attr" and each not in members
    )
    leaving = tuple(node for node in ordered if any(user not in members for user in node.users))
    stretch = Stretch(ordered, weighted_nodes(ordered, constants), inner)
    return Region(ordered, members, tuple(entering), leaving, stretch)


def find_stream(region: Region, propagation: Propagation) -> Stream | Obstacle:
    """The stream through a region, if there is exactly one and it can be bypassed."""
    if not any(adds_two(node) for node in region.nodes):
        return Obstacle("no residual add runs in it")
    found = list(_streams(region))
    if not found:
        return _no_stream(region)
    own = [each for each in found if each.skip.own]
    if not own:
        return Obstacle("its residual adds all lie in blocks inside it", tuple(each.output for each in found))
    best = [each for each in own if each.skip.exact] or own
    if len(best) > 1:
        return Obstacle("several values pass through it by residual adds", tuple(each.output for each in best))
    stream = best[0]
    if not _same_axes(propagation, stream):
        return Obstacle("what leaves it lies on other axes than what enters", (stream.output,))
    return _other_leaving(region, stream) or _outside_writes(region, stream) or stream


def kept_nodes(region: Region, stream: Stream) -> set[Node]:
    """Operations of a region that stay when it is bypassed: those that others read for reasons of their own."""
    others = (node for node in region.leaving if node is not stream.output)
    return reached(others, lambda node: (each for each in node.all_input_nodes if each in region.members))


def _streams(region: Region) -> Iterator[Stream]:
    """Every pair of an entering and a leaving value with residual adds between them."""
    goals = {node: _kind(node) for node in region.leaving}
    kinds = {kind for kind in goals.values() if kind is not None}
    for source in region.entering:
        kind = _kind(source)
        if kind not in kinds:
            continue
        walked = walk(region.stretch, source)
        for goal, own in goals.items():
            skip = walked.skips.get(goal)
            if own == kind and skip is not None and skip.adds and not skip.layout:
                yield Stream(source, goal, skip, walked)


def _kind(node: Node) -> object:
    """What two values must have in common for one to stand in for the other; None for what is no floating tensor."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not (value.dtype.is_floating_point or value.dtype.is_complex):
        return None
    return shape_of(node), value.dtype, value.device, tuple(map(str, value.shape))


def _no_stream(region: Region) -> Obstacle:
    if not region.leaving:
        return Obstacle("nothing that it computes is used")
    entering = {_kind(each) for each in region.entering} - {None}
    if entering.isdisjoint(map(_kind, region.leaving)):
        return Obstacle("what leaves it has another shape or type than what enters", region.leaving)
    return Obstacle(
        "no path from what enters to what leaves passes by its weights through a residual add", region.leaving
    )


def _same_axes(propagation: Propagation, stream: Stream) -> bool:
    """Whether the analysis found input and output to hold the same indices, along all axes that can be cut."""
    before, after = propagation.values.get(stream.input), propagation.values.get(stream.output)
    if not isinstance(before, TensorAxes) or not isinstance(after, TensorAxes):
        return False
    pairs = [(tuple(leaves(a)), tuple(leaves(b))) for a, b in zip(before, after, strict=True)]
    return all(a == b or all(each.pin is not None or each.size == 1 for each in (*a, *b)) for a, b in pairs)


def _other_leaving(region: Region, stream: Stream) -> Obstacle | None:
    """Something leaves beside the stream that the weights or the stream have a part in."""
    others = tuple(node for node in region.leaving if node is not stream.output and not _stays(node, region, stream))
    if not others:
        return None
    weights = any(node in region.stretch.weighted for node in others)
    source = "its weights" if weights else "its input"
    names = ", ".join(node.name for node in others[:3])
    return Obstacle(f"beside the residual stream, what is made of {source} is used outside it ({names})", others)


def _stays(node: Node, region: Region, stream: Stream) -> bool:
    """Whether a leaving value is none of the block's business: no weights in it, and of the stream at most itself."""
    if node in region.stretch.weighted:
        return False
    skip = stream.walk.skips.get(node)
    return node not in stream.walk.fed or (skip is not None and skip.untouched)


def _outside_writes(region: Region, stream: Stream) -> Obstacle | None:
    """An operation writes to memory that is read outside, the stream's own apart where nobody else reads it later."""
    for node in region.nodes:
        for value in written(node):
            for root in _roots(value, region.members):
                own = root.op == "get_attr" and all(user in region.members for user in root.users)
                if not own and (root is not stream.input or _read_later(region, stream)):
                    return Obstacle(f"it writes in place to a value from outside it ({root.name})", (node,))
    return None


def _roots(value: Node, members: AbstractSet[Node]) -> set[Node]:
    """Values from outside whose memory `value` may share."""
    return reached([value], lambda node: sources(node) if node in members else ()) - members


def _read_later(region: Region, stream: Stream) -> bool:
    """Whether anybody but the region reads the stream's memory once the region has begun."""
    shared = aliases(stream.input, beyond={stream.output}) - {stream.output}
    first = region.nodes[0]
    return any(
        user not in region.members and first < user
        for each in shared
        for user in each.users
        if each not in region.members
    )
