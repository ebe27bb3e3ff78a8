"""Reconstruction gives back what kept inputs can say about lost ones, and never does harm on held-out data."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.analysis import Analysis, analyze
from fxprune.batches import iterate_batches
from fxprune.errors import VerificationError
from fxprune.passes.least_squares import RIDGES, Moments, choose, solve
from fxprune.passes.reconstruct import Reconstruction, reconstruct
from fxprune.passes.slim import slim_graph
from fxprune.plan import Plan
from fxprune.slim_module import SlimModule, assemble


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(model: nn.Module, seed: int = 1) -> Any:
    """Random weights that depend on nothing but the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 4) ** 0.5)
    return model.eval()


def repeat(module: Any, first: slice, second: slice) -> None:
    """Outputs `second` of a layer are 1.5 times outputs `first`."""
    with torch.no_grad():
        module.weight[second] = 1.5 * module.weight[first]
        if module.bias is not None:
            module.bias[second] = 1.5 * module.bias[first]


def slim_of(analysis: Analysis, kept: dict[str, Any]) -> SlimModule:
    cut = analysis.cut(kept)
    plan = Plan(kept={}, slices={}, widths={}, budget={}, scorer="", search="", seed=0, versions={})
    return assemble(analysis.program, slim_graph(analysis.program, analysis.propagation, cut), plan, None)


def repair(model: nn.Module, data: list[Tensor], kept: Any, **options: Any) -> tuple[SlimModule, Reconstruction]:
    """Cut the model's first group (or those named), and repair."""
    analysis = analyze(model, data[0])
    chosen = kept if isinstance(kept, dict) else {analysis.groups[0].name: kept}
    slim = slim_of(analysis, chosen)
    batches = list(iterate_batches(data, analysis.program))
    return slim, reconstruct(analysis, analysis.cut(chosen), slim, batches, **options)


def assert_restored(model: nn.Module, slim: nn.Module, x: Tensor, tolerance: float = 0.02) -> None:
    with torch.no_grad():
        expected, actual = model(x), slim(x)
    assert float((actual - expected).norm() / expected.norm()) < tolerance


def deviation(outputs: Tensor) -> Tensor:
    """Of each channel, over all positions."""
    return outputs.movedim(1, -1).flatten(0, -2).std(0)


class Places(nn.Module):
    """A BatchNorm over places, not features, between a layer and the stream."""

    def __init__(self, places: int, bias: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16, bias=bias)
        self.norm, self.head = nn.BatchNorm1d(places), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.norm(self.down(torch.relu(self.up(x)))))
        return out


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_recovers_inputs_that_repeat(bias: bool) -> None:
    model = fill(nn.Sequential(nn.Linear(8, 32, bias=bias), nn.ReLU(), nn.Linear(32, 6, bias=bias)))
    repeat(model[0], slice(0, 16), slice(16, 32))
    slim, found = repair(model, [random(64, 8, seed=each) for each in range(5)], np.arange(16))
    assert_restored(model, slim, random(32, 8, seed=9))
    (only,) = found.repairs
    assert only.layer == "2"
    assert only.before > 0.05
    assert only.after < 1e-3


def test_what_a_batchnorm_sees_varies_as_in_the_original() -> None:
    """What is explained little would vary little, and a step of training change it the more; the norm undoes it."""
    first = nn.Conv2d(2, 16, 3)
    model = fill(nn.Sequential(first, nn.ReLU(), nn.Conv2d(16, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)))
    data = [random(8, 2, 9, 9, seed=each) for each in range(5)]
    slim, found = repair(model, data, np.arange(6))
    assert found.repairs[0].ridge is not None
    as_cut = model[2].weight[:, :6]
    with torch.no_grad():
        seen = model[1](model[0](torch.cat(data)))
        kept = slim.get_submodule("2")(seen[:, :6])
        torch.testing.assert_close(deviation(kept), deviation(model[2](seen)), rtol=0.02, atol=0)
        hidden, inner = model[1](model[0](data[0])), dict(slim.named_modules())
        whole, cut = model[3](model[2](hidden)), model[3](functional.conv2d(hidden[:, :6], as_cut, model[2].bias))
        after = inner["3"](inner["2"](hidden[:, :6]))
    assert float((after - whole).norm()) < 0.95 * float((cut - whole).norm())


def test_outputs_that_vary_by_rounding_alone_are_not_made_to_vary() -> None:
    """All inputs that are kept are constant: no length of the weights gives their outputs back what they lost."""
    first, norm, second = nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 6, 3)
    model = fill(nn.Sequential(first, norm, nn.ReLU(), second, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)))
    with torch.no_grad():
        norm.weight[:6], norm.bias[:6] = 0, torch.linspace(0.3, 1.3, 6)
    slim, found = repair(model, [random(8, 2, 9, 9, seed=each) for each in range(5)], np.arange(6))
    assert found.repairs[0].ridge is not None
    assert float(slim.get_parameter("3.weight").detach().abs().max()) < 2 * float(second.weight.detach().abs().max())


def test_what_is_not_finite_in_the_model_s_own_type_is_refused() -> None:
    """What is left gives -64000 and what is lost 64000, so the bias would have to be 84000."""
    model = fill(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))).half()
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = 0, 1
        model[2].weight[:, :8], model[2].weight[:, 8:], model[2].bias[:] = -8000, 8000, 20000
    data = [random(64, 8, seed=each).half() for each in range(5)]
    with pytest.raises(VerificationError, match="not finite"):
        repair(model, data, np.arange(8))


def test_weights_that_cancel_each_other_are_not_taken() -> None:
    """Two inputs are nearly the same; their difference says what was lost, but a thousandth of noise would drown it."""
    hidden = random(2000, 4, seed=1).double()
    near = hidden[:, :1] + 1e-4 * hidden[:, 1:2]
    rows = torch.cat([hidden[:, :1], near, hidden[:, 2:]], 1)[None]
    target = (hidden[:, 1:2] + 0.5 * hidden[:, 2:3])[None]
    weights = torch.zeros(1, 4, 1).double()
    fit, held = (
        Moments.of(rows[:, part], target[:, part], target[:, part]) for part in (slice(1600), slice(1600, None))
    )
    exact = solve(fit, 1e-12, free_mean=True)
    assert held.error(exact) < 1e-6
    assert held.strain(exact.matrix) > 1e6
    chosen, error = choose(fit, held, RIDGES, weights, free_mean=True)
    assert chosen is not None
    assert held.strain(chosen.matrix) < 10
    assert error < held.error()


def test_means_of_lost_inputs_go_into_the_bias() -> None:
    model = fill(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5)))
    with torch.no_grad():
        model[0].weight[8:] = 0
        model[0].bias[8:] = 3
    slim, _ = repair(model, [random(64, 4)], np.arange(8))
    assert_restored(model, slim, random(32, 4, seed=9))


@pytest.mark.parametrize(
    ("settings", "bias"),
    [
        ({"stride": 2, "padding": 1}, True),
        ({"padding": "same", "dilation": 2}, False),
        ({"groups": 2, "stride": (2, 1)}, True),
    ],
)
def test_a_convolution_recovers_inputs_that_repeat(settings: dict[str, Any], bias: bool) -> None:
    model = fill(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=bias, **settings)))
    grouped = "groups" in settings
    for start in (0, 8) if grouped else (0,):
        half = 4 if grouped else 8
        repeat(model[0], slice(start, start + half), slice(start + half, start + 2 * half))
    kept = {"0": np.arange(8)}
    if grouped:
        nested = next(group for group in analyze(model, random(2, 3, 12, 12)).groups if group.outer is not None)
        kept = {nested.name: np.tile(np.arange(4), (2, 1))}
    slim, found = repair(model, [random(4, 3, 12, 12, seed=each) for each in range(6)], kept, ridge=1e-6)
    assert_restored(model, slim, random(2, 3, 12, 12, seed=9))
    assert [each.layer for each in found.changed] == ["2"]


def test_one_and_three_dimensional_convolutions() -> None:
    for made, shape in ((nn.Conv1d, (4, 2, 20)), (nn.Conv3d, (2, 2, 6, 6, 6))):
        model = fill(nn.Sequential(made(2, 8, 3), nn.ReLU(), made(8, 4, 3, padding=1, bias=False)))
        repeat(model[0], slice(0, 4), slice(4, 8))
        slim, _ = repair(model, [random(*shape, seed=each) for each in range(6)], np.arange(4), ridge=1e-6)
        assert_restored(model, slim, random(*shape, seed=9))


def test_a_running_mean_stands_in_for_a_bias() -> None:
    model = fill(nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)))
    with torch.no_grad():
        model[0].weight[4:] = 0
        model[0].bias[4:] = 2
    slim, _ = repair(model, [random(8, 2, 8, 8, seed=each) for each in range(5)], np.arange(4))
    assert_restored(model, slim, random(4, 2, 8, 8, seed=9))
    assert not torch.equal(slim.get_buffer("3.running_mean"), model[3].running_mean)


class Attention(nn.Module):
    """Four heads of four dimensions, of which the last two repeat the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 12))
        self.last = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (4, 4)).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = self.last(x + self.out(mixed))
        return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("places", [7, 16])
def test_a_batchnorm_over_places_takes_no_part_of_a_layer_before_it(places: int, bias: bool) -> None:
    """It has one statistic for each place and none for each feature, even where there are as many."""
    model = fill(Places(places, bias))
    repeat(model.up, slice(0, 24), slice(24, 48))
    data = [random(32, places, 16, seed=each) for each in range(5)]
    (inner,) = (group.name for group in analyze(model, data[0]).groups if group.size == 48)
    slim, found = repair(model, data, {inner: np.arange(24)})
    assert [each.layer for each in found.repairs] == ["down"]
    assert_restored(model, slim, random(64, places, 16, seed=9))
    torch.testing.assert_close(slim.get_buffer("norm.running_mean"), model.norm.running_mean, rtol=1e-3, atol=1e-3)


def test_the_output_projection_of_attention_recovers_heads_that_repeat() -> None:
    model = fill(Attention())
    with torch.no_grad():
        for layer in (model.q, model.k, model.v):
            layer.weight[8:] = layer.weight[:8]
            layer.bias[8:] = layer.bias[:8]
    data = [random(8, 10, 12, seed=each) for each in range(5)]
    heads = next(group.name for group in analyze(model, data[0]).groups if group.kind == "heads")
    slim, found = repair(model, data, {heads: np.arange(2)})
    assert_restored(model, slim, random(4, 10, 12, seed=9))
    assert [each.layer for each in found.changed] == ["out"]


def wide() -> Any:
    return fill(nn.Sequential(nn.Linear(8, 48), nn.GELU(), nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 4)))


def test_no_layer_is_worse_on_held_out_data_and_the_output_is_nearer() -> None:
    model, data = wide(), [random(64, 8, seed=each) for each in range(6)]
    kept = {"0": np.arange(20), "2": np.arange(12)}
    slim, found = repair(model, data, kept)
    assert [each.layer for each in found.repairs] == ["2", "4"]
    assert all(each.after <= each.before for each in found.repairs)
    x = random(256, 8, seed=9)
    as_cut = slim_of(analyze(model, data[0]), kept)
    with torch.no_grad():
        errors = [float((each(x) - model(x)).norm()) for each in (slim, as_cut)]
    assert errors[0] < 0.7 * errors[1]
    assert "2 of 2 layers repaired" in str(found)


def test_noise_is_not_fitted() -> None:
    model = fill(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4)))
    _, found = repair(model, [random(10, 64, seed=each) for each in range(5)], np.arange(60))
    assert all(each.after <= each.before for each in found.repairs)


def test_a_model_in_bfloat16() -> None:
    model = fill(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)))
    repeat(model[0], slice(0, 16), slice(16, 32))
    model = model.bfloat16()
    slim, _ = repair(model, [random(64, 8, seed=each).bfloat16() for each in range(5)], np.arange(16))
    assert slim.get_parameter("2.weight").dtype is torch.bfloat16
    assert_restored(model, slim, random(32, 8, seed=9).bfloat16(), 0.03)


def test_the_model_is_untouched_and_flags_stay() -> None:
    model, data = wide(), [random(32, 8, seed=each) for each in range(5)]
    model[4].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    slim, _ = repair(model.train(), data, {"0": np.arange(20)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not slim.get_parameter("4.weight").requires_grad
    assert slim.get_parameter("2.weight").requires_grad
    assert all(each.training for each in slim.modules())


class Tied(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.first(x)))))))
        return result


def test_a_layer_that_is_used_twice_keeps_its_weights() -> None:
    model, data = fill(Tied()), [random(64, 6, seed=each) for each in range(5)]
    slim, found = repair(model, data, np.arange(10))
    assert [each.layer for each in found.repairs] == ["last"]
    assert torch.equal(slim.get_parameter("twice.weight"), model.twice.weight[:10, :10])


def test_compile_repairs_where_there_is_data() -> None:
    model, data = wide(), [random(64, 8, seed=each) for each in range(6)]
    slim = fxprune.compile(model, "50%", example_inputs=data[0], data=data)
    plain = fxprune.compile(model, "50%", example_inputs=data[0], scores=slim.scores)
    assert slim.plan.scorer == "obs"
    assert any("layers repaired" in note for note in slim.report.notes)
    assert not any("layers repaired" in note for note in plain.report.notes)
    assert slim.plan.kept == plain.plan.kept
    x = random(256, 8, seed=9)
    with torch.no_grad():
        assert float((slim(x) - model(x)).norm()) < 0.7 * float((plain(x) - model(x)).norm())


def test_compile_says_what_is_missing() -> None:
    with pytest.raises(fxprune.InputError, match="needs data="):
        fxprune.compile(wide(), "50%", example_inputs=random(2, 8), reconstruct=True)
    with pytest.raises(fxprune.InputError, match=r"shape \[8\].*collect="):
        fxprune.compile(wide(), "50%", example_inputs=random(2, 8), scorer="magnitude", data=[random(8)])
    broken = [torch.full((8, 8), float("nan"))]
    with pytest.raises(fxprune.InputError, match="not finite"):
        fxprune.compile(wide(), "50%", example_inputs=random(2, 8), scorer="magnitude", data=broken)
