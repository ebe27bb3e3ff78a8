"""Where a node of an exported ONNX file comes from: the FX node, the module and the user's own source line.

PyTorch's exporter writes them into the metadata of each node; a file from elsewhere has none.
"""

from __future__ import annotations

import ast
import re
from typing import Any


def describe_origin(node: Any) -> str:
    """One line for each of what is known of an `onnx.NodeProto`: ONNX node, FX node, module, source."""
    known = {item.key.removeprefix("pkg.torch.onnx."): item.value for item in node.metadata_props}
    inputs, outputs = (", ".join(names) for names in (node.input, node.output))
    lines = [f"  ONNX node: {node.name or '(no name)'}: {_kind(node)}({inputs}) -> {outputs}"]
    if "fx_node" in known:
        lines.append(f"  FX node: {_fx_node(known['fx_node'])}")
    scopes = _listed(known.get("name_scopes", ""))
    if len(scopes) > 1:
        lines.append(f"  module: {scopes[-2] or '(the model itself)'}")
    source = _source(known.get("stack_trace", ""))
    return "\n".join([*lines, f"  source: {source}"] if source else lines)


def _kind(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _fx_node(text: str) -> str:
    """`relu (aten.relu.default)`."""
    name, target = re.match(r"%?(\w+)", text), re.search(r"target=(?:torch\.ops\.)?([\w.]+)", text)
    return f"{name[1]} ({target[1]})" if name and target else text.partition("\n")[0]


def _listed(text: str) -> list[str]:
    """A list of strings that was written as Python's `repr`."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(each) for each in found] if isinstance(found, list) else []


def _source(trace: str) -> str:
    """The last frame outside PyTorch: `File "model.py", line 3, in forward: return f(x)`."""
    frames = re.findall(r'^\s*(File "(.*?)", line \d+, in \S+)\n\s*(.*)$', trace, re.MULTILINE)
    own = [frame for frame in frames if "/torch/" not in frame[1]] or frames
    return f"{own[-1][0]}: {own[-1][2]}" if own else ""
