"""Capture: a module becomes a graph of ATen operations by `torch.export` (non-strict), batch and length free if they can.

The model is captured in eval mode on a structural copy that shares its tensors, so that neither training flags nor
attributes that `forward` assigns ever change on the user's object. Example inputs of batch size 1 are repeated first:
`torch.export` takes a size of 1 for a constant. The length of token sequences (dimension 1 of inputs of whole numbers)
is left free too, if the model does not depend on it. Where it insists on its batch size (a hard-coded view, say), it is
captured with the example inputs as they are, and a note says so. Where its Python branches on values of tensors,
the branches of the example inputs are kept, and a note says that.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.caches import empty_caches
from fxprune.capture_errors import explain_failure, first_line
from fxprune.errors import CaptureError
from fxprune.exclusive import EXCLUSIVE
from fxprune.inputs import Inputs, find_inputs
from fxprune.passes.fold import fold_constants
from fxprune.passes.inline import inline_regions
from fxprune.program import Program, later_names
from fxprune.refused import obstacle
from fxprune.rules.trace import result_shapes

_TRACED_BATCH = 3
"""Batch size that examples of batch size 1 are repeated to: a prime that few other axes have."""


def capture(model: nn.Module, example_inputs: Any = None, *, free_batch: bool = True) -> Program:
    """Capture one forward pass of `model`.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them from the model.
        free_batch: whether to try for a free batch size, which takes about twice as long.

    Returns:
        The graph with its parameters, constants folded.

    Raises:
        InputError: example inputs are missing or unusable.
        CaptureError: `model` is no module, or `torch.export` cannot trace it.
    """
    _check_model(model)
    inputs, notes = find_inputs(model, example_inputs)
    shell = structural_copy(model).eval()
    without_cache(shell)
    with EXCLUSIVE:
        exported, traced, told = _export(shell, inputs, free_batch=free_batch)
    dynamic = traced is not None
    graph_module = exported.module(check_guards=False)
    assert isinstance(graph_module, GraphModule)
    inline_regions(graph_module)
    _reshape_for_view(graph_module)
    _clean(graph_module)
    names, aliases = _names(model)
    constants = fold_constants(graph_module, frozenset(names))
    for node in graph_module.graph.nodes:
        node.meta["shapes"] = result_shapes(node)
    assert exported.call_spec.in_spec is not None
    assert exported.call_spec.out_spec is not None
    return Program(
        graph_module=graph_module,
        tensors=names,
        buffers=frozenset(name for name, _ in model.named_buffers(remove_duplicate=False)),
        transient=_transient(model),
        constants=constants,
        aliases=aliases,
        module_types={path: type(module) for path, module in model.named_modules(remove_duplicate=False)},
        module_aliases=_module_aliases(model),
        training={path: module.training for path, module in model.named_modules(remove_duplicate=False)},
        lost_dropout=tuple(
            path for path, m in model.named_modules() if isinstance(m, nn.MultiheadAttention) and m.dropout > 0
        ),
        momentum={path: m.momentum for path, m in model.named_modules() if isinstance(m, _BatchNorm)},
        args=inputs[0],
        kwargs=inputs[1],
        traced=tuple(tree_leaves(inputs if traced is None else traced)),
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        dynamic_batch=dynamic,
        notes=(*notes, *told),
        root=type(model),
    )


def structural_copy(model: nn.Module, instead: Mapping[int, Tensor] = MappingProxyType({})) -> nn.Module:
    """A deep copy of all modules and attributes that shares every parameter and buffer with the original, caches emptied.

    Args:
        model: is not changed.
        instead: id of a tensor -> what the copy has in its place.

    Raises:
        CaptureError: something in the model cannot be copied.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers(), *computed_tensors(model))}
    try:
        copied = copy.deepcopy(model, {**shared, **instead})
    except Exception as error:
        msg = (
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {first_line(error)}). fxprune "
            "captures a copy so that your model stays as it is; remove the attribute that cannot be copied, or give it "
            "a __deepcopy__"
        )
        raise CaptureError(msg) from error
    empty_caches(copied)
    return copied


def computed_tensors(model: nn.Module) -> list[Tensor]:
    """Weights that a hook computes anew before each pass and leaves as attributes (`weight_norm`, `torch.nn.utils.prune`).

    Such tensors have a history, and torch refuses to copy them; the copy's own hooks replace them.
    """
    found = (each for module in model.modules() for each in vars(module).values())
    return [each for each in found if isinstance(each, Tensor) and not each.is_leaf]


def _check_model(model: object) -> None:
    if isinstance(model, type) and issubclass(model, nn.Module):
        msg = f"{model.__name__} is a class; pass an instance, {model.__name__}(...)"
        raise CaptureError(msg)
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        msg = f"expected a torch.nn.Module, got {'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
        if isinstance(model, Mapping):
            msg += "; load a state dict into its model first, and pass the model"
        raise CaptureError(msg)
    why = obstacle(model)
    if why is not None:
        msg = f"{type(model).__name__} cannot be captured: {why}"
        raise CaptureError(msg)
    taken = [name for name in _own_names(model) if hasattr(GraphModule, name) or name in _RESERVED]
    if taken:
        msg = (
            f"{type(model).__name__} has a layer or tensor named {taken[0]!r}, a name that slim modules use; rename it"
        )
        raise CaptureError(msg)


_RESERVED = ("plan", "report", "scores", "example_inputs", "meta", "_provenance")
"""Names that the module fxprune returns uses for itself, beside those of `torch.fx.GraphModule`."""


def _own_names(model: nn.Module) -> list[str]:
    return [*model._modules, *model._parameters, *model._buffers]


def without_cache(shell: nn.Module) -> None:
    """Have a Transformers model return no key/value cache: its heads would be outputs and so pinned.

    Encoder-decoder models keep a configuration of their own for each part.
    """
    for module in shell.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False  # type: ignore[union-attr]


def _export(
    shell: nn.Module, inputs: Inputs, *, free_batch: bool
) -> tuple[ExportedProgram, Inputs | None, tuple[str, ...]]:
    """The exported program, the inputs it was traced with if its batch size is free, and what the user should know."""
    traced: Inputs = tree_map(_repeat, inputs) if _batch_size(inputs) == 1 else inputs
    failure: Exception | None = None
    baked = False
    for free in _free_sizes(traced) if free_batch else ():
        exported, error = _try_export(shell, traced, free, baked=False)
        baked = _depends_on_values(error)
        if baked:  # sizes may follow from values then, so that the length is left as it is
            exported, error = _try_export(shell, traced, (0,), baked=True)
        if exported is not None and all(_is_free(size) for size in _batches(exported, traced)):
            fixed = len(free) > 1 and not all(_is_free(size) for size in _lengths(exported, traced))
            return exported, traced, (*(_BAKED if baked else ()), *(_FIXED_LENGTH if fixed else ()))
        failure = failure or error
        if baked:
            break
    exported, error = _try_export(shell, inputs, (), baked=baked)
    if exported is None:
        assert error is not None
        raise CaptureError(explain_failure(shell, inputs, error)) from (failure or error)
    return exported, None, (*(_BAKED if baked else ()), *(_FIXED_BATCH if free_batch else ()))


_FIXED_BATCH = ("the batch size is fixed: the model could not be captured with a free one",)
_FIXED_LENGTH = ("the sequence length is fixed to that of the example inputs: the model's Python depends on it",)
_BAKED = (
    "the model's Python branches on values of its inputs: the slim module keeps the branches of the example inputs",
)


def _free_sizes(inputs: Inputs) -> list[tuple[int, ...]]:
    """Which dimensions to leave free, in the order of attempts: batch and sequence, then batch alone."""
    if _batch_size(inputs) is None:
        return []
    return [(0, 1), (0,)] if any(map(_is_sequence, tree_leaves(inputs))) else [(0,)]


def _is_sequence(leaf: object) -> bool:
    """Whether dimension 1 of an input counts tokens: those are whole numbers, and so are their masks and positions."""
    return (
        isinstance(leaf, Tensor)
        and leaf.dim() >= 2
        and leaf.shape[1] > 1
        and not leaf.is_floating_point()
        and not leaf.is_complex()
    )


def _depends_on_values(error: BaseException | None) -> bool:
    """Whether a capture failed because Python asked for the value of a tensor."""
    while error is not None:
        if isinstance(error, GuardOnDataDependentSymNode):
            return True
        error = error.__cause__ or error.__context__
    return False


def _try_export(
    shell: nn.Module, inputs: Inputs, free: tuple[int, ...], *, baked: bool
) -> tuple[ExportedProgram | None, Exception | None]:
    """Export with these dimensions of the inputs free, as far as the model's code leaves them so; or what went wrong."""
    try:
        return _run_export(shell, inputs, _shapes(inputs, free) if free else None, baked=baked), None
    except Exception as error:
        return None, error


def _shapes(inputs: Inputs, free: tuple[int, ...]) -> ShapesCollection:
    shapes = ShapesCollection()
    batch = _batch_size(inputs)
    for leaf in {id(leaf): leaf for leaf in tree_leaves(inputs)}.values():
        dims = {0: Dim.AUTO} if batch is not None and _has_batch(leaf, batch) else {}
        if 1 in free and _is_sequence(leaf):
            dims[1] = Dim.AUTO
        if dims:
            shapes[leaf] = dims
    return shapes


def _is_free(size: Any) -> bool:
    """Whether a size is symbolic and the capture has not settled it to a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _batches(exported: ExportedProgram, inputs: Inputs) -> list[Any]:
    """Dimension 0, as it was captured, of the inputs that have the batch there; a number where there are none."""
    batch = _batch_size(inputs)
    return [value.shape[0] for value, leaf in _captured(exported, inputs) if batch and _has_batch(leaf, batch)] or [0]


def _lengths(exported: ExportedProgram, inputs: Inputs) -> list[Any]:
    """Dimension 1, as it was captured, of the inputs that have tokens there."""
    return [value.shape[1] for value, leaf in _captured(exported, inputs) if _is_sequence(leaf)]


def _captured(exported: ExportedProgram, inputs: Inputs) -> list[tuple[Tensor, Tensor]]:
    """Tensor inputs as the capture saw them, each with the example."""
    names = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    pairs = ((values.get(name), leaf) for name, leaf in zip(names, tree_leaves(inputs), strict=True))
    return [(value, leaf) for value, leaf in pairs if isinstance(value, Tensor) and isinstance(leaf, Tensor)]


def _run_export(shell: nn.Module, inputs: Inputs, shapes: ShapesCollection | None, *, baked: bool) -> ExportedProgram:
    """Export; if `baked`, real values are computed beside the symbolic ones, and decide what Python asks of them."""
    args, kwargs = inputs
    values = functorch_config.patch(fake_tensor_propagate_real_tensors=baked)
    with _quiet(), no_fast_path(), values, torch.enable_grad():
        dynamic = None if shapes is None else shapes.dynamic_shapes(shell, args, kwargs)
        return torch.export.export(shell, args, kwargs or None, dynamic_shapes=dynamic, strict=False)


def _batch_size(inputs: Inputs) -> int | None:
    """Size that dimension 0 of the first tensor input has."""
    sizes = [leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    return sizes[0] if sizes and sizes[0] > 0 else None


def _has_batch(leaf: object, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


def _repeat(leaf: Any) -> Any:
    return torch.cat([leaf] * _TRACED_BATCH) if _has_batch(leaf, 1) else leaf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `torch.export`'s warnings and log lines about its own internals from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def no_fast_path() -> Iterator[None]:
    """Attention layers as their parts: the fused inference kernel hides them."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _clean(graph_module: GraphModule) -> None:
    """Drop run-time assertions about sizes and types, then what nothing uses."""
    graph = graph_module.graph
    for node in reversed(graph.nodes):
        if not node.users and node.op == "call_function" and "assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _reshape_for_view(graph_module: GraphModule) -> None:
    """Take every `view` for the `reshape` that it mostly was.

    `torch.export` records a reshape that needs no copy as a view. Whether it needs one depends on where a kernel leaves
    its result in memory, which differs between the kernel that the capture assumed and the one that runs.
    """
    for node in graph_module.graph.nodes:
        if node.target in _VIEWS:
            node.target = torch.ops.aten.reshape.default


_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def _names(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All parameters and buffers by name, and for tied ones the first name."""
    names: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    names.update(model.named_buffers(remove_duplicate=False))
    return names, later_names({name: id(tensor) for name, tensor in names.items()})


def _module_aliases(model: nn.Module) -> dict[str, str]:
    """Paths under which a module is found once more -> the path under which it was found first."""
    return later_names({path: id(module) for path, module in model.named_modules(remove_duplicate=False)})


def _transient(model: nn.Module) -> frozenset[str]:
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    )
