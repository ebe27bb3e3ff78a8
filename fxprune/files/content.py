"""What a file holds, member by member.

plan.json              the decision: schema, signature of the original, budget, scorer, versions (`Plan`)
graph.json             modules, tensors, graph, structure of inputs and outputs
weights.safetensors    parameters, buffers and constants of the graph
report.json            the report as data; where there is one
scores.safetensors     the scores; where there are some
inputs.safetensors     the tensors among the example inputs; where there are some
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SCHEMA = 1
"""Of `graph.json`."""
PLAN, GRAPH, WEIGHTS = "plan.json", "graph.json", "weights.safetensors"
REPORT, SCORES, INPUTS = "report.json", "scores.safetensors", "inputs.safetensors"
MEMBERS = (PLAN, GRAPH, REPORT, SCORES, INPUTS, WEIGHTS)
"""All names that members may have."""
LONGEST_GRAPH = 2**28
"""Bytes that `graph.json` may have."""
GRAPH_FIELDS = ("schema", "class", "modules", "tensors", "nodes", "signature", "inputs")


@dataclass(frozen=True, slots=True)
class Content:
    """A slim model as a file has it.

    Attributes:
        plan: JSON text.
        graph: what `graph.json` says; its `nodes` are None where only the user's own class has the computation.
        report: JSON text, or None.
        scores: the bytes of a scores file, or None.
        inputs: tensors among the example inputs, by the names that `graph` has for them.
        tensors: parameters, buffers and constants by name, each tied one once.
    """

    plan: str
    graph: Mapping[str, Any]
    report: str | None
    scores: bytes | None
    inputs: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
