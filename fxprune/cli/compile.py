"""`fxprune compile`: prune a model to a budget and write the result to a file or a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxprune.cli.options import (
    Subparsers,
    add_model_options,
    add_pruning_options,
    add_scoring_options,
    model_and_inputs,
    prune,
    summary,
)
from fxprune.cli.output import make_folder, show, write_slim
from fxprune.files import save


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser("compile", help="prune a model to a budget", description=summary(__doc__))
    add_model_options(parser)
    add_pruning_options(parser, required=True)
    add_scoring_options(parser)
    parser.add_argument(
        "--backend",
        dest="timed_on",
        metavar="NAME",
        help='where a budget of latency or throughput is measured, such as --budget latency="3 ms" (default: eager)',
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="write plan.json, report.txt, report.json and weights.safetensors here"
    )
    group.add_argument("-o", "--save", type=Path, metavar="FILE", help="write the slim model to one file, slim.fxprune")
    group.add_argument("--onnx", action="store_true", help="write model.onnx there too")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> None:
    """Prune, print the report, write the files."""
    if options.onnx and options.out is None:
        options.usage_error("--onnx needs --out")
    if options.out is not None:
        make_folder(options.out)
    for path in (options.save, options.save_scores):
        if path is not None:
            make_folder(path.parent)
    model, inputs = model_and_inputs(options)
    slim = prune(model, inputs, options)
    show(slim.report)
    if options.save is not None:
        save(slim, options.save)
        print(f"wrote {options.save}")
    if options.save_scores is not None and slim.scores is not None:
        slim.scores.save(options.save_scores)
        print(f"wrote {options.save_scores}")
    if options.out is not None:
        for path in write_slim(slim, options.out, onnx=options.onnx):
            print(f"wrote {path}")
