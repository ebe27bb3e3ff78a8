"""The original with blocks bypassed, without rewriting it: what the program without them has to compute.

The original graph runs operation by operation; those of a dropped block do not, and its output is a copy of its input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from fxprune.blocks import Block, outermost
from fxprune.errors import VerificationError
from fxprune.passes.masked import private
from fxprune.passes.verify import full_precision, run_and_compare
from fxprune.program import Program


class Bypassed(Interpreter):
    """Executes the captured graph without some blocks, on flat inputs."""

    def __init__(self, program: Program, blocks: Sequence[Block]) -> None:
        """Prepare to run; nothing of the program is changed."""
        super().__init__(program.graph_module)
        blocks = outermost(blocks)
        self.skipped = {node for block in blocks for node in block.nodes}
        self.inputs = {block.output: block.input for block in blocks}
        self.awaited = Counter(self.inputs.values())
        self.streams: dict[Node, Any] = {}

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target))

    def run_node(self, n: Node) -> Any:
        """Run one node, or let the stream pass by it."""
        value = self._pass_by(n) if n in self.skipped else super().run_node(n)
        if n in self.awaited:
            self.streams[n] = value
        return value

    def _pass_by(self, node: Node) -> Any:
        source = self.inputs.get(node)
        if source is None:
            return None
        value = self.streams[source]
        return value.clone() if isinstance(value, Tensor) else value


def verify_drop(program: Program, blocks: Sequence[Block], dropped: Program) -> float:
    """Compare a program without blocks with the original that bypasses them.

    Args:
        program: the captured original.
        blocks: what was dropped.
        dropped: the program without.

    Returns:
        The largest relative error over all outputs, 0 if they agree to the bit.

    Raises:
        VerificationError: the error is beyond rounding.
    """
    with torch.no_grad(), full_precision():
        error, suspicious = run_and_compare(Bypassed(program, blocks), Bypassed(dropped, ()), program.traced)
    if suspicious:
        names = ", ".join(block.name for block in blocks)
        msg = (
            f"without {names} the model does not compute what the original computes with them bypassed: relative error "
            f"{error:.1e}. This is a bug in fxprune; please report it, and leave these blocks where they are"
        )
        raise VerificationError(msg)
    return error
