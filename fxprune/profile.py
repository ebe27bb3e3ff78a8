"""What a model costs, layer by layer: FLOPs, parameters and bytes at the example inputs, from one captured forward."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx import Node

from fxprune.capture import capture
from fxprune.costs import build_costs
from fxprune.costs.breakdown import NodeCosts, break_down, unreached_parameters
from fxprune.costs.costs import weights_of
from fxprune.passes.raising import module_path
from fxprune.program import Program

if TYPE_CHECKING:
    from rich.table import Table

FOOTER = (
    "1 FLOP = one multiply or one add, twice the MACs that some tools report. Only matrix products and convolutions "
    "count, as in torch.utils.flop_counter. Activation bytes are what an operation allocates: views and operations in "
    "place take none."
)


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One leaf module, or one operation of a module that has children.

    Attributes:
        name: path of the module; for an operation the module that calls it, a colon and the operation's own name.
        type: class of the module, or the operation.
        shape: shape of the (last) output; None where that is no tensor.
        flops: floating-point operations, all calls together.
        params: parameter elements; shared ones stand where they are read first.
        activation: bytes allocated for results.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    flops: int
    params: int
    activation: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What a model costs.

    Attributes:
        model: class of the model.
        rows: leaf modules and operations in order of execution; what costs nothing is left out.
        flops: floating-point operations of a forward.
        params: parameter elements, shared ones once, those that the forward does not read included.
        weights: bytes of all parameters, buffers and constants.
        activations: peak of the bytes that inputs and results take at once.
        notes: what to know about the capture.
    """

    model: str
    rows: tuple[ProfileRow, ...]
    flops: int
    params: int
    weights: int
    activations: int
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """Bytes of the weights and of the activations at their peak."""
        return self.weights + self.activations

    def largest_first(self, key: str = "flops") -> tuple[ProfileRow, ...]:
        """Rows by falling `flops`, `params` or `activation`."""
        return tuple(sorted(self.rows, key=lambda row: -int(getattr(row, key))))

    def __str__(self) -> str:
        """The table as text, without colours."""
        from rich.console import Console

        console = Console(width=140, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    def __rich__(self) -> Table:
        """The table as `rich` prints it."""
        return _table(self)

    def to_json(self) -> str:
        """All figures as a JSON object with `rows` and totals."""
        return json.dumps({**asdict(self), "memory": self.memory}, indent=2)


def profile(model: nn.Module, example_inputs: Any = None) -> Profile:
    """Count what one forward of `model` in eval mode costs.

    FLOPs are what `torch.utils.flop_counter.FlopCounterMode` counts: one multiply or one add is one FLOP, of matrix
    products and convolutions (attention by its formula for the CUDA kernels). Nothing is run.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: tuple (positional), dict (keyword) or tensor; None to infer them from the model.

    Returns:
        A table that prints itself, rows in order of execution.

    Raises:
        InputError: example inputs are missing or unusable.
        CaptureError: the model cannot be captured.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from fxprune.profile import profile
        >>> profile(nn.Linear(8, 4), torch.randn(2, 8)).flops
        128
    """
    program = capture(model, example_inputs)
    totals = build_costs(program, None).original
    weights = sum(tensor.nbytes for _, tensor in weights_of(program))
    return Profile(
        model=program.root.__name__,
        rows=tuple(_rows(program)),
        flops=int(totals["flops"]),
        params=int(totals["params"]),
        weights=weights,
        activations=int(totals["memory"]) - weights,
        notes=program.notes,
    )


def _rows(program: Program) -> Iterator[ProfileRow]:
    parents = {path.rpartition(".")[0] for path in program.module_types if path}
    leaves = program.module_types.keys() - parents
    found: dict[tuple[str, str], list[NodeCosts]] = {}
    for costs in break_down(program):
        found.setdefault(_name_and_type(costs.node, program, leaves), []).append(costs)
    for (name, kind), members in found.items():
        row = _row(name, kind, members)
        if row.flops or row.params or row.activation:
            yield row
    if rest := unreached_parameters(program):
        yield ProfileRow("(not read by forward)", "", None, 0, rest, 0)


def _name_and_type(node: Node, program: Program, leaves: Container[str]) -> tuple[str, str]:
    """The leaf module that the operation belongs to, or the operation itself."""
    path = module_path(node)
    if path is not None and path in leaves:
        return path or "(the model itself)", program.module_types[path].__name__
    return f"{path}:{node.name}" if path else node.name, _operation(node)


def _row(name: str, kind: str, members: Sequence[NodeCosts]) -> ProfileRow:
    return ProfileRow(
        name=name,
        type=kind,
        shape=members[-1].shape,
        flops=sum(each.flops for each in members),
        params=sum(each.params for each in members),
        activation=sum(each.activation for each in members),
    )


def _operation(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _table(profile: Profile) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{profile.model}: costs by layer", caption=_caption(profile), caption_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("type", overflow="fold")
    for heading in ("output", "FLOPs", "share", "params", "activations"):
        table.add_column(heading, justify="right")
    for row in profile.rows:
        share = f"{row.flops / profile.flops:.1%}" if row.flops else ""
        table.add_row(
            Text(row.name),
            row.type,
            _shape(row.shape),
            _count(row.flops),
            share,
            _count(row.params),
            _bytes(row.activation),
        )
    table.add_section()
    table.add_row(
        "total", "", "", _count(profile.flops), "", _count(profile.params), f"peak {_bytes(profile.activations)}"
    )
    return table


def _caption(profile: Profile) -> str:
    parts = f"weights {_bytes(profile.weights)} + activations {_bytes(profile.activations)} at the peak"
    return "\n".join((f"Memory: {_bytes(profile.memory)} = {parts}.", FOOTER, *profile.notes))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _bytes(number: int) -> str:
    """Decimal units: 1 MB is 1,000,000 bytes, as in a budget."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return "" if not number else f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
