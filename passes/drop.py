"""Drop blocks: the captured program without them, for every later stage to work on as if it had been captured so.

The stream bypasses a block: whoever read its output reads its input. Its operations go, then everything that only
they needed: parameters, buffers, constants, modules, operations further up. Names of what remains stay as they are,
so that the keys of a state dict are the original's, less the dropped ones.

Where the output is written to in place later, a copy of the input takes its place, lest the write reach other readers
of the input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch
from torch.fx import Graph, GraphModule, Node

from fxprune.aliasing import offspring, written
from fxprune.blocks import Block, outermost
from fxprune.program import Program, later_names

aten = torch.ops.aten


def drop_blocks(program: Program, blocks: Sequence[Block]) -> Program:
    """The program without `blocks`.

    Args:
        program: the captured model; it is not changed.
        blocks: blocks of this program, as `find_blocks` returns them.

    Returns:
        A program of its own that shares the tensors that remain; `program` itself where there are no blocks.
    """
    if not blocks:
        return program
    blocks = outermost(blocks)
    graph = Graph(tracer_cls=program.graph_module.graph._tracer_cls)
    copies: dict[Node, Node] = {}
    graph.output(graph.graph_copy(program.graph_module.graph, copies))
    _copy_output(program.graph_module.graph, graph)
    order = {node: at for at, node in enumerate(program.nodes)}
    for block in sorted(blocks, key=lambda each: -order[each.output]):  # later ones first: their input is still there
        _bypass(graph, copies[block.input], copies[block.output])
    _erase(graph, [copies[node] for block in blocks for node in block.nodes])
    return _without(program, graph, tuple(block.name for block in blocks))


def _copy_output(original: Graph, graph: Graph) -> None:
    """What `graph_copy` leaves out: the meta data of the output and the code generator with the tree structures."""
    last = next(iter(reversed(graph.nodes)))
    last.meta = copy.copy(next(iter(reversed(original.nodes))).meta)
    graph._codegen = copy.deepcopy(original._codegen)


def _bypass(graph: Graph, source: Node, output: Node) -> None:
    """Readers of the output read the source, or a copy of it where they write."""
    own = offspring(output)
    if any(value in own for reader in own for user in reader.users for value in written(user)):
        with graph.inserting_after(output):
            source, original = graph.call_function(aten.clone.default, (source,)), source
        source.meta = {key: each for key, each in original.meta.items() if key != "nn_module_stack"}
    output.replace_all_uses_with(source, delete_user_cb=lambda user: user is not source)


def _erase(graph: Graph, nodes: Iterable[Node]) -> None:
    """Take operations out, whether they write in place or not, and what only they needed."""
    gone = set(nodes)
    for node in reversed(graph.nodes):
        if node in gone:
            assert not node.users, node
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _without(program: Program, graph: Graph, paths: Sequence[str]) -> Program:
    """The program with this graph, and with no more than it needs of what the paths held."""
    names = _kept_names(program, graph, paths)
    modules = [path for path in program.module_types if not _is_below(path, paths) or _holds(path, names)]
    _rename(program, graph, names)
    return replace(
        program,
        graph_module=_module(program, graph),
        tensors={name: program.tensors[name] for name in names},
        buffers=program.buffers & names.keys(),
        transient=program.transient & names.keys(),
        constants={name: each for name, each in program.constants.items() if name in _targets(graph)},
        aliases=later_names({name: program.canonical(name) for name in names}),
        module_types={path: program.module_types[path] for path in modules},
        module_aliases=later_names({path: program.module_aliases.get(path, path) for path in modules}),
        training={path: program.training[path] for path in modules},
        lost_dropout=tuple(path for path in program.lost_dropout if path in modules),
        momentum={path: each for path, each in program.momentum.items() if path in modules},
    )


def _kept_names(program: Program, graph: Graph, paths: Sequence[str]) -> dict[str, None]:
    """Names of the tensors that remain, in order: what is read, and what never was and lies elsewhere.

    Of a tied tensor the names below the dropped paths go, unless it has no other.
    """
    before, after = program.reached(), {program.canonical(name) for name in _targets(graph) if name in program.tensors}
    gone = before - after
    elsewhere = {program.canonical(name) for name in program.tensors if not _is_below(name, paths)}
    kept = dict.fromkeys(name for name in program.tensors if program.canonical(name) not in gone)
    return {
        name: None
        for name in kept
        if not _is_below(name, paths) or (program.canonical(name) in after and program.canonical(name) not in elsewhere)
    }


def _rename(program: Program, graph: Graph, names: Mapping[str, None]) -> None:
    """Reads of a tied tensor whose name is gone go by one that remains."""
    remaining = {program.canonical(name): name for name in reversed(list(names))}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in program.tensors and node.target not in names:
            node.target = remaining[program.canonical(str(node.target))]


def _module(program: Program, graph: Graph) -> GraphModule:
    """A module around the graph; it takes the tensors that the graph reads from the original's."""
    module = GraphModule(program.graph_module, graph, program.graph_module.__class__.__name__)
    module.meta = dict(program.graph_module.meta)
    return module


def _targets(graph: Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}


def _is_below(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _holds(path: str, names: AbstractSet[str] | Mapping[str, None]) -> bool:
    return any(name.startswith(f"{path}.") for name in names)
