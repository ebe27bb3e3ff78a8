"""torchvision's models at half their FLOPs: counted, compared with the masked original, trained, exported."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune.capture import capture
from tests.costs.count import counted, parameters
from tests.reference import masked_outputs

SIZES = {
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "efficientnet_b0": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "vgg11_bn": 32,
    "alexnet": 64,
    "vit_b_16": 64,
    "deeplabv3_resnet50": 64,
    "lraspp_mobilenet_v3_large": 64,
}
EXPORTED_ALWAYS = ("resnet18", "mobilenet_v3_small", "densenet121", "vit_b_16")
INTERPRETED = (
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
    "lraspp_mobilenet_v3_large",
)


@dataclass(frozen=True)
class Case:
    """A model and what became of it."""

    name: str
    model: nn.Module
    images: Tensor
    slim: fxprune.SlimModule


def build(name: str) -> nn.Module:
    """The model with random weights, so random that no part of it is an identity or a constant."""
    if name.startswith(("deeplabv3", "lraspp")):
        models: Any = pytest.importorskip("torchvision.models.segmentation")
        options: dict[str, Any] = {"weights_backbone": None}
    else:
        models = pytest.importorskip("torchvision.models")
        options = {"image_size": SIZES[name]} if name.startswith("vit") else {}
        options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)(weights=None, **options)
    randomise(model, torch.randn(4, 3, SIZES[name], SIZES[name]))
    return model.eval()


def randomise(model: nn.Module, images: Tensor) -> None:
    """BatchNorm statistics near what the images have, but not at it; vectors and constant tensors random."""
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.dim() <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                scale = 1.0 if parameter.dim() == 1 and float(parameter.mean()) > 0.5 else 0.0
                parameter.copy_(scale + torch.empty_like(parameter).uniform_(-0.3, 0.3))
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.6, 1.6)


@pytest.fixture(scope="module", params=SIZES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each model in turn, compiled once for all tests."""
    name = str(request.param)
    model = build(name)
    images = torch.randn(2, 3, SIZES[name], SIZES[name])
    return Case(name, model, images, fxprune.compile(model, "50%", example_inputs=(images,)))


def outputs(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tree_leaves(module(*inputs)))


def test_the_budget_holds_by_torchs_own_count(case: Case) -> None:
    before, after = counted(case.model, case.images), counted(case.slim, case.images)
    flops, params = case.slim.report.metrics[:2]
    assert (flops.name, flops.before, flops.after) == ("flops", before, after)
    assert after <= before / 2
    assert (params.name, params.before, params.after) == ("params", parameters(case.model), parameters(case.slim))


def test_the_budget_is_used(case: Case) -> None:
    """Not half of the half: the search leaves little of what the user allowed."""
    assert case.slim.report.metrics[0].after > 0.45 * case.slim.report.metrics[0].before


def test_it_equals_the_masked_original(case: Case) -> None:
    assert case.slim.report.error is not None
    assert case.slim.report.error < 1e-4


def test_outputs_tell_images_apart(case: Case) -> None:
    """What the comparison is worth: outputs vary with the image, before and after, and cutting changes them."""
    before, after = outputs(case.model, case.images), outputs(case.slim, case.images)
    assert [each.shape for each in before] == [each.shape for each in after]
    for one, other in zip(before, after, strict=True):
        for each in (one, other):
            assert float((each[0] - each[1]).abs().max()) > 1e-3 * float(each.abs().max())
        assert float((one - other).abs().max()) > 1e-3 * float(one.abs().max())


def test_names_are_the_originals(case: Case) -> None:
    assert list(case.slim.state_dict()) == list(case.model.state_dict())
    assert [name for name, _ in case.slim.named_parameters()] == [name for name, _ in case.model.named_parameters()]
    leaves = {name: module for name, module in case.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for name, module in leaves.items():
        # MultiheadAttention reads its output projection's weight itself.
        if not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear) and "aux" not in name.lower():
            assert type(case.slim.get_submodule(name)) is type(module), name


def test_it_trains(case: Case) -> None:
    """One step, on another batch size than the example's."""
    slim = copy.deepcopy(case.slim).train()
    optimiser = torch.optim.SGD(slim.parameters(), lr=1e-3)
    loss = sum(each.square().mean() for each in tree_leaves(slim(torch.randn(3, *case.images.shape[1:]))))
    assert isinstance(loss, Tensor)
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    for name, parameter in reached(slim).items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def reached(slim: fxprune.SlimModule) -> dict[str, nn.Parameter]:
    """Parameters that the graph reads, by its own nodes."""
    named = dict(slim.named_parameters(remove_duplicate=False))
    found = {}
    for node in slim.graph.nodes:
        if node.op == "get_attr" and node.target in named:
            found[str(node.target)] = named[str(node.target)]
        if node.op == "call_module":
            found |= {name: each for name, each in named.items() if name.startswith(f"{node.target}.")}
    assert len(found) > 5
    return found


def test_the_reference_interpreter_agrees(case: Case) -> None:
    if case.name not in INTERPRETED:
        pytest.skip("left to the compiler's own check")
    graph = capture(case.model, (case.images,)).graph_module
    expected = masked_outputs(graph, case.slim.plan.slices, (case.images,))
    for one, other in zip(expected, outputs(case.slim, case.images), strict=True):
        assert float((one - other).abs().max()) < 1e-4 * float(one.abs().max())


def test_onnxruntime_agrees(case: Case, tmp_path: Path) -> None:
    if case.name not in EXPORTED_ALWAYS:
        pytest.skip("exported by the slow test")
    export(case, tmp_path / "slim.onnx")


@pytest.mark.slow
def test_onnxruntime_agrees_on_the_others(case: Case, tmp_path: Path) -> None:
    if case.name in EXPORTED_ALWAYS:
        pytest.skip("exported by the test above")
    export(case, tmp_path / "slim.onnx")


def export(case: Case, path: Path) -> None:
    artifact = fxprune.lower(case.slim, "onnx", path)
    assert path.stat().st_size > 1000
    assert artifact.largest_relative_error is not None
    assert artifact.largest_relative_error < 1e-3
