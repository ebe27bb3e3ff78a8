"""Several modules exported to ONNX in one go, then taken apart: a model for each.

The exporter parses all operations that it knows, and builds its tables of decompositions, for every call. So the modules are
traced side by side, as one module that calls each with inputs of its own, and the graph that comes out is cut along what each
output is computed from. Nothing is shared between the parts but weights that happen to be equal, which each gets a copy of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from fxprune.backends.onnx import require_packages, save_model
from fxprune.backends.onnx_export import INPUT_PATHS, Exported, export_program
from fxprune.errors import BackendError
from fxprune.evaluating import evaluating
from fxprune.inputs import Inputs

_PLACE = re.compile(r"\[0\]\[(\d+)\](.*)")
"""Of an input: the number of its part, and where in that part's `(args, kwargs)` it belongs."""


class _SideBySide(nn.Module):
    """Calls each part with inputs of its own."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Inputs) -> list[Any]:
        """The outputs of each part for its `(args, kwargs)`."""
        return [part(*args, **kwargs) for part, (args, kwargs) in zip(self.parts, inputs, strict=True)]


def write_together(
    modules: Sequence[nn.Module], inputs: Sequence[Inputs], folder: Path, *, opset: int | None
) -> list[Path]:
    """A file in the folder for each module, as `export_together` makes them; checked by ONNX.

    Raises:
        BackendError: one of them cannot be exported, or a package is missing.
    """
    require_packages(verify=False)
    paths = [folder / f"{at}.onnx" for at in range(len(modules))]
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(evaluating(module))
        for path, model in zip(paths, export_together(modules, inputs, opset=opset), strict=True):
            save_model(model, path)
    return paths


def export_together(modules: Sequence[nn.Module], inputs: Sequence[Inputs], *, opset: int | None) -> Iterator[Any]:
    """An `onnx_ir.Model` for each module, with sizes fixed to those of its inputs.

    Args:
        modules: in eval mode.
        inputs: positional and keyword arguments of each.
        opset: version of the operator set; None for the exporter's default.

    Raises:
        BackendError: the exporter cannot handle one of them, or what comes out cannot be taken apart.
    """
    exported = export_program(_SideBySide(modules).eval(), (tuple(inputs), {}), dynamic_batch=False, opset=opset)
    graph = exported.program.model.graph
    places = _places(exported, len(modules))
    counts = _output_counts(exported)
    if sum(counts) != len(graph.outputs):
        raise BackendError(f"the exported graph has {len(graph.outputs)} outputs where its parts have {counts}")
    outputs = iter(graph.outputs)
    for own, count in zip(places, counts, strict=True):
        yield _part(exported.program.model, own, [next(outputs) for _ in range(count)])


def _places(exported: Exported, count: int) -> list[dict[str, str]]:
    """For each part the place of its inputs in its own `(args, kwargs)`, by name."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for name, path in json.loads(exported.program.model.metadata_props[INPUT_PATHS]).items():
        match = _PLACE.fullmatch(path)
        if match is None:
            raise BackendError(f"input {name} of the exported graph belongs to no part: {path}")
        found[int(match[1])][name] = match[2]
    return found


def _output_counts(exported: Exported) -> list[int]:
    """How many tensors each part returns."""
    program = exported.program.exported_program
    specs = [spec.arg for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    parts = pytree.tree_unflatten(specs, program.call_spec.out_spec)
    return [sum(not isinstance(each, ConstantArgument) for each in pytree.tree_leaves(part)) for part in parts]


def _part(model: Any, places: dict[str, str], outputs: list[Any]) -> Any:
    """The model that computes these outputs from the inputs of one part."""
    import onnx_ir

    names = [value.name for value in outputs]
    try:
        graph = onnx_ir.convenience.extract(model.graph, inputs=list(places), outputs=names)
    except ValueError as error:  # what they are computed from is not theirs alone
        raise BackendError(f"the exported graph cannot be cut at {names}: {error}") from error
    part = onnx_ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))
    part.metadata_props[INPUT_PATHS] = json.dumps(places)
    return part
