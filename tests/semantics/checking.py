"""One random module under random plans, held to fxprune's own check and to the reference interpreter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from fxprune.analysis import Analysis, analyze_program
from fxprune.apply.slicing import slice_tensor
from fxprune.capture import capture, no_fast_path
from fxprune.cut import Cut
from fxprune.passes.slim import axes_of, slim_graph
from fxprune.passes.verify import relative_error, verify
from fxprune.plan import Plan, slices_of
from fxprune.slim_module import SlimModule, assemble
from tests.randomgraphs import Draw, Seeded
from tests.reference import masked_outputs
from tests.semantics.plans import random_cut


@dataclass(slots=True)
class Seen:
    """What the checks have met so far.

    Attributes:
        operations: how often each ATen operation occurred.
        cut: how often something of its operands was cut.
        unknown: operations that have no rule.
        groups: how many dependency groups there were.
    """

    operations: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    groups: int = 0

    def add(self, other: Seen) -> None:
        """What another has seen, too."""
        self.operations.update(other.operations)
        self.cut.update(other.cut)
        self.unknown.update(other.unknown)
        self.groups += other.groups

    def analysed(self, analysis: Analysis) -> None:
        """Remember a graph."""
        self.operations.update(str(node.target) for node in calls(analysis))
        self.unknown.update(str(node.target) for node in analysis.propagation.unknown)
        self.groups += len(analysis.groups)

    def planned(self, analysis: Analysis, cut: Cut) -> None:
        """Remember what a cut reached."""
        propagation = analysis.propagation
        for node in calls(analysis):
            if any(cut.touches(axes) for each in node.all_input_nodes for axes in axes_of(propagation, each)):
                self.cut[str(node.target)] += 1


def calls(analysis: Analysis) -> list[Node]:
    """The operations of a graph."""
    return [node for node in analysis.program.graph_module.graph.nodes if isinstance(node.target, OpOverload)]


def check(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    seed: int,
    plans: int = 2,
    *,
    free_batch: bool = True,
    seen: Seen | None = None,
) -> None:
    """Compare under `plans` random plans, and under the one that keeps everything."""
    seen = Seen() if seen is None else seen
    analysis = analyze_program(capture(model, inputs, free_batch=free_batch))
    seen.analysed(analysis)
    draw = Draw(Seeded(seed))
    for _ in range(plans):
        cut = random_cut(analysis.groups, draw)
        seen.planned(analysis, cut)
        check_cut(analysis, cut)
    check_identity(model, inputs, analysis)


def check_cut(analysis: Analysis, cut: Cut) -> None:
    """The slim model computes what the masked original and the reference interpreter compute."""
    program, propagation = analysis.program, analysis.propagation
    slim = emit(analysis, cut).eval()
    error = verify(program, propagation, cut, slim)
    assert error < 1e-8, f"relative error {error:.1e} to the masked original"
    slices = slices_of(program, propagation, cut)
    for name, tensor in program.tensors.items():
        cut_by_plan = slice_tensor(tensor.detach(), slices.get(name, {}))
        assert torch.equal(cut_by_plan, slim.state_dict(keep_vars=True).get(name, cut_by_plan)), f"{name} by its slices"
    expected = masked_outputs(program.graph_module, slices, program.args, program.kwargs)
    with torch.no_grad():
        actual = tree_leaves(slim(*program.args, **program.kwargs))
    error = max(relative_error(a, b) for a, b in zip(expected, actual, strict=True))
    assert error < 1e-9, f"relative error {error:.1e} to the reference interpreter"


def check_identity(model: nn.Module, inputs: tuple[Tensor, ...], analysis: Analysis) -> None:
    """Keeping everything changes no bit. Attention layers run as they are captured: their fused kernel rounds otherwise."""
    whole = emit(analysis, Cut({}, {})).eval()
    with torch.no_grad(), no_fast_path():
        for a, b in zip(tree_leaves(model(*inputs)), tree_leaves(whole(*inputs)), strict=True):
            assert torch.equal(a, b), "keeping everything is not the identity"


def emit(analysis: Analysis, cut: Cut) -> SlimModule:
    """The slim model."""
    program, propagation = analysis.program, analysis.propagation
    return assemble(program, slim_graph(program, propagation, cut), Plan({}, {}, {}), None)
