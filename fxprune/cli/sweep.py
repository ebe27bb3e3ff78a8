"""`fxprune sweep`: prune a model to several budgets from one scoring run and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fxprune.cli.options import (
    Subparsers,
    add_model_options,
    add_pruning_options,
    add_scoring_options,
    blocks_to_drop,
    kv_cache_of,
    model_and_inputs,
    parse_budget_options,
    scoring_arguments,
    summary,
)
from fxprune.cli.output import make_folder, show, write_text

if TYPE_CHECKING:
    from fxprune import Front

BUDGETS = '"80%%" of the FLOPs, or params=50%%, or several limits at once, flops=50%%,params=12e6; once for each point'


def add(subparsers: Subparsers) -> None:
    """Describe the sub-command."""
    parser = subparsers.add_parser("sweep", help="prune a model to several budgets", description=summary(__doc__))
    add_model_options(parser)
    add_pruning_options(parser, required=True, budget_help=BUDGETS)
    add_scoring_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="write sweep.txt, sweep.csv, with --score sweep.png, and plans here"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prune to every budget, print the table, write the files."""
    import fxprune

    for folder in (options.out, None if options.save_scores is None else options.save_scores.parent):
        if folder is not None:
            make_folder(folder)
    model, inputs = model_and_inputs(options)
    names = ("scorer", "ignore", "align", "search", "seed", "config")
    front = fxprune.sweep(
        model,
        [parse_budget_options(text.split(",")) for text in options.budget],
        example_inputs=inputs,
        drop=blocks_to_drop(options.drop),
        kv_cache=kv_cache_of(options),
        **{name: getattr(options, name) for name in names},
        **scoring_arguments(options),
    )
    show(front)
    written = [] if options.out is None else write_front(front, options.out)
    if options.save_scores is not None:
        written += save_scores(front, options.save_scores)
    for path in written:
        print(f"wrote {path}")


def write_front(front: Front, folder: Path) -> list[Path]:
    """The table, the CSV, the plot where there are scores, and the plan of every budget that can be met."""
    write_text(folder / "sweep.txt", str(front))
    written = [folder / "sweep.txt", front.to_csv(folder / "sweep.csv")]
    if any(point.score is not None for point in front.points):
        written.append(front.plot(folder / "sweep.png"))
    for number, point in enumerate(front.points, start=1):
        if point.plan is not None:
            written.append(folder / f"plan-{number}.json")
            point.plan.save(written[-1])
    return written


def save_scores(front: Front, path: Path) -> list[Path]:
    """The scores that all points share; none where no budget can be met."""
    scores = next((point.slim.scores for point in front.points if point.slim is not None), None)
    if scores is None:
        return []
    scores.save(path)
    return [path]
