"""Alignment, floors and which indices stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fxprune
from fxprune.errors import InputError
from fxprune.widths import alignment_note, keep_most_important, width_ranges


def residual() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 48, 3, padding=1)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(48, width, 1), nn.ReLU(), nn.Conv2d(width, 48, 1)) for width in (20, 96, 100, 7)
            )
            self.head = nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    torch.manual_seed(0)
    return Residual()


def attention() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(96, 6, 200, batch_first=True)
    return nn.Sequential(nn.Linear(96, 96), layer, nn.Linear(96, 5))


def grouped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 96, 1),
        nn.GroupNorm(6, 96),
        nn.ReLU(),
        nn.Conv2d(96, 96, 3, groups=6),
        nn.ReLU(),
        nn.Conv2d(96, 5, 1),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (residual, torch.randn(2, 3, 8, 8)),
    "attention": (attention, torch.randn(2, 5, 96)),
    "grouped": (grouped, torch.randn(2, 3, 8, 8)),
}


def changed(model: nn.Module, slim: nn.Module) -> dict[tuple[str, int], tuple[int, int]]:
    """Parameter axes that lost something: (name, dimension) -> (kept, original)."""
    slimmed = dict(slim.named_parameters())
    return {
        (name, dim): (slimmed[name].shape[dim], size)
        for name, parameter in model.named_parameters()
        for dim, size in enumerate(parameter.shape)
        if slimmed[name].shape[dim] != size
    }


@pytest.mark.parametrize("search", ["knapsack", "threshold", "uniform"])
@pytest.mark.parametrize("align", [2, 4, 8, 16])
@pytest.mark.parametrize("name", MODELS)
def test_every_axis_that_is_cut_is_a_multiple_of_the_alignment(name: str, align: int, search: str) -> None:
    build, x = MODELS[name]
    model = build()
    slim = fxprune.compile(model, "50%", example_inputs=x, align=align, search=search)
    found = changed(model, slim)
    assert found
    for (parameter, dim), (kept, before) in found.items():
        whole = kept
        if name == "grouped" and parameter == "3.weight" and dim == 1:
            # The inputs of one convolution group; all groups' together are the axis.
            whole = kept * int(slim.get_submodule("3").groups)  # type: ignore[arg-type]
        if "in_proj" in parameter and dim == 0:
            assert kept % 3 == 0
            whole = kept // 3
        assert whole % align == 0, f"{parameter}:{dim} {before} -> {kept}"


@pytest.mark.parametrize("name", MODELS)
def test_widths_of_groups_are_multiples_of_their_step_or_whole(name: str) -> None:
    build, x = MODELS[name]
    analysis = fxprune.analyze(build(), x)
    ranges = width_ranges(analysis, None, None)
    slim = fxprune.compile(build(), "60%", example_inputs=x)
    for group, (after, before) in slim.plan.widths.items():
        assert after == before or after % ranges[group].step == 0
        assert after >= min(ranges[group].floor, before)


def test_heads_and_their_dimensions_share_the_alignment() -> None:
    """What the heads' dimensions guarantee, the number of heads need not."""
    analysis = fxprune.analyze(attention(), torch.randn(2, 5, 96))
    ranges = width_ranges(analysis, 8, None)
    kinds = {group.kind: group.name for group in analysis.groups}
    heads, dimensions = kinds["heads"], next(name for kind, name in kinds.items() if "dimensions" in kind)
    assert ranges[heads].step * ranges[dimensions].step % 8 == 0
    assert ranges[heads].step < 8


def test_the_default_alignment_is_less_for_narrow_groups() -> None:
    analysis = fxprune.analyze(residual(), torch.randn(2, 3, 8, 8))
    steps = {group.size: width_ranges(analysis, None, None)[group.name].step for group in analysis.groups}
    assert steps == {48: 4, 20: 2, 96: 8, 100: 8, 7: 1}


GPU = torch.device("cuda")


def chain(*widths: int) -> nn.Module:
    """Linear layers, the hidden ones of these widths."""
    sizes = [4, *widths, 3]
    return nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(sizes)))


def test_the_default_alignment_on_a_gpu_is_a_tile_of_its_matrix_products() -> None:
    wide = {7: 1, 15: 1, 16: 8, 24: 8, 48: 16, 64: 32, 96: 32, 128: 64, 255: 64, 256: 64, 320: 64, 2048: 64}
    analysis = fxprune.analyze(chain(*wide), torch.randn(2, 4))
    on_gpu, on_cpu = (width_ranges(analysis, None, None, torch.device(each)) for each in ("cuda", "cpu"))
    assert {group.size: on_gpu[group.name].step for group in analysis.groups} == wide
    assert on_cpu == width_ranges(analysis, None, None) != on_gpu
    for group in analysis.groups:
        multiples = np.arange(on_gpu[group.name].step, group.size, on_gpu[group.name].step)
        assert on_gpu[group.name].allows(group.size, multiples[multiples >= on_gpu[group.name].floor]).all()


def test_on_a_gpu_dimensions_of_heads_follow_fused_attention_and_heads_stay_free() -> None:
    layer = nn.TransformerEncoderLayer(512, 8, 1024, batch_first=True)
    analysis = fxprune.analyze(nn.Sequential(layer, nn.Linear(512, 5)), torch.randn(2, 5, 512))
    ranges = width_ranges(analysis, None, None, GPU)
    kinds = {group.kind: ranges[group.name].step for group in analysis.groups}
    assert kinds["heads"] == 1
    assert kinds["query/key dimensions"] == 32
    assert kinds["features"] == 64


def test_on_a_gpu_convolution_groups_are_as_free_as_on_a_cpu() -> None:
    x = torch.randn(2, 3, 8, 8)
    analysis = fxprune.analyze(grouped(), x)
    steps = [width_ranges(analysis, None, None, torch.device(each)) for each in ("cpu", "cuda")]
    counts = [group.name for group in analysis.groups if group.kind == "groups"]
    assert counts
    assert all(steps[0][name].step == steps[1][name].step for name in counts)


def test_an_explicit_alignment_wins_on_a_gpu() -> None:
    analysis = fxprune.analyze(chain(512, 320), torch.randn(2, 4))
    assert {each.step for each in width_ranges(analysis, 8, None, GPU).values()} == {8}
    named = width_ranges(analysis, {"0": 16}, None, GPU)
    assert [named[name].step for name in ("0", "1")] == [16, 64]
    assert alignment_note(analysis, 8, GPU) == ()
    assert alignment_note(analysis, None, torch.device("cpu")) == ()
    notes = alignment_note(analysis, None, GPU)
    assert "multiples of 64" in notes[0]
    assert "reads and writes less" in notes[1]
    assert alignment_note(analysis, {"0": 16}, GPU) == notes


def test_the_default_alignment_follows_where_the_weights_are() -> None:
    analysis = fxprune.analyze(chain(512), torch.randn(2, 4))
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = {name: torch.empty(each.shape, device="cuda") for name, each in analysis.program.tensors.items()}
    there = replace(analysis, program=replace(analysis.program, tensors=moved))
    assert width_ranges(there, None, None) == width_ranges(analysis, None, None, GPU)
    assert alignment_note(there, None)
    assert width_ranges(there, None, None, torch.device("cpu")) == width_ranges(analysis, None, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_model_on_a_gpu_gets_widths_of_a_gpu_and_is_told() -> None:
    model = chain(512, 320)
    slim = fxprune.compile(model.cuda(), "50%", example_inputs=torch.randn(2, 4, device="cuda"))
    assert all(kept % 64 == 0 for kept, _ in slim.plan.widths.values())
    assert any("multiples of 64" in note for note in slim.report.notes)
    plain = fxprune.compile(model.cpu(), "50%", example_inputs=torch.randn(2, 4))
    assert not any("multiples of 64" in note for note in plain.report.notes)


def test_a_group_narrower_than_the_alignment_is_left_whole() -> None:
    model = residual()
    slim = fxprune.compile(model, "60%", example_inputs=torch.randn(2, 3, 8, 8), align=32)
    assert slim.plan.widths["blocks.3.0"] == (7, 7)
    assert slim.plan.widths["blocks.0.0"] == (20, 20)
    assert {after for after, before in slim.plan.widths.values() if after < before} <= {32, 64, 96}


@pytest.mark.parametrize("floor", [0.5, 0.75])
def test_a_share_as_floor(floor: float) -> None:
    slim = fxprune.compile(residual(), "80%", example_inputs=torch.randn(2, 3, 8, 8), floor=floor, align=1)
    assert any(after < before for after, before in slim.plan.widths.values())
    assert all(after >= floor * before for after, before in slim.plan.widths.values())


def test_a_number_as_floor() -> None:
    slim = fxprune.compile(residual(), "40%", example_inputs=torch.randn(2, 3, 8, 8), floor=17, align=1)
    assert all(after >= min(17, before) for after, before in slim.plan.widths.values())


def test_floors_by_name_and_pattern() -> None:
    x = torch.randn(2, 3, 8, 8)
    floor = {"blocks.*": 0.5, "blocks.1.0": 90, "stem": 0.9}
    slim = fxprune.compile(residual(), "75%", example_inputs=x, floor=floor, align=1)
    widths = {name: after for name, (after, _) in slim.plan.widths.items()}
    assert widths["blocks.1.0"] >= 90
    assert widths["blocks.2.0"] >= 50
    assert widths["stem"] >= 44


def test_a_floor_of_everything_leaves_nothing_to_cut() -> None:
    with pytest.raises(fxprune.InfeasibleBudget):
        fxprune.compile(residual(), "99%", example_inputs=torch.randn(2, 3, 8, 8), floor=1.0)
    slim = fxprune.compile(residual(), "100%", example_inputs=torch.randn(2, 3, 8, 8), floor=1.0)
    assert slim.plan.kept == {}


def test_no_width_is_ever_zero() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(fxprune.InfeasibleBudget) as caught:
        fxprune.compile(residual(), 1.5, example_inputs=x, floor=0.0, align=1)
    smallest = caught.value.shortfalls["flops"].smallest
    slim = fxprune.compile(residual(), smallest, example_inputs=x, floor=0.0, align=1)
    assert {after for after, _ in slim.plan.widths.values()} == {1}
    assert slim(x).shape == (2, 5)


def scores_of(analysis: fxprune.Analysis, importance: dict[str, Any]) -> fxprune.Scores:
    ones = {group.name: np.ones(group.size) for group in analysis.groups}
    return fxprune.Scores("given", ones | importance)


def test_the_most_important_indices_stay_and_of_equals_the_first() -> None:
    analysis = fxprune.analyze(residual(), torch.randn(2, 3, 8, 8))
    importance = np.array([1.0, 5, 5, 0, 5, 5, 2])
    widths = {group.name: group.size for group in analysis.groups} | {"blocks.3.0": 3}
    kept = keep_most_important(analysis.groups, scores_of(analysis, {"blocks.3.0": importance}), widths)
    assert {name: own.tolist() for name, own in kept.items()} == {"blocks.3.0": [1, 2, 4]}


def test_each_outer_index_keeps_its_own_best() -> None:
    model = grouped()
    analysis = fxprune.analyze(model, torch.randn(2, 3, 8, 8))
    nested = next(group for group in analysis.groups if group.outer is not None)
    assert nested.outer is not None
    importance = np.random.default_rng(0).random((nested.outer.size, nested.size))
    widths = {group.name: group.size for group in analysis.groups} | {nested.name: 5}
    given = {
        group.name: np.ones((group.outer.size, group.size)) for group in analysis.groups if group.outer is not None
    }
    kept = keep_most_important(analysis.groups, scores_of(analysis, given | {nested.name: importance}), widths)
    expected = [sorted(np.argsort(-row)[:5].tolist()) for row in importance]
    assert kept[nested.name].tolist() == expected


def test_alignment_by_name_or_pattern() -> None:
    analysis = fxprune.analyze(residual(), torch.randn(2, 3, 4, 4))
    ranges = width_ranges(analysis, {"blocks.1.*": 32, "stem": 16}, None)
    plain = width_ranges(analysis, None, None)
    assert ranges["blocks.1.0"].step == 32
    assert ranges["blocks.2.0"] == plain["blocks.2.0"]
    streams = [name for name in ranges if name not in plain or ranges[name] != plain[name]]
    assert "blocks.1.0" in streams
    with pytest.raises(InputError, match=r"align=\{'nothing': ...\} matches no group"):
        width_ranges(analysis, {"nothing": 8}, None)
    with pytest.raises(InputError, match="align=0 is no positive"):
        width_ranges(analysis, {"stem": 0}, None)
