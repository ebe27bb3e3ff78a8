"""`fxprune export`: write a model, pruned if a budget is given, as an artifact of a backend."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.backends import Artifact
from fxprune.budget import format_amount
from fxprune.cli.lowering import add_lowering_options, lowering_arguments
from fxprune.cli.options import (
    Subparsers,
    add_model_options,
    add_pruning_options,
    known_inputs,
    model_and_inputs,
    prune,
    summary,
)
from fxprune.cli.output import make_folder, show


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser(
        "export", help="write a model for a backend, such as ONNX", description=summary(__doc__)
    )
    add_model_options(parser)
    add_pruning_options(parser, required=False)
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, required=True, metavar="FILE", help="the artifact, such as model.onnx")
    group.add_argument(
        "--to",
        "--backend",
        dest="backend",
        metavar="NAME",
        default="onnx",
        help="onnx, onnxruntime, tensorrt, inductor or a plug-in's (default: %(default)s)",
    )
    add_lowering_options(group)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prune where a budget is given, then lower and say what was written."""
    import fxprune

    lowering = lowering_arguments(options)
    make_folder(options.out.parent)
    model, inputs = model_and_inputs(options)
    if options.budget:
        model = prune(model, inputs, options)
        show(model.report)
    artifact = fxprune.lower(
        model, options.backend, options.out, example_inputs=known_inputs(model, inputs), **lowering
    )
    print(_describe(artifact))


def _describe(artifact: Artifact) -> str:
    opset = "" if artifact.opset is None else f", opset {artifact.opset}"
    lines = [f"wrote {artifact.path} ({format_amount('memory', artifact.size_bytes)}{opset})"]
    lines += [f"  input   {spec}" for spec in artifact.inputs]
    lines += [f"  output  {spec}" for spec in artifact.outputs]
    if artifact.largest_relative_error is not None:
        lines.append(f"  largest relative error against PyTorch: {artifact.largest_relative_error:.2g}")
    return "\n".join([*lines, *(f"  note: {note}" for note in artifact.notes)])
