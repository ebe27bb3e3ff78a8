"""What an analysis found, for people (`str(analysis)`, `fxprune inspect`) and for programs (`to_json`).

Groups that are alike and differ in numbers of their names alone are one row: `encoder.layers.{0..11}.mlp.0`. Pinned
axes are ranked by the parameters that they hold back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any

from fxprune.patterns import Folded, fold, fold_names
from fxprune.summary import BlockFacts, ConflictFacts, GroupFacts, PinFacts, Summary, UnknownFacts, summarise

if TYPE_CHECKING:
    from rich.console import Group as Renderables
    from rich.table import Table

    from fxprune.analysis import Analysis

MOST_PINS = 20
"""Rows of pinned axes that are printed; `to_json` has all."""

_MOST_NAMES = 3
_WIDTHS = (60, 160)


def describe(analysis: Analysis, width: int | None = None) -> str:
    """Plain text: groups, blocks, pinned axes, operations without a rule and conflicts, as tables.

    Args:
        analysis: what to describe.
        width: characters a line; None for the terminal's, 120 where there is none.

    Returns:
        Text without colours; print `render(analysis)` with a `rich` console for those.
    """
    from rich.console import Console

    columns = shutil.get_terminal_size((120, 0)).columns if width is None else width
    least, most = _WIDTHS
    file = StringIO()
    console = Console(file=file, width=min(max(columns, least), most), color_system=None, force_terminal=False)
    console.print(render(analysis))
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def render(analysis: Analysis) -> Renderables:
    """The description as something that `rich.console.Console.print` shows in colour and in its own width."""
    from rich.console import Group as Renderables

    return Renderables(*_blocks(summarise(analysis)))


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Everything that `describe` says, unfolded, as plain dictionaries, lists, strings and numbers."""
    summary = asdict(summarise(analysis))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _plain(summary).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _blocks(summary: Summary) -> Iterator[Any]:
    from rich.text import Text

    yield Text(_header(summary))
    yield from (Text(f"note: {note}") for note in summary.notes)
    if summary.groups:
        yield _group_table(summary.groups)
    if summary.blocks:
        yield Text("\n".join(_depth(summary.blocks)) + "\n")
    if summary.pins:
        yield _pin_table(summary.pins)
    if summary.unknown:
        yield _unknown_table(summary.unknown)
    if summary.conflicts:
        yield _conflict_table(summary.conflicts)


def _header(summary: Summary) -> str:
    batch = "batch size free" if summary.dynamic_batch else "batch size fixed"
    share = summary.prunable / summary.parameters if summary.parameters else 0.0
    groups = "1 group" if len(summary.groups) == 1 else f"{len(summary.groups)} groups"
    return (
        f"{summary.model}: {summary.parameters:,} parameters, {summary.operations} operations, {batch}\n"
        f"{groups}, which {summary.prunable:,} parameters ({share:.1%}) are part of"
    )


def _depth(blocks: Sequence[BlockFacts]) -> Iterator[str]:
    """A line for each family: what can be dropped, and siblings that cannot."""
    for each in fold(blocks, name=lambda block: block.name, alike=_block_likeness):
        first = each.rows[0]
        count = "1 block" if len(each.rows) == 1 else f"{len(each.rows)} blocks"
        if first.reason is not None:
            yield f"  not {each.pattern} ({first.kind}): {first.reason}"
        else:
            behind = "" if first.identity else "; a normalisation or activation behind the add goes too"
            amount = f"{first.parameters:,} parameters" + (" each" if len(each.rows) > 1 else "")
            yield f"{count} {each.pattern} ({first.kind}) can be dropped whole ({amount}{behind})"


def _block_likeness(block: BlockFacts) -> tuple[str, int, bool, str | None]:
    return block.kind, block.parameters, block.identity, block.reason


def _group_table(groups: Sequence[GroupFacts]) -> Table:
    table = _table("groups: what is kept or cut together")
    _columns(table, ("group", "count>", "kind", "size>", "axes>", "parameters>", "nested under"))
    for each in fold(groups, name=lambda group: group.name, alike=_likeness):
        table.add_row(*_group_row(each))
    if not any(group.nested_under for group in groups):
        table.columns.pop()
    return table


def _likeness(group: GroupFacts) -> tuple[str, int, int, int, str | None]:
    nested = None if group.nested_under is None else fold_names([group.nested_under])[0]
    return group.kind, group.size, group.axes, group.parameters, None if nested is None else _without_numbers(nested)


def _without_numbers(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())


def _group_row(each: Folded[GroupFacts]) -> tuple[str, ...]:
    first = each.rows[0]
    outers = [_outer(group) for group in each.rows if group.nested_under is not None]
    return (
        each.pattern,
        _times(each.rows),
        first.kind,
        f"{first.size:,}",
        str(first.axes),
        f"{first.parameters:,}",
        ", ".join(fold_names(dict.fromkeys(outers))),
    )


def _outer(group: GroupFacts) -> str:
    """Name of the group that a choice is nested under; what the two names share is left out."""
    assert group.nested_under is not None
    owner, colon, kind = group.nested_under.rpartition(":")
    return f":{kind}" if colon and group.name.startswith(f"{owner}:") else group.nested_under


def _pin_table(pins: Sequence[PinFacts]) -> Table:
    table = _table("pinned: what has to stay, and how many parameters lie along it")
    _columns(table, ("parameters>", "axes", "count>", "size>", "reason", "asked for by"))
    rows = fold(pins, name=lambda pin: pin.axes[0], alike=lambda pin: (pin.reason, pin.size, len(pin.axes)))
    ranked = sorted(rows, key=lambda each: -sum(pin.parameters for pin in each.rows))
    for each in ranked[:MOST_PINS]:
        table.add_row(*_pin_row(each))
    if len(ranked) > MOST_PINS:
        table.add_row("", f"... and {len(ranked) - MOST_PINS} more")
    return table


def _pin_row(each: Folded[PinFacts]) -> tuple[str, ...]:
    first = each.rows[0]
    axes = fold_names(axis for pin in each.rows for axis in pin.axes)
    return (
        f"{sum(pin.parameters for pin in each.rows):,}",
        _some(axes),
        _times(each.rows),
        f"{first.size:,}",
        first.reason,
        _asking(first),
    )


def _asking(pin: PinFacts) -> str:
    return " ".join(text for text in (pin.operation, f"({pin.source})" if pin.source else "") if text)


def _unknown_table(unknown: Sequence[UnknownFacts]) -> Table:
    table = _table("operations without a rule: all axes that they touch are pinned")
    _columns(table, ("parameters>", "operation", "count>", "modules"))
    for each in unknown:
        modules = [name or "(the model itself)" for name in each.modules]
        table.add_row(f"{each.parameters:,}", each.operation, f"{each.count:,}", _some(fold_names(modules)))
    return table


def _conflict_table(conflicts: Sequence[ConflictFacts]) -> Table:
    table = _table("conflicts: axes that had to be equal and could not be matched, so both are pinned")
    _columns(table, ("left", "right", "count>", "operation", "module", "source"))
    rows = fold(conflicts, name=lambda each: each.module, alike=lambda each: (each.left, each.right, each.operation))
    for each in _merged(rows):
        first = each.rows[0]
        names = (first.operation or "", each.pattern or "(the model itself)", first.source or "")
        table.add_row(first.left, first.right, _times(each.rows), *names)
    return table


def _merged(rows: Sequence[Folded[ConflictFacts]]) -> list[Folded[ConflictFacts]]:
    """Conflicts that look the same are one row."""
    found: dict[tuple[str, str, str, str | None], list[ConflictFacts]] = {}
    for each in rows:
        first = each.rows[0]
        found.setdefault((each.pattern, first.left, first.right, first.operation), []).extend(each.rows)
    return [Folded(pattern, tuple(own)) for (pattern, *_), own in found.items()]


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _columns(table: Table, names: Sequence[str]) -> None:
    """Add columns; those whose name ends in `>` hold numbers."""
    for name in names:
        if name.endswith(">"):
            table.add_column(name[:-1], justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")


def _times(rows: Sequence[object]) -> str:
    return str(len(rows))


def _some(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        shown.append(f"and {len(names) - _MOST_NAMES} more")
    return ", ".join(shown)
