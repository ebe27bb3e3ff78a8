"""The errors that fxprune raises: one tree, so that `except FxpruneError` catches what the user can act upon.

Every message says what happened, where (node, module, the user's own source line) and what to do. Programming errors of
fxprune itself are assertions, not members of this tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import Node


class FxpruneError(Exception):
    """Base of all errors that fxprune raises on purpose."""


class InputError(FxpruneError):
    """An argument of a public function is unusable; the message shows a right one."""


class CaptureError(FxpruneError):
    """The model could not be captured as a graph."""


class BudgetError(InputError):
    """A budget is not understood: unknown key, zero, negative, over 100 %."""


class PluginError(FxpruneError):
    """A scorer, rule or backend from a plug-in is missing, clashes, or misbehaves."""


class BackendError(FxpruneError):
    """A backend is not available or failed to lower, load or run a model."""


class VerificationError(FxpruneError):
    """A result differs from what it has to equal: the slim model or an artifact is wrong and was not handed out."""


class CheckpointError(FxpruneError):
    """A file is damaged, hostile, or belongs to another model."""


class CannotApply(FxpruneError):  # noqa: N818 - the public name promised to users
    """The user's own class cannot follow a cut; the message names module, attribute and line."""


class GraphError(FxpruneError):
    """Something is wrong at one node of the captured graph.

    Attributes:
        node: the node, or None where no single node is to blame.
    """

    def __init__(self, message: str, node: Node | None = None) -> None:
        """Append the node's name, module and source line to `message`."""
        super().__init__(message if node is None else f"{message}\n{describe_node(node)}")
        self.node = node


class CouplingConflict(GraphError):  # noqa: N818 - the public name promised to users
    """Two axes had to be equal and cannot be (raised under `strict=True`; otherwise both are pinned)."""


class RewriteError(GraphError):
    """An operation could not be rewritten to its slim sizes."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One metric of an infeasible budget: what was asked, what can be reached, where it started."""

    limit: float
    smallest: float
    original: float


class InfeasibleBudget(FxpruneError):  # noqa: N818 - the public name promised to users
    """No choice of widths meets the budget.

    Attributes:
        shortfalls: for each metric that cannot be met its limit, the smallest value reachable and the original value.
    """

    def __init__(self, message: str, shortfalls: Mapping[str, Shortfall]) -> None:
        """Keep the figures beside the message, for programs that want to relax their budget."""
        super().__init__(message)
        self.shortfalls = dict(shortfalls)


def describe_node(node: Node) -> str:
    """Node name, operation, owning module and the user's own source line, each on a line of its own where known."""
    lines = [f"  node: {node.name} ({node.target})"]
    stack = node.meta.get("nn_module_stack")
    if stack:
        path, kind = list(stack.values())[-1][:2]
        lines.append(f"  module: {path or '(the model itself)'} ({getattr(kind, '__name__', kind)})")
    source = source_line(node)
    if source:
        lines.append(f"  source: {source}")
    return "\n".join(lines)


def source_line(node: Node) -> str | None:
    """The user's own source line for a node, torch's frames skipped, as `file, line, code`; None where it is not known."""
    trace = node.meta.get("stack_trace")
    if not trace:
        return None
    lines = [line.strip() for line in trace.strip().splitlines()]
    frames = [index for index, line in enumerate(lines) if line.startswith("File ")]
    if not frames:
        return None
    own = [index for index in frames if "/torch/" not in lines[index]]
    last = (own or frames)[-1]
    code = lines[last + 1] if last + 1 < len(lines) else ""
    return f"{lines[last]}: {code}"
