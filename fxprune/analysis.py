"""What can be cut: the captured model with the axes of all its tensors, its dependency groups and its costs."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fxprune.capture import capture
from fxprune.costs import Costs, build_costs
from fxprune.cut import Cut
from fxprune.errors import InputError
from fxprune.groups import Group, find_groups
from fxprune.program import Program
from fxprune.propagate import Propagation, propagate

if TYPE_CHECKING:
    import networkx as nx
    from numpy.typing import NDArray

    from fxprune.blocks import Block, Survey
    from fxprune.explanation import Explanation, PinExplanation


@dataclass(frozen=True, slots=True)
class Analysis:
    """A captured model and what can be cut from it.

    Attributes:
        program: the captured graph.
        propagation: axes of every value and tensor.
        groups: dependency groups, in the order of their first parameter.
        costs: FLOPs, parameters and memory as functions of the groups' sizes.
    """

    program: Program
    propagation: Propagation
    groups: tuple[Group, ...]
    costs: Costs

    @property
    def graph(self) -> nx.MultiGraph[Any]:
        """The coupling graph: axes of parameters and values as nodes, operations that couple them as edges."""
        from fxprune.coupling import coupling_graph

        return coupling_graph(self.program, self.propagation)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks that can be dropped whole (`compile(..., drop=[...])`), in the model's order; found anew at each call."""
        return self.survey.blocks

    @property
    def survey(self) -> Survey:
        """The same with the modules that repeat but cannot be dropped, and why."""
        from fxprune.blocks import survey_blocks

        return survey_blocks(self.program, self.propagation)

    def why(self, a: str, b: str) -> Explanation:
        """The shortest chain of operations that couples two parameter axes, `"layer1.0.conv1.weight:0"` for example.

        Raises:
            InputError: a name is unknown, or the axes are not coupled.
        """
        from fxprune.explanation import why

        return why(self.graph, a, b)

    def why_pinned(self, name: str) -> PinExplanation:
        """Why an axis of a parameter cannot be cut, and the operations from it to where that was decided.

        Raises:
            InputError: the name is unknown.
        """
        from fxprune.explanation import why_pinned

        return why_pinned(self.graph, name)

    def group(self, name: str) -> Group:
        """The group of that name.

        Raises:
            InputError: there is none.
        """
        for each in self.groups:
            if each.name == name:
                return each
        msg = (
            f"no group is named {name!r}; `analysis.groups` lists them, for example {[g.name for g in self.groups[:3]]}"
        )
        raise InputError(msg)

    def cut(self, kept: Mapping[str, NDArray[np.int64]]) -> Cut:
        """The cut that keeps these indices: group name -> sorted indices [k], or [outer size, k] for a nested group."""
        by_name = {group.name: group for group in self.groups}
        chosen = {by_name[name].variable: np.asarray(indices, dtype=np.int64) for name, indices in kept.items()}
        chosen = {variable: indices for variable, indices in chosen.items() if indices.shape[-1] != variable.size}
        outers = {group.variable: group.outer for group in self.groups if group.outer is not None}
        return Cut(chosen, outers)

    def __str__(self) -> str:
        """Groups by kind and pinned axes by reason, as a table."""
        from fxprune.inspection import describe

        return describe(self)


def analyze(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    ignore: Sequence[str] = (),
    strict: bool = False,
) -> Analysis:
    """Find out what can be cut from `model`.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them from the model.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        strict: raise where an operation has no rule, instead of pinning what it touches.

    Returns:
        Groups, costs and the axes of every tensor.

    Raises:
        InputError: example inputs are missing, or a pattern in `ignore` matches nothing.
        CaptureError: the model cannot be captured.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        >>> [str(group) for group in fxprune.analyze(model, torch.randn(2, 8)).groups]
        ['0: 32 features, 3 parameter axes']
    """
    return analyze_program(capture(model, example_inputs), ignore=ignore, strict=strict)


def analyze_program(program: Program, *, ignore: Sequence[str] = (), strict: bool = False) -> Analysis:
    """As `analyze`, for a model that is captured already."""
    propagation = propagate(program, _ignored(program, ignore), strict=strict)
    groups = find_groups(program, propagation)
    return Analysis(program, propagation, groups, build_costs(program, propagation, groups))


def _ignored(program: Program, patterns: Sequence[str]) -> dict[str, str]:
    """Canonical tensor names that the patterns hold -> the pattern.

    Raises:
        InputError: a pattern matches nothing.
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    found: dict[str, str] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            msg = f"ignore holds {pattern!r}; pass names or patterns, for example ignore=['classifier']"
            raise InputError(msg)
        names = [name for name in program.tensors if holds(pattern, name)]
        if not names:
            raise InputError(_no_match(program, pattern))
        found.update({program.canonical(name): pattern for name in names})
    return found


def holds(pattern: str, name: str) -> bool:
    """Whether a pattern names the tensor itself or a module around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _no_match(program: Program, pattern: str) -> str:
    import difflib

    modules = [path for path in program.module_types if path]
    close = difflib.get_close_matches(pattern, [*modules, *program.tensors], n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; modules are, for example, {modules[:5]}"
    return f"ignore={pattern!r} matches no module or parameter of {program.root.__name__}{hint}"
