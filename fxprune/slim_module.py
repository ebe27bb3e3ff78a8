"""The result: a `torch.fx.GraphModule` with the original's module and parameter names, that knows how it came about."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxprune.copying import copying_graphs
from fxprune.errors import InputError
from fxprune.moving import follow, place_of
from fxprune.passes.raising import ModuleSpec, raise_modules
from fxprune.passes.slim import SlimGraph
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.scores import Scores
from fxprune.wording import WordedModule

if TYPE_CHECKING:
    from fxprune.report import Report

Built = TypeVar("Built", bound=GraphModule)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a slim module remembers of its making."""

    plan: Plan
    scores: Scores | None
    report: Report | None
    specs: Mapping[str, ModuleSpec]
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None


class SlimModule(WordedModule):
    """A slim model: an ordinary `nn.Module` to train, evaluate, move, save, compile and export.

    Its submodules are `torch.nn` modules under the original's names, and its state dict has the original's keys.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> SlimModule:
        """A copy with weights of its own, that remembers the same making."""
        with copying_graphs():
            copied = super().__deepcopy__(memo)
        assert isinstance(copied, SlimModule)
        type(copied).__name__ = type(self).__name__  # every instance has a class of its own
        for name in _TREE:  # GraphModule keeps only what the graph calls, in containers of its own
            setattr(copied, name, copy.deepcopy(self.__dict__[name], memo))
        return copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlimModule:
        """Move or convert; the graph follows to another device."""
        before = place_of(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        follow(self, before)
        return self

    @property
    def _provenance(self) -> Provenance:
        found: Provenance = self.meta["fxprune"]
        return found

    @property
    def plan(self) -> Plan:
        """What was kept, as data."""
        return self._provenance.plan

    @property
    def scores(self) -> Scores | None:
        """What the scorer found out, for use with another budget (`compile(..., scores=slim.scores)`)."""
        return self._provenance.scores

    @property
    def report(self) -> Report:
        """Before and after, and per group what went and why; `print` it, or take its `to_json()`."""
        if self._provenance.report is None:
            msg = "this slim module has no report: it was made from a plan; `.plan` has the decision"
            raise InputError(msg)
        return self._provenance.report

    @property
    def example_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword example inputs that the model was compiled with."""
        if self._provenance.example_inputs is None:
            msg = "this slim module was saved without example inputs: pass example_inputs="
            raise InputError(msg)
        return self._provenance.example_inputs


def assemble(program: Program, slim: SlimGraph, plan: Plan, scores: Scores | None) -> SlimModule:
    """A module around a slim graph: leaf modules raised, tensors under their names, training flags as they were."""
    name = f"Slim{program.root.__name__}"
    module, specs = build_module(SlimModule, name, program, slim.graph, slim.tensors, slim.constants)
    module.meta["fxprune"] = Provenance(plan, scores, None, specs, (program.args, dict(program.kwargs)))
    return module


def build_module(
    kind: type[Built],
    class_name: str,
    program: Program,
    graph: Graph,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Tensor | nn.Module],
    extra: Mapping[str, nn.Module] = MappingProxyType({}),
) -> tuple[Built, dict[str, ModuleSpec]]:
    """A module of a kind of `GraphModule` around an emitted graph.

    Args:
        kind: the class.
        class_name: how it calls itself.
        program: the captured original, for names, classes and the signature.
        graph: the emitted graph, which becomes the module's own.
        tensors: parameters and buffers by name.
        constants: folded constants by name.
        extra: further modules that the graph calls, by name.

    Returns:
        The module, and the `torch.nn` modules in it by path.
    """
    specs = raise_modules(graph, program, tensors)
    root = _module_tree(program, specs)
    for name, tensor in tensors.items():
        set_tensor(root, name, tensor, persistent=name not in program.transient)
    for name, constant in constants.items():
        set_tensor(root, name, constant, persistent=False)
    for name, each in extra.items():
        root.add_module(name, each)
    module = kind(root, graph, class_name=class_name)
    adopt(module, root)
    _give_signature(module, program)
    for path, child in module.named_modules():
        child.training = program.training.get(path, program.training[""])
    return module, specs


def _give_signature(module: GraphModule, program: Program) -> None:
    """The original's arguments and outputs: plain ones as they are, nested ones by their tree structure."""
    if (
        all(spec.is_leaf() for part in program.in_spec.children() for spec in part.children())
        and program.out_spec.is_leaf()
    ):
        output = next(iter(reversed(module.graph.nodes)))
        output.args = (output.args[0][0],)
    else:
        module.graph.set_codegen(program.graph_module.graph._codegen)
        module._in_spec, module._out_spec = program.in_spec, program.out_spec
    module.recompile()


def remember(slim: SlimModule, scores: Scores) -> SlimModule:
    """The same module, with these scores for other budgets: those of the whole model, where blocks were dropped later."""
    slim.meta["fxprune"] = replace(slim._provenance, scores=scores)
    return slim


def attach_report(module: SlimModule, report: Report) -> None:
    """Complete a module's memory with its report."""
    known = module._provenance
    module.meta["fxprune"] = Provenance(known.plan, known.scores, report, known.specs, known.example_inputs)


def _module_tree(program: Program, specs: Mapping[str, ModuleSpec]) -> nn.Module:
    """Modules at the original's paths, in its order: raised ones as what they are, the others as plain containers."""
    root = nn.Module()
    for path in [*program.module_types, *(path for path in specs if path not in program.module_types)]:
        parent, _, name = path.rpartition(".")
        if not path or parent in program.module_aliases:
            continue  # the root, or inside a module that has been put in place under its other name
        if path in program.module_aliases:
            made = root.get_submodule(program.module_aliases[path])
        else:
            made = build_meta(specs[path]) if path in specs else nn.Module()
        root.get_submodule(parent).add_module(name, made)
    return root


def build_meta(spec: ModuleSpec) -> nn.Module:
    """The module with no memory behind its tensors, which are set next."""
    with torch.device("meta"):
        return spec.build()


def set_tensor(root: nn.Module, name: str, tensor: Tensor | nn.Module, *, persistent: bool) -> None:
    """Put a parameter or buffer in its place below a root."""
    path, _, own = name.rpartition(".")
    module = root.get_submodule(path)
    if isinstance(tensor, nn.Module):  # the graph of a region that could not be inlined
        module.add_module(own, tensor)
    elif isinstance(tensor, nn.Parameter):
        module.register_parameter(own, tensor)
    else:
        module.register_buffer(own, tensor, persistent=persistent)


def adopt(module: GraphModule, root: nn.Module) -> None:
    """Take over all of the tree: GraphModule itself copies only what its graph calls, in the order of the calls."""
    for name in _TREE:
        setattr(module, name, root.__dict__[name])


_TREE = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
"""What a module has of its own: submodules, parameters, buffers."""
