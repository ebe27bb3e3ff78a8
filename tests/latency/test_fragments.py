"""Fragments: every operation in one, alike ones recognised, built at any widths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxprune.inputs import device_of
from fxprune.latency.basis import sizes_at
from fxprune.latency.building import build_fragment, build_whole
from fxprune.latency.fragments import Fragment, find_fragments
from fxprune.latency.levels import grid_of
from fxprune.latency.signature import signature_of
from fxprune.planning import survey
from fxprune.widths import width_ranges
from tests.latency.nets import IMAGES, TOKENS, Attention, Joined, Residual

NETS: list[tuple[nn.Module, Tensor]] = [(Residual(), IMAGES), (Joined(), IMAGES), (Attention(), TOKENS)]


def names(fragment: Fragment) -> str:
    return str(fragment).partition(": ")[2]


def test_producers_take_what_follows_them_along() -> None:
    analysis = survey(Residual(), (IMAGES,)).analysis
    found = [names(each) for each in find_fragments(analysis)]
    block = ["conv2d batch_norm relu", "conv2d batch_norm add relu"]
    assert found == ["conv2d", *block, *block, "conv2d batch_norm relu", "conv2d batch_norm add relu mean", "linear"]


def test_alike_fragments_have_one_signature() -> None:
    analysis = survey(Residual(), (IMAGES,)).analysis
    signatures = [signature_of(analysis, each) for each in find_fragments(analysis)]
    assert signatures[1] == signatures[3] == signatures[5]
    assert signatures[2] == signatures[4] != signatures[6]
    assert "conv1" not in "".join(signatures)


def test_signatures_tell_what_time_depends_on() -> None:
    def of(net: nn.Module, example: Tensor) -> str:
        analysis = survey(net.eval(), (example,)).analysis
        return signature_of(analysis, find_fragments(analysis)[0])

    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3))
    strided = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), nn.Conv2d(32, 8, 3))
    known = of(plain, IMAGES)
    assert of(strided, IMAGES) != known
    assert of(plain, torch.zeros(2, 3, 9, 9)) != known
    assert of(plain.double(), IMAGES.double()) != known


@pytest.mark.parametrize(("net", "example"), NETS, ids=lambda each: type(each).__name__)
def test_fragments_run_at_every_point_of_their_grids(net: nn.Module, example: Tensor) -> None:
    analysis = survey(net.eval(), (example,)).analysis
    for fragment in find_fragments(analysis):
        for row in grid_of(analysis, fragment.basis, width_ranges(analysis, None, None)).widths:
            module, (args, kwargs) = build_fragment(analysis, fragment, row.tolist())
            with torch.no_grad():
                outputs = module(*args, **kwargs)
            assert len(outputs) == len(fragment.outputs)


@pytest.mark.parametrize(("net", "example"), NETS, ids=lambda each: type(each).__name__)
def test_operations_have_the_shapes_that_they_have_in_the_slim_model(net: nn.Module, example: Tensor) -> None:
    analysis = survey(net.eval(), (example,)).analysis
    widths = [max(group.size // 2, 1) for group in analysis.groups]
    whole, (args, kwargs) = build_whole(analysis, widths)
    shapes: dict[str, torch.Size] = {}

    class Listener(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            found = super().run_node(n)
            if isinstance(found, Tensor):
                shapes[n.meta["origin"].name if "origin" in n.meta else n.name] = found.shape
            return found

    with torch.no_grad():
        Listener(whole).run(*args, **kwargs)
        for fragment in find_fragments(analysis):
            module, (own, _) = build_fragment(analysis, fragment, widths)
            for node, output in zip(fragment.outputs, module(*own), strict=True):
                if isinstance(output, Tensor):
                    assert output.shape == shapes[node.name]


def test_fragments_without_weights_say_their_device() -> None:
    analysis = survey(Attention().to("meta"), (TOKENS.to("meta"),)).analysis
    for fragment in find_fragments(analysis):
        module, (args, _) = build_fragment(analysis, fragment, [group.size for group in analysis.groups])
        assert device_of(module).type == "meta"
        assert {each.device.type for each in args} == {"meta"}


def test_a_concatenation_counts_as_one_size_where_it_only_occurs_whole() -> None:
    analysis = survey(Joined(), (IMAGES,)).analysis
    reading = next(each for each in find_fragments(analysis) if names(each) == "conv2d relu")
    assert sorted(axis.size for axis in reading.basis) == [64, 80]
    columns = {group.variable: at for at, group in enumerate(analysis.groups)}
    widths = torch.tensor([[8 for _ in analysis.groups]]).numpy()
    assert [sizes_at(axis, columns, widths)[0] for axis in reading.basis if axis.size == 80] == [16.0]
