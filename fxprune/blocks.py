"""Depth: the blocks of a model that can be dropped whole.

A block is a module with siblings of its class below the same parent (layers of a transformer, units of a stage). Its
region is the operations that run inside it, by `nn_module_stack`. It can be dropped, its output replaced by its input,
if

1. the stream enters and leaves: one value that enters the region arrives, by its skip path (`fxprune.skip`), at one
   value that leaves it, through a residual add that does not lie in a block further inside, in the same shape, layout
   and type, and on the same axes;
2. nothing else leaves that the weights of the block or its stream have a part in: no cache, no position bias that later
   blocks use. What leaves for other reasons, a mask converted in the first layer, stays in the graph;
3. nothing outside is written to in place, save the stream where nobody else reads it later;
4. the module is found under one name only.

Where only adds lie on the skip path the block is the identity but for its branches (`Block.identity`); where a
normalisation or an activation follows the add (BERT, ResNet), dropping takes that away too, as Minitron (arXiv
2407.14679) and ShortGPT (arXiv 2403.03853) do. A module that repeats but fails is a `Refusal`, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import Node

from fxprune.program import Program
from fxprune.propagate import Propagation
from fxprune.region import Obstacle, Region, Stream, find_stream, kept_nodes, make_region


@dataclass(frozen=True, slots=True)
class Block:
    """A module whose output its input can replace.

    Attributes:
        name: path of the module, `model.layers.3`.
        kind: name of its class.
        family: path of the module whose children it and its siblings are; with `kind`, what repeats.
        input: the value that enters as the stream.
        output: the value that leaves as the stream.
        nodes: operations that go with the block, in order of execution; the output is one of them.
        parameters: number of parameter elements that go with it, tied ones once.
        identity: whether the skip path is the identity: adds alone, no normalisation or activation behind them.
        inside: name of the innermost block that holds this one, or None.
    """

    name: str
    kind: str
    family: str
    input: Node
    output: Node
    nodes: tuple[Node, ...]
    parameters: int
    identity: bool
    inside: str | None

    def __str__(self) -> str:
        """One line: name, class, parameters."""
        return f"{self.name}: {self.kind}, {self.parameters:,} parameters"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A module that repeats and cannot be dropped: why, and the nodes that stand in the way."""

    name: str
    kind: str
    family: str
    reason: str
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """Blocks that can be dropped and modules that cannot although they repeat, in the model's order."""

    blocks: tuple[Block, ...]
    refusals: tuple[Refusal, ...]


def find_blocks(program: Program, propagation: Propagation) -> tuple[Block, ...]:
    """The blocks that can be dropped, in the model's order."""
    return survey_blocks(program, propagation).blocks


def survey_blocks(program: Program, propagation: Propagation) -> Survey:
    """Look at every module that repeats; linear in the size of the graph times the depth of its modules."""
    candidates = dict(repeated_modules(program))
    regions, readers = _regions(program, candidates), readers_of(program)
    found: dict[str, Block | Refusal] = {}
    inner: dict[str, set[Node]] = defaultdict(set)
    for path in sorted(candidates, key=lambda each: -each.count(".")):  # what lies inside comes first
        region = make_region(regions[path], program.constants.keys(), inner[path])
        stream = _examine(path, program, propagation, region)
        if isinstance(stream, Obstacle):
            found[path] = Refusal(path, _class_name(program, path), candidates[path], stream.reason, stream.nodes)
            continue
        block = found[path] = _block(path, candidates[path], program, region, stream, readers)
        for around in _around(path):
            inner[around].update(block.nodes)
    return Survey(
        tuple(_placed(each, found) for path in candidates if isinstance(each := found[path], Block)),
        tuple(each for path in candidates if isinstance(each := found[path], Refusal)),
    )


def outermost(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Those of `blocks` that lie in no other of them."""
    names = {block.name for block in blocks}
    return tuple(block for block in blocks if names.isdisjoint(_around(block.name)))


def readers_of(program: Program) -> dict[str, set[Node]]:
    """Canonical name of each parameter and buffer that the graph reads -> the operations that read it."""
    readers: dict[str, set[Node]] = defaultdict(set)
    for node in program.graph_module.graph.nodes:
        if node.op == "get_attr" and node.target in program.tensors:
            readers[program.canonical(node.target)].update(node.users)
    return dict(readers)


def repeated_modules(program: Program) -> Iterator[tuple[str, str]]:
    """Paths of modules that have siblings of their class, and their parents'; containers and single layers left out."""
    parents = {path.rpartition(".")[0] for path in program.module_types if path}
    families: dict[tuple[str, type], list[str]] = defaultdict(list)
    for path, kind in program.module_types.items():
        layer = kind.__module__.startswith("torch.nn.modules") and path not in parents
        if path and not layer and kind not in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            families[path.rpartition(".")[0], kind].append(path)
    repeated = {path: parent for (parent, _), paths in families.items() if len(paths) > 1 for path in paths}
    yield from ((path, repeated[path]) for path in program.module_types if path in repeated)


def _regions(program: Program, candidates: Mapping[str, str]) -> dict[str, list[Node]]:
    """Operations that run inside each candidate, in order of execution."""
    regions: dict[str, list[Node]] = {path: [] for path in candidates}
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function":
            for path in {str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()}:
                if path in regions:
                    regions[path].append(node)
    return regions


def _examine(path: str, program: Program, propagation: Propagation, region: Region) -> Stream | Obstacle:
    if not region.nodes:
        return Obstacle("the captured forward does not run it")
    other = _other_name(path, program)
    if other is not None:
        return Obstacle(f"it is found under several names ({other})")
    return find_stream(region, propagation)


def _other_name(path: str, program: Program) -> str | None:
    """Another path of the module or of one around it."""
    here = {path, *_around(path)}
    return next((f"{a} is {b}" for a, b in program.module_aliases.items() if a in here or b in here), None)


def _around(path: str) -> Iterator[str]:
    """Paths of the modules around a module, innermost first; the model itself left out."""
    while path := path.rpartition(".")[0]:
        yield path


def _block(
    path: str, family: str, program: Program, region: Region, stream: Stream, readers: Mapping[str, set[Node]]
) -> Block:
    kept = kept_nodes(region, stream)
    nodes = tuple(node for node in region.nodes if node not in kept)
    own = _own_tensors(program, nodes, readers)
    return Block(
        name=path,
        kind=_class_name(program, path),
        family=family,
        input=stream.input,
        output=stream.output,
        nodes=nodes,
        parameters=sum(program.tensors[name].numel() for name in own if name not in program.buffers),
        identity=stream.skip.exact,
        inside=None,
    )


def _own_tensors(program: Program, nodes: Sequence[Node], readers: Mapping[str, set[Node]]) -> set[str]:
    """Canonical names of the tensors that these operations alone read."""
    gone = set(nodes)
    read = {each for node in nodes for each in node.all_input_nodes if each.op == "get_attr"}
    names = {program.canonical(str(each.target)) for each in read if each.target in program.tensors}
    return {name for name in names if readers[name] <= gone}


def _class_name(program: Program, path: str) -> str:
    return program.module_types[path].__name__


def _placed(block: Block, found: Mapping[str, Block | Refusal]) -> Block:
    """The block, with the name of the one around it."""
    return replace(
        block, inside=next((each for each in _around(block.name) if isinstance(found.get(each), Block)), None)
    )
