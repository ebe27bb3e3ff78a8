"""Running the captured original: its tensors are the user's, and may be fetched from elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.fx import Interpreter
from torch.utils._pytree import tree_map

from fxprune.batches import Batch
from fxprune.passes.lockstep import flat_inputs
from fxprune.passes.masked import private
from fxprune.program import Program
from fxprune.weights import Weights


class Original(Interpreter):
    """Interprets a captured graph, with gradients switched off, and leaves its tensors as they are.

    Attributes:
        weights: where parameters come from, if not from the model.
    """

    def __init__(self, program: Program, weights: Weights | None = None) -> None:
        """Make ready to run."""
        super().__init__(program.graph_module)
        self.weights = weights

    def go_through(self, batch: Batch) -> None:
        """Run one batch."""
        with torch.no_grad():
            self.run(*flat_inputs(batch), enable_io_processing=False)

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the original; buffers as copies, which the run may write to."""
        return private(super().fetch_attr(target) if self.weights is None else self.weights.attribute(target))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation; where parameters are fetched, what the graph makes on the CPU is made beside them."""
        if self.weights is not None:
            args, kwargs = tree_map(partial(_beside, self.weights.device), (args, kwargs))
        return super().call_function(target, args, kwargs)


def _beside(device: torch.device, argument: Any) -> Any:
    return device if isinstance(argument, torch.device) and argument.type == "cpu" else argument
