"""The interpreter against slim results written by hand: layers, convolutions and norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.reference.helpers import check, randn, randomised


def test_linear_relu_linear() -> None:
    module = randomised(nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)))
    x, kept = randn(2, 5), [0, 2, 5]
    first, second = module[0], module[2]

    def slim() -> Any:
        hidden = F.relu(F.linear(x, first.weight[kept], first.bias[kept]))
        return F.linear(hidden, second.weight[:, kept], second.bias)

    check(module, {"0.weight": {0: kept}, "0.bias": {0: kept}, "2.weight": {1: kept}}, (x,), slim)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(1, 6)])
def test_conv_norm_relu_conv(norm: Any) -> None:
    module = randomised(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(6, 4, 3)))
    x, kept = randn(2, 3, 6, 6), [1, 2, 4]
    first, last = module[0], module[3]

    def normalised(y: Tensor) -> Tensor:
        weight, bias = norm.weight[kept], norm.bias[kept]
        if isinstance(norm, nn.BatchNorm2d):
            statistics = dict(norm.named_buffers())
            mean, variance = statistics["running_mean"][kept], statistics["running_var"][kept]
            return F.batch_norm(y, mean, variance, weight, bias)
        return F.group_norm(y, 1 if isinstance(norm, nn.GroupNorm) else len(kept), weight, bias)

    def slim() -> Any:
        y = F.conv2d(x, first.weight[kept], first.bias[kept], padding=1)
        return F.conv2d(F.relu(normalised(y)), last.weight[:, kept], last.bias)

    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    if isinstance(norm, nn.BatchNorm2d):
        names += ["1.running_mean", "1.running_var"]
    check(module, {name: {0: kept} for name in names} | {"3.weight": {1: kept}}, (x,), slim)


def test_group_norm_keeps_a_choice_within_each_group() -> None:
    module = randomised(nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)))
    x, kept = randn(2, 3, 4, 4), [0, 2, 4, 5]
    first, norm, last = module

    def slim() -> Any:
        y = F.conv2d(x, first.weight[kept], first.bias[kept])
        return F.conv2d(F.group_norm(y, 2, norm.weight[kept], norm.bias[kept]), last.weight[:, kept], last.bias)

    cut = {name: {0: kept} for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
    check(module, cut | {"2.weight": {1: kept}}, (x,), slim)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.LayerNorm(8, elementwise_affine=False)])
def test_norm_over_features_sees_what_is_kept(norm: Any) -> None:
    module = randomised(nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 3)))
    x, kept = randn(2, 5, 4), [0, 3, 4, 6, 7]
    first, last = module[0], module[2]
    affine = {name: parameter[kept] for name, parameter in norm.named_parameters()}

    def slim() -> Any:
        y = F.linear(x, first.weight[kept], first.bias[kept])
        if isinstance(norm, nn.RMSNorm):
            y = F.rms_norm(y, (len(kept),), affine["weight"])
        else:
            y = F.layer_norm(y, (len(kept),), affine.get("weight"), affine.get("bias"))
        return F.linear(y, last.weight[:, kept], last.bias)

    cut = {f"1.{name}": {0: kept} for name in affine}
    check(module, cut | {"0.weight": {0: kept}, "0.bias": {0: kept}, "2.weight": {1: kept}}, (x,), slim)


def test_grouped_conv_with_a_choice_of_inputs_in_each_kept_group() -> None:
    module = randomised(
        nn.Sequential(nn.Conv2d(2, 12, 1), nn.Conv2d(12, 6, 3, groups=3, padding=1), nn.Conv2d(6, 2, 1))
    )
    x = randn(2, 2, 4, 4)
    first, middle, last = module
    inputs = [[1, 3], [0, 2]]  # within groups 0 and 2; group 1 is gone
    channels, rows = [1, 3, 8, 10], [0, 1, 4, 5]

    def slim() -> Any:
        weight = torch.cat([middle.weight[:2][:, inputs[0]], middle.weight[4:][:, inputs[1]]])
        y = F.conv2d(x, first.weight[channels], first.bias[channels])
        y = F.conv2d(y, weight, middle.bias[rows], padding=1, groups=2)
        return F.conv2d(y, last.weight[:, rows], last.bias)

    slices: dict[str, dict[int, Any]] = {
        "0.weight": {0: channels},
        "0.bias": {0: channels},
        "1.weight": {0: rows, 1: inputs},
        "1.bias": {0: rows},
        "2.weight": {1: rows},
    }
    check(module, slices, (x,), slim)


def test_grouped_conv_with_a_choice_of_outputs_in_each_group() -> None:
    module = randomised(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.Conv2d(6, 2, 1)))
    x, rows = randn(2, 4, 4, 4), [0, 2, 3, 4]

    def slim() -> Any:
        y = F.conv2d(x, module[0].weight[rows], module[0].bias[rows], padding=1, groups=2)
        return F.conv2d(y, module[1].weight[:, rows], module[1].bias)

    check(module, {"0.weight": {0: rows}, "0.bias": {0: rows}, "1.weight": {1: rows}}, (x,), slim)


def test_depthwise_conv_and_squeeze_excite() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.down, self.up, self.c = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Any:
            y = F.relu6(self.b(self.a(x)), inplace=True)
            scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
            return self.c(F.max_pool2d(y * scale, 2))

    module, x = randomised(Net()), randn(2, 3, 4, 4)
    kept, hidden = [0, 1, 4], [2, 3]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept])
        y = F.relu6(F.conv2d(y, module.b.weight[kept], module.b.bias[kept], padding=1, groups=3))
        down = F.conv2d(y.mean((2, 3), keepdim=True), module.down.weight[hidden][:, kept], module.down.bias[hidden])
        scale = torch.sigmoid(F.conv2d(F.relu(down), module.up.weight[kept][:, hidden], module.up.bias[kept]))
        return F.conv2d(F.max_pool2d(y * scale, 2), module.c.weight[:, kept], module.c.bias)

    slices = {f"{name}.{part}": {0: kept} for name in "ab" for part in ("weight", "bias")} | {
        "down.weight": {0: hidden, 1: kept},
        "down.bias": {0: hidden},
        "up.weight": {0: kept, 1: hidden},
        "up.bias": {0: kept},
        "c.weight": {1: kept},
    }
    check(module, slices, (x,), slim)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv(groups: int) -> None:
    """Stride beyond the kernel leaves places that only the bias reaches."""
    module = randomised(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=3, groups=groups), nn.Conv2d(6, 2, 1)))
    x, kept = randn(2, 4, 3, 3), [0, 2, 3, 5]
    up, last = module
    within = [0, 2, 3, 5] if groups == 1 else [[0, 2], [0, 2]]

    def slim() -> Any:
        weight = up.weight[:, kept] if groups == 1 else up.weight[:, [0, 2]]
        y = F.conv_transpose2d(x, weight, up.bias[kept], stride=3, groups=groups)
        return F.conv2d(y, last.weight[:, kept], last.bias)

    check(module, {"0.weight": {1: within}, "0.bias": {0: kept}, "1.weight": {1: kept}}, (x,), slim)


def test_flattened_channels_and_places() -> None:
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)))
    x, kept = randn(2, 3, 4, 4), [1, 3]
    columns = [4, 5, 6, 7, 12, 13, 14, 15]

    def slim() -> Any:
        y = F.avg_pool2d(F.conv2d(x, module[0].weight[kept], module[0].bias[kept]), 2).flatten(1)
        return F.linear(y, module[3].weight[:, columns], module[3].bias)

    check(module, {"0.weight": {0: kept}, "0.bias": {0: kept}, "3.weight": {1: columns}}, (x,), slim)


def test_weight_standardisation_and_statistics_over_channels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3)

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            y = y * torch.sigmoid(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1).sum(1, keepdim=True))
            weight = self.b.weight
            variance, mean = torch.var_mean(weight, dim=[1, 2, 3], keepdim=True, correction=1)
            return (
                F.conv2d(y, (weight - mean) * torch.rsqrt(variance + 1e-5), self.b.bias)
                + y.std(1, keepdim=True)[..., 1:-1, 1:-1]
            )

    module, x, kept = randomised(Net()), randn(2, 3, 5, 5), [0, 2, 3]

    def slim() -> Any:
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept])
        y = y * torch.sigmoid(y.mean(1, keepdim=True) + y.amax(1, keepdim=True))
        weight = module.b.weight[:, kept]
        normal = (weight - weight.mean((1, 2, 3), keepdim=True)) / torch.sqrt(
            weight.var((1, 2, 3), keepdim=True) + 1e-5
        )
        return F.conv2d(y, normal, module.b.bias) + y.std(1, keepdim=True)[..., 1:-1, 1:-1]

    check(module, {"a.weight": {0: kept}, "a.bias": {0: kept}, "b.weight": {1: kept}}, (x,), slim)


def test_batch_statistics_as_weight_standardisation() -> None:
    """As NFNets do it: the weight's filters are the channels of a batch norm."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gain = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Any:
            flat = self.b.weight.reshape(1, 4, -1)
            weight = F.batch_norm(flat, None, None, weight=self.gain, training=True, momentum=0.0, eps=1e-6)
            return F.conv2d(self.a(x), weight.reshape_as(self.b.weight), self.b.bias)

    module, x, kept = randomised(Net()), randn(2, 3, 5, 5), [0, 2, 3]

    def slim() -> Any:
        weight = module.b.weight[:, kept]
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        normal = centred / torch.sqrt(centred.square().mean((1, 2, 3), keepdim=True) + 1e-6)
        y = F.conv2d(x, module.a.weight[kept], module.a.bias[kept])
        return F.conv2d(y, normal * module.gain.view(-1, 1, 1, 1), module.b.bias)

    check(module, {"a.weight": {0: kept}, "a.bias": {0: kept}, "b.weight": {1: kept}}, (x,), slim)


def test_weight_norm() -> None:
    layers = nn.Sequential(nn.Linear(3, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    module, x, kept = randomised(layers), randn(2, 3), [0, 2, 3]
    length, direction = module[1].parametrizations.weight.original0, module[1].parametrizations.weight.original1

    def slim() -> Any:
        hidden = F.linear(x, module[0].weight[kept], module[0].bias[kept])
        v = direction[:, kept]
        return F.linear(hidden, v * length / v.norm(dim=1, keepdim=True), module[1].bias)

    name = "1.parametrizations.weight.original1"
    check(module, {"0.weight": {0: kept}, "0.bias": {0: kept}, name: {1: kept}}, (x,), slim)


def test_windows_padding_resizing_and_pixels() -> None:
    """Spatial padding of a dead channel stays dead, unfolded taps belong to their channel, pixels to theirs."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 2, 1), nn.Linear(8 * 4, 3)

        def forward(self, x: Tensor) -> Any:
            y = F.hardswish(F.pad(self.a(x), (1, 0, 0, 1)))
            taps = self.c(F.unfold(F.interpolate(y, size=(2, 3), mode="bilinear"), 2).transpose(1, 2))
            return taps.mean((1, 2))[:, None, None, None] + self.b(F.pixel_shuffle(y, 2))

    module, x = randomised(Net()), randn(2, 3, 3, 3)
    kept, columns = [4, 5, 6, 7], list(range(16, 32))

    def slim() -> Any:
        y = F.hardswish(F.pad(F.conv2d(x, module.a.weight[kept], module.a.bias[kept]), (1, 0, 0, 1)))
        taps = F.unfold(F.interpolate(y, size=(2, 3), mode="bilinear"), 2).transpose(1, 2)
        taps = F.linear(taps, module.c.weight[:, columns], module.c.bias)
        return taps.mean((1, 2))[:, None, None, None] + F.conv2d(
            F.pixel_shuffle(y, 2), module.b.weight[:, 1:], module.b.bias
        )

    slices = {"a.weight": {0: kept}, "a.bias": {0: kept}, "c.weight": {1: columns}, "b.weight": {1: [1]}}
    check(module, slices, (x,), slim)
