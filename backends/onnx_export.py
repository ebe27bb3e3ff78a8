"""PyTorch's ONNX exporter, made quiet, and its failures made readable.

The batch dimension is made dynamic where three things agree: the module itself runs on another batch size, the
exporter accepts a dynamic dimension, and the exported graph has kept it (the exporter fixes a size without complaint
if the module depends on it). Otherwise the graph is exported with the sizes of the example inputs, and a note says
why.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from fxprune.backends.dynamic import BATCH, DEPENDS, batch_shapes, traceable, why_fixed
from fxprune.backends.examples import batch_size_of, cloned
from fxprune.backends.onnx_operations import translations
from fxprune.backends.onnx_trace import trace_program
from fxprune.errors import BackendError
from fxprune.inputs import Inputs

INPUT_PATHS = "fxprune.inputs"
"""Metadata key: JSON object from an ONNX input's name to its place in `(args, kwargs)`, such as `[1]['mask']`."""

_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "torch._export", "onnxscript", "onnx_ir")
# Constant outputs and older opsets are as asked for; dynamic sizes are named here, not by the exporter.
_HARMLESS = (
    "has None output",
    "Skipping constant argument",
    "fallback is enabled",
    "Automatic version conversion",
    "dynamic axes will not be renamed",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What the exporter made: its `ONNXProgram`, and what the user should know about it."""

    program: Any
    notes: tuple[str, ...]

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return int(self.program.model.opset_imports[""])

    @property
    def dynamic_batch(self) -> bool:
        """Whether an input has a dynamic dimension 0."""
        return any(_first_symbol(value) is not None for value in self.program.model.graph.inputs)


def export_program(module: nn.Module, inputs: Inputs, *, dynamic_batch: bool, opset: int | None) -> Exported:
    """Export `module`, which is in eval mode, with a dynamic batch dimension where that is asked for and possible.

    Raises:
        BackendError: the exporter cannot handle the module even with fixed sizes, or not write the `opset`.
    """
    if dynamic_batch:
        exported = _export_dynamic(module, inputs, opset)
        if isinstance(exported, Exported):
            return _finished(exported, opset)
        reason = (f"the batch size is fixed to {batch_size_of(inputs)}: {exported}",)
    exported = _export(module, inputs, opset, dynamic=False)
    return _finished(Exported(exported.program, (*(reason if dynamic_batch else ()), *exported.notes)), opset)


def _export_dynamic(module: nn.Module, inputs: Inputs, opset: int | None) -> Exported | str:
    """The export with a dynamic batch dimension, or why there is none."""
    reason = why_fixed(module, inputs)
    if reason is not None:
        return reason
    try:
        exported = _export(module, traceable(inputs), opset, dynamic=True)
    except BackendError as error:
        if "Constraints violated" in str(error):
            return DEPENDS
        return f"export with a dynamic batch size failed ({error})"
    return exported if exported.dynamic_batch else DEPENDS


def _export(module: nn.Module, inputs: Inputs, opset: int | None, *, dynamic: bool) -> Exported:
    """One call of the exporter.

    Raises:
        BackendError: it failed; the message names the operation where that is known.
    """
    args, kwargs = cloned(inputs)
    with _heard() as messages:
        try:
            shapes = batch_shapes(module, (args, kwargs)) if dynamic else None
            traced = trace_program(module, args, kwargs, shapes)
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=opset, custom_translation_table=translations(), verbose=False
            )
        except Exception as error:
            # The exporter wraps what went wrong in errors of private classes, or lets it through as it is.
            raise BackendError(_explain(error)) from error
    assert program is not None
    return Exported(program, tuple(messages))


def _finished(exported: Exported, opset: int | None) -> Exported:
    """Check the opset, give dynamic sizes and outputs readable names, and note where each input belongs."""
    if opset is not None and exported.opset != opset:
        raise BackendError(
            f"the model cannot be written for opset {opset}, only for {exported.opset}: pass that or no opset"
        )
    _name_batch(exported.program.model.graph)
    _name_outputs(exported.program)
    exported.program.model.metadata_props[INPUT_PATHS] = json.dumps(_input_paths(exported.program))
    return exported


def _first_symbol(value: Any) -> str | None:
    """Name of a value's dimension 0 if it is dynamic."""
    return None if not value.shape or isinstance(value.shape[0], int) else str(value.shape[0].value)


def _name_batch(graph: Any) -> None:
    """Call the batch dimension `batch` wherever it occurs: the exporter keeps the tracer's name (`s77`) for it."""
    symbol = next(filter(None, map(_first_symbol, graph.inputs)), None)
    if symbol is None or symbol == BATCH:
        return
    import onnx_ir

    pattern = re.compile(rf"\b{re.escape(symbol)}\b")
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape(_renamed(size, pattern) for size in value.shape)


def _renamed(size: Any, pattern: re.Pattern[str]) -> int | str | None:
    """A dimension with the symbol replaced; fixed and unknown ones as they are."""
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return pattern.sub(BATCH, str(size.value))


def _name_outputs(program: Any) -> None:
    """Name the outputs after their place in the module's output: `logits`, `hidden_0`, `output`.

    An output that is an input or a parameter keeps its name, as does every output if their number is not the expected.
    """
    graph = program.model.graph
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    names = _output_names(program.exported_program)
    if len(names) != len(graph.outputs) or len(set(graph.outputs)) != len(graph.outputs):
        return
    taken |= {value.name for node in graph for value in node.outputs}
    for name, value in zip(names, graph.outputs, strict=True):
        if value.producer() is not None:
            value.name = _free_name(name, taken)
            taken.add(value.name)


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, with underscores appended until it is not in `taken`."""
    while name in taken:
        name += "_"
    return name


def _output_names(program: Any) -> list[str]:
    """Names for the tensors of an exported program's output, from the containers they are in."""
    specs = [spec.arg for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    tree = pytree.tree_unflatten(range(len(specs)), program.call_spec.out_spec)
    try:
        paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # a registered container whose keys PyTorch does not know, as diffusers' are
        paths = [f"[{index}]" for index in range(len(specs))] if len(specs) > 1 else [""]
    tensors = [path for path, spec in zip(paths, specs, strict=True) if not isinstance(spec, ConstantArgument)]
    return [_readable(path) for path in tensors]


def _readable(path: str) -> str:
    """A key path as a name: `['hidden'][0]` is `hidden_0`, `[1]` is `output_1`, nothing is `output`."""
    name = "_".join(re.findall(r"\w+", path))
    return name if name and not name[0].isdigit() else f"output_{name}".rstrip("_")


def _input_paths(program: Any) -> dict[str, str]:
    """Where in `(args, kwargs)` each ONNX input belongs."""
    exported = program.exported_program
    specs = [spec.arg for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    tree = pytree.tree_unflatten(range(len(specs)), exported.call_spec.in_spec)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    tensors = [path for path, spec in zip(paths, specs, strict=True) if not isinstance(spec, ConstantArgument)]
    return {value.name: path for value, path in zip(program.model.graph.inputs, tensors, strict=True)}


def _explain(error: BaseException) -> str:
    """What failed: the operation if an error of the chain names it, and the first line of the innermost error."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    operation = next(filter(None, (_operation(str(link)) for link in reversed(chain))), None)
    where = "" if operation is None else f" at operation {operation}"
    return f"PyTorch's ONNX exporter failed{where}: {_first_line(chain[-1])}"


def _operation(message: str) -> str | None:
    """The operator that a message of the exporter names, as `aten.sort.default`."""
    overload = re.search(r"OpOverload\(op='([\w.:]+)', overload='(\w+)'\)", message)
    if overload:
        return f"{overload[1]}.{overload[2]}"
    target = re.search(r"target=torch\.ops\.([\w.]+)", message)
    return target[1] if target else None


def _first_line(error: BaseException) -> str:
    """First line of an error's message that says something, without terminal colours; its class if there is none."""
    lines = (re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Keep the exporter from printing; collects its warnings, except deprecations within it and harmless remarks."""
    messages: dict[str, None] = {}
    handler = _Collector(messages)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    former = [(logger.handlers, logger.propagate) for logger in loggers]
    collected: list[str] = []
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield collected
    finally:
        for logger, (handlers, propagate) in zip(loggers, former, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
    own = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
    messages.update({_first_line_of(item): None for item in caught if not issubclass(item.category, own)})
    collected.extend(message for message in messages if not any(part in message for part in _HARMLESS))


def _first_line_of(item: warnings.WarningMessage) -> str:
    """First line of a recorded warning."""
    return str(item.message).strip().partition("\n")[0]


class _Collector(logging.Handler):
    """Keeps the first line of what is logged at level warning or above."""

    def __init__(self, messages: dict[str, None]) -> None:
        """Collect into `messages`, whose keys are in order and distinct."""
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self._messages[record.getMessage().strip().partition("\n")[0]] = None
