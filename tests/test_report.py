"""The report: one in full, so that a change of what users see shows in review, and what its figures mean."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import fxprune
from tests.costs.count import counted, parameters


class Tagger(nn.Module):
    """Has heads, a residual stream, a norm, a pinned vocabulary, and a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.encoder = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(tokens)))
        return out


TOKENS = torch.arange(14).reshape(2, 7)


def tagger() -> nn.Module:
    """Weights that no generator decides, so that the same indices go with every version of torch."""
    model = Tagger().eval()
    with torch.no_grad():
        for position, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * (1.7 + position)).reshape(parameter.shape) / 4)
    return model


def slim() -> fxprune.SlimModule:
    return fxprune.compile(tagger(), {"flops": "50%", "params": 40_000}, example_inputs=(TOKENS,))


@pytest.fixture(scope="module")
def report() -> fxprune.Report:
    return slim().report


GOLDEN = """
Tagger: knapsack on magnitude scores
┏━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━━━━━┓
┃        ┃             before ┃              after ┃  kept ┃            budget ┃
┡━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━━━━━┩
│ flops  │       1.419 MFLOPs │       696.2 KFLOPs │ 49.1% │    ≤ 709.6 KFLOPs │
│ params │ 57.05 K parameters │ 31.23 K parameters │ 54.7% │ ≤ 40 K parameters │
│ memory │           260.6 KB │           144.7 KB │ 55.6% │                   │
└────────┴────────────────────┴────────────────────┴───────┴───────────────────┘
2 of 4 groups cut
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━━━┳━━━━━━┓
┃ group                                     ┃ kind                 ┃ before ┃ after ┃ importance kept ┃ axes ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━━━╇━━━━━━┩
│ embed                                     │ features             │     64 │    64 │                 │   12 │
│ encoder.self_attn.in_proj_weight:heads    │ heads                │      4 │     3 │           75.0% │    3 │
│ encoder.self_attn.in_proj_weight:query/ke │ query/key dimensions │     16 │    16 │                 │    3 │
│ y dimensions                              │                      │        │       │                 │      │
│ encoder.linear1                           │ features             │    256 │    88 │           35.1% │    3 │
└───────────────────────────────────────────┴──────────────────────┴────────┴───────┴─────────────────┴──────┘
Pinned: keeps its size
┏━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
┃ reason       ┃ operation              ┃ axes                       ┃ parameters on it ┃
┡━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
│ vocabulary   │ aten.embedding.default │ embed.weight:0             │            6,400 │
│ model output │                        │ head.weight:0, head.bias:0 │              650 │
└──────────────┴────────────────────────┴────────────────────────────┴──────────────────┘
checked against the original with the cut parts silenced: largest relative error E; T s
1 FLOP is one multiply or one add (twice the MACs that some tools report); memory: weights and peak
activations
note: never read by the captured forward, kept as they are: unused.weight, unused.bias
"""


def test_the_report_in_full(report: fxprune.Report) -> None:
    text = re.sub(r"relative error \S+; \S+ s", "relative error E; T s", str(report))
    assert [line.rstrip() for line in text.splitlines()] == [line.rstrip() for line in GOLDEN.strip("\n").splitlines()]


def test_it_fits_a_terminal(report: fxprune.Report) -> None:
    assert max(map(len, str(report).splitlines())) <= 110
    assert str(report) == str(report)


def test_it_is_printed_by_rich(report: fxprune.Report) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    assert isinstance(console.file, io.StringIO)
    assert "self_attn" in console.file.getvalue()


def test_metrics_are_those_of_the_models() -> None:
    model, small = tagger(), slim()
    flops, params, memory = small.report.metrics
    assert (flops.name, params.name, memory.name) == ("flops", "params", "memory")
    assert (flops.before, flops.after) == (counted(model, TOKENS), counted(small, TOKENS))
    assert (params.before, params.after) == (parameters(model), parameters(small))
    assert (flops.limit, params.limit, memory.limit) == (flops.before / 2, 40_000, None)
    assert memory.after < memory.before


def test_groups_say_how_much_importance_stays() -> None:
    small = slim()
    assert small.scores is not None
    for group in small.report.groups:
        assert (group.after, group.before) == small.plan.widths[group.name]
        importance = small.scores.importance[group.name]
        if group.after == group.before:
            assert group.retained == pytest.approx(1)
        elif importance.ndim == 1:
            kept = importance[small.plan.kept[group.name]].sum() / importance.sum()
            assert group.retained == pytest.approx(kept)


def test_what_is_pinned_says_why(report: fxprune.Report) -> None:
    reasons = {each.reason: each for each in report.pinned}
    assert "head.weight:0" in reasons["model output"].axes
    assert list(report.pinned) == sorted(report.pinned, key=lambda each: -each.parameters)


def test_notes_name_what_is_never_read(report: fxprune.Report) -> None:
    assert any("unused.weight" in note for note in report.notes)


def test_json_makes_the_round_trip(report: fxprune.Report) -> None:
    data = json.loads(report.to_json())
    assert data == json.loads(json.dumps(dataclasses.asdict(report)))
    assert set(data) == {field.name for field in dataclasses.fields(fxprune.Report)}
    assert data["metrics"][0]["name"] == "flops"
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_a_report_is_frozen(report: fxprune.Report) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.model = "another"  # type: ignore[misc]
