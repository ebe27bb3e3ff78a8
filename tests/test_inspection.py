from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from fxprune.analysis import Analysis, analyze
from fxprune.inspection import describe, render, to_json
from fxprune.patterns import fold, fold_names
from fxprune.summary import summarise


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 20)
        self.down = nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.up(self.norm(x)).relu())
        return x + down


class Small(nn.Module):
    """An embedding, three like blocks, an operation without a rule, a reshape that cannot be matched."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.odd = nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        head: Tensor = self.head(torch.linalg.matrix_exp(self.odd(x)))
        return head


GOLDEN = """\
Small: 1,581 parameters, 19 operations, batch size free
4 groups, which 1,540 parameters (97.4%) are part of
note: the sequence length is fixed to that of the example inputs: the model's Python depends on it
groups: what is kept or cut together

 group              count   kind       size   axes   parameters
 ──────────────────────────────────────────────────────────────
 embed                  1   features      8     17        1,480
 blocks.{0..2}.up       3   features     20      3          340

3 blocks blocks.{0..2} (Block) can be dropped whole (364 parameters each)

pinned: what has to stay, and how many parameters lie along it

 parameters   axes                           count   size   reason                         asked for by
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        400   embed.weight[0]                    1     50   vocabulary                     embedding
                                                                                           (test_inspection.py:38)
         84   odd.weight[0], odd.bias[0],        1      6   aten.linalg_matrix_exp.defau   linalg_matrix_exp
              head.weight[1]                                lt has no rule                 (test_inspection.py:41)
         35   head.weight[0], head.bias[0]       1      5   model output                   output

operations without a rule: all axes that they touch are pinned

 parameters   operation                        count   modules
 ────────────────────────────────────────────────────────────────────────
         84   aten.linalg_matrix_exp.default       1   (the model itself)"""


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(Small(), torch.zeros(2, 6, dtype=torch.long))


def test_golden(analysis: Analysis) -> None:
    assert describe(analysis, 120) == GOLDEN


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_lines_fit_the_width(analysis: Analysis, width: int) -> None:
    lines = describe(analysis, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "\n".join(lines)


def test_str_is_the_description(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert str(analysis) == GOLDEN


def test_render_has_colours_on_a_terminal(analysis: Analysis) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, color_system="truecolor", width=120)
    with console.capture() as captured:
        console.print(render(analysis))
    assert "\x1b[1m" in captured.get()


def test_json_is_plain_data(analysis: Analysis) -> None:
    data = json.loads(json.dumps(to_json(analysis)))
    assert data["model"] == "Small"
    assert [group["name"] for group in data["groups"]] == [group.name for group in analysis.groups]
    assert data["pins"][0]["axes"] == ["embed.weight[0]"]
    assert data["unknown"] == [
        {"operation": "aten.linalg_matrix_exp.default", "count": 1, "modules": [""], "parameters": 84}
    ]


def test_parameters_held_are_counted_by_hand(analysis: Analysis) -> None:
    summary = summarise(analysis)
    up = next(group for group in summary.groups if group.name == "blocks.0.up")
    assert up.parameters == 20 * 8 + 20 + 8 * 20
    assert summary.parameters == sum(tensor.numel() for tensor in Small().parameters())


def test_products_are_counted_by_the_slices_that_a_group_is_part_of() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1, bias=False)
            self.grouped = nn.Conv2d(8, 12, 1, groups=2, bias=False)
            self.last = nn.Conv2d(12, 5, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            last: Tensor = self.last(self.grouped(self.first(x)))
            return last

    summary = summarise(analyze(Grouped(), torch.randn(2, 3, 4, 4)))
    held = {(group.kind, group.size): group.parameters for group in summary.groups}
    assert held["groups", 2] == 8 * 3 + 12 * 4 + 5 * 12


def test_conflicts_are_shown() -> None:
    class Misfit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 36)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            rows, columns = x.unflatten(-1, (4, 9)), x.unflatten(-1, (9, 4))
            total: Tensor = rows.sum((1, 2)) + columns.sum((1, 2))
            return total

    text = describe(analyze(Misfit(), torch.randn(2, 4)), 120)
    assert "conflicts: axes that had to be equal" in text
    assert "4 x 9" in text
    assert "9 x 4" in text


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["h.0.fc", "h.1.fc", "h.2.fc", "head"], ["h.{0..2}.fc", "head"]),
        (["layer1.0", "layer1.1", "layer2.0", "layer2.1"], ["layer{1,2}.{0,1}"]),
        (["a.0.x", "a.2.x", "a.3.x", "a.4.x"], ["a.{0,2..4}.x"]),
        (["a.0.0", "a.0.1", "a.1.0"], ["a.{0,1}.0", "a.0.1"]),
        (["layer_0.w[0]", "layer_1.w[0]"], ["layer_{0,1}.w[0]"]),
        (["conv2d_a", "conv3d_a"], ["conv2d_a", "conv3d_a"]),
        ([], []),
    ],
)
def test_names_fold(names: list[str], patterns: list[str]) -> None:
    assert fold_names(names) == patterns


def test_only_what_is_alike_folds() -> None:
    rows = [("a.0", 1), ("a.1", 2), ("a.2", 1)]
    found = fold(rows, name=lambda row: row[0], alike=lambda row: row[1])
    assert [(each.pattern, len(each.rows)) for each in found] == [("a.{0,2}", 2), ("a.1", 1)]
