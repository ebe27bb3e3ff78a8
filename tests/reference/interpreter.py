"""The original graph, run with some of its parameters cut.

The definition of what a cut means: contractions do not see dead elements, statistics are those of alive elements,
everything else happens element by element. Operations' rules are in the modules beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._pytree import tree_leaves, tree_map

from tests.reference.calls import is_masked
from tests.reference.dispatch import evaluate
from tests.reference.grids import grid_index
from tests.reference.parameters import Slices, parameter_mask
from tests.reference.values import Masked, spread, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def masked_outputs(
    graph_module: fx.GraphModule,
    slices: Slices,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    shortcut: bool = True,
) -> list[Tensor]:
    """What the cut model must return: the flat list of its output tensors.

    Args:
        graph_module: the uncut graph, ATen operations as ``torch.export`` gives them.
        slices: what remains of each parameter and buffer: ``{name: {dim: kept indices}}``.
        args: the model's positional inputs.
        kwargs: the model's keyword inputs.
        shortcut: run operations as they are where nothing is dead (bit for bit); without it every rule is exercised.

    Raises:
        AssertionError: the cut is one that is never allowed, or reaches an output.
        NotImplementedError: a cut meets an operation whose meaning under a cut is not defined here.
    """
    run = Run(graph_module, slices, shortcut)
    outputs = run.graph(graph_module, flat_inputs(graph_module, args, kwargs or {}))
    leaves = [leaf for leaf in tree_leaves(outputs, is_leaf=is_masked) if isinstance(leaf, Masked)]
    for position, leaf in enumerate(leaves):
        assert leaf.whole, f"output {position} of shape {tuple(leaf.value.shape)} is cut"
    return [leaf.value for leaf in leaves]


def masked_values(
    graph_module: fx.GraphModule,
    slices: Slices,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    shortcut: bool = True,
) -> dict[str, Any]:
    """Every node's result, tensors as ``Masked`` copies of what they were when computed."""
    seen: dict[str, Any] = {}

    def remember(node: fx.Node, result: Any) -> None:
        seen[node.name] = tree_map(
            lambda leaf: Masked(leaf.value.clone(), leaf.alive.clone()) if isinstance(leaf, Masked) else leaf,
            result,
            is_leaf=is_masked,
        )

    Run(graph_module, slices, shortcut, remember).graph(graph_module, flat_inputs(graph_module, args, kwargs or {}))
    return seen


def alive_shapes(
    graph_module: fx.GraphModule,
    slices: Slices,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The shape that every node's tensors have in the cut model.

    Raises:
        AssertionError: what is alive of a node is no dense tensor; the plan is wrong.
    """
    shapes: dict[str, Any] = {}

    def measure(node: fx.Node, result: Any) -> None:
        def shape(leaf: Any) -> Any:
            if not isinstance(leaf, Masked):
                return leaf
            if leaf.whole:
                return tuple(leaf.value.shape)
            index = grid_index(leaf.alive)
            assert index is not None, f"{node.name} ({node.target}): the alive elements form no grid"
            return tuple(index.shape)

        shapes[node.name] = tree_map(shape, result, is_leaf=is_masked)

    Run(graph_module, slices, observe=measure).graph(graph_module, flat_inputs(graph_module, args, kwargs or {}))
    return shapes


@dataclass(slots=True)
class Run:
    """One run of a graph and of the graphs inside it."""

    root: fx.GraphModule
    slices: Slices
    shortcut: bool = True
    observe: Callable[[fx.Node, Any], None] | None = None
    fetched: dict[int, Masked] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slices = {name: cut for name, cut in self.slices.items() if cut}
        self.by_memory()

    def by_memory(self) -> None:
        """Mask every cut tensor, whatever the name it is later asked for under: tied weights are one tensor."""
        for name, cut in self.slices.items():
            tensor = attribute(self.root, name)
            assert isinstance(tensor, Tensor), name
            mask = parameter_mask(tensor.shape, cut)
            known = self.fetched.get(id(tensor))
            assert known is None or torch.equal(known.alive, mask), f"{name}: tied tensors are cut differently"
            self.fetched[id(tensor)] = spread(own(tensor), mask)

    def graph(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """The outputs of one graph."""
        environment: dict[fx.Node, Any] = {}
        remaining = list(inputs)
        with torch.no_grad():
            for node in module.graph.nodes:
                if node.op == "placeholder":
                    environment[node] = remaining.pop(0)
                elif node.op == "output":
                    assert not remaining, "more inputs than the graph takes"
                    return fx.map_arg(node.args[0], environment.__getitem__)
                else:
                    environment[node] = self.node(module, node, environment)
                if self.observe is not None:
                    self.observe(node, environment[node])
                release(node, environment)
        raise AssertionError("a graph without an output")

    def node(self, module: fx.GraphModule, node: fx.Node, environment: Mapping[fx.Node, Any]) -> Any:
        """The result of one node."""
        if node.op == "get_attr":
            return self.attribute(module, str(node.target))
        args = fx.map_arg(node.args, environment.__getitem__)
        kwargs = fx.map_arg(node.kwargs, environment.__getitem__)
        if node.op == "call_module":
            assert node.target == "_guards_fn", node.target
            return None
        assert node.op == "call_function", node.op
        try:
            return self.call(node.target, args, kwargs)
        except (AssertionError, NotImplementedError) as error:
            error.add_note(f"at node {node.format_node()}")
            raise

    def attribute(self, module: fx.GraphModule, name: str) -> Any:
        """A parameter or buffer, as a copy that operations may write to; a module as it is."""
        found = attribute(module, name)
        if not isinstance(found, Tensor):
            return found
        if id(found) not in self.fetched:
            self.fetched[id(found)] = whole(own(found))
        return self.fetched[id(found)]

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of tensors by its rule, a graph inside the graph, or arithmetic on sizes."""
        if isinstance(target, OpOverload):
            return evaluate(target, args, kwargs, shortcut=self.shortcut)
        if isinstance(target, HigherOrderOperator):
            return self.inner(target, args)
        return target(*args, **kwargs)

    def inner(self, target: HigherOrderOperator, args: tuple[Any, ...]) -> Any:
        """A graph under another gradient mode or autocast."""
        if target.name() == "wrap_with_set_grad_enabled":
            return self.graph(args[1], args[2:])
        if target.name() == "wrap_with_autocast":
            device, dtype, enabled, cache, module, *inputs = args
            with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache):
                return self.graph(module, inputs)
        raise NotImplementedError(target.name())


def flat_inputs(module: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The inputs as the graph's placeholders take them, copied, tensors wholly alive."""
    spec = getattr(module, "_in_spec", None)
    if spec is not None and spec.num_children == 2 and spec.child(1).context is not None:
        kwargs = {name: kwargs[name] for name in spec.child(1).context}
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    assert len(leaves) == len(placeholders), f"{len(leaves)} inputs for {len(placeholders)} placeholders"
    return [whole(own(leaf)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def own(tensor: Tensor) -> Tensor:
    """A copy to write to. It asks for gradients as the original does: matmul's choice of kernel depends on that."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def attribute(module: torch.nn.Module, name: str) -> Any:
    """The attribute under a dotted name."""
    found: Any = module
    for part in name.split("."):
        assert hasattr(found, part), f"the graph holds no {name}"
        found = getattr(found, part)
    return found


def release(node: fx.Node, environment: dict[fx.Node, Any]) -> None:
    """Forget what no later node asks for."""
    for source in node.all_input_nodes:
        if all(user in environment for user in source.users):
            environment[source] = None
