"""Models and data that are not what one expects: each works, or gets an error that says what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune import CaptureError, InputError

X = torch.linspace(-1, 1, 4 * 3 * 64).reshape(4, 3, 8, 8)
DATA = [X, 2 * X, X.flip(0)]
SCORERS = ["fastnas", "gradnas", "magnitude", "obs", "taylor"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)).eval()


def loss(output: Tensor, _: object) -> Tensor:
    return output.float().square().mean()


def options(scorer: str) -> dict[str, Any]:
    given: dict[str, Any] = {"scorer": scorer, "example_inputs": X, "data": DATA, "progress": False}
    if scorer in ("gradnas", "taylor"):
        given["loss"] = loss
    if scorer == "fastnas":
        given["score"] = lambda model: -float(model(X).abs().sum())
    return given


class Mixed(nn.Module):
    """A layer in another type than the rest."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        layers = net()
        self.dtype = dtype
        self.first, self.second, self.rest = layers[:3], layers[3].to(dtype), layers[4:]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rest(self.second(self.first(x).to(self.dtype)).float())
        return out


def changed(change: Callable[[nn.Sequential], object]) -> nn.Module:
    model = net()
    change(model)
    return model.eval()


def frozen_in_part(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)


def hooked(model: nn.Sequential) -> None:
    model[3].register_forward_hook(lambda _module, _inputs, output: output * 2)
    model[0].register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))


def old_weight_norm(model: nn.Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(model[3])


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "float64 in part": lambda: Mixed(torch.float64).eval(),
    "bfloat16 in part": lambda: Mixed(torch.bfloat16).eval(),
    "frozen": lambda: net().requires_grad_(False),
    "frozen in part": lambda: changed(frozen_in_part),
    "weight norm": lambda: changed(lambda model: parametrizations.weight_norm(model[3])),
    "spectral norm": lambda: changed(lambda model: parametrizations.spectral_norm(model[3])),
    "orthogonal": lambda: changed(lambda model: parametrizations.orthogonal(model[7])),
    "weight norm by a hook": lambda: changed(old_weight_norm),
    "masked by torch.nn.utils.prune": lambda: changed(lambda m: prune.l1_unstructured(m[3], "weight", 0.5)),
    "hooks": lambda: changed(hooked),
    "compiled": lambda: torch.compile(net()),  # type: ignore[dict-item, return-value, unused-ignore]
    "compiled in place": lambda: changed(lambda model: model.compile()),
    "compiled in part": lambda: changed(lambda m: m.__setitem__(3, torch.compile(m[3]))),  # type: ignore[assignment]
    "DataParallel": lambda: nn.DataParallel(net()).eval(),
    "traced by torch.fx": lambda: torch.fx.symbolic_trace(net()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(net()).eval(),
}


def cases() -> list[Any]:
    """Every model with every scorer, of which some are enough for every day."""
    return [
        pytest.param(model, scorer, marks=() if (at + number) % len(SCORERS) == 0 else pytest.mark.slow)
        for at, model in enumerate(TAKEN)
        for number, scorer in enumerate(SCORERS)
    ]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("name", "scorer"), cases())
def test_what_is_taken(name: str, scorer: str) -> None:
    model = TAKEN[name]()
    needs = [each.requires_grad for each in model.parameters()]
    slim = fxprune.compile(model, "60%", **options(scorer))
    assert slim.report.metrics[0].after <= 0.6 * slim.report.metrics[0].before
    assert [each.requires_grad for each in slim.parameters()] == needs == [e.requires_grad for e in model.parameters()]
    if any(needs):
        slim.train()(X).sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ["hooks", "weight norm by a hook", "masked by torch.nn.utils.prune", "weight norm"])
def test_hooks_and_parametrisations_are_in_the_graph(name: str) -> None:
    """What they compute is, so that the whole model is the same; and where they are modules' own, `apply` keeps them."""
    model = TAKEN[name]()
    whole = fxprune.compile(model, "100%", example_inputs=X, progress=False)
    assert torch.equal(whole(X), model(X))
    slim = fxprune.compile(model, "60%", example_inputs=X, progress=False)
    torch.testing.assert_close(fxprune.apply(slim, model)(X), slim(X))


def refused(model: nn.Module, **given: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        fxprune.compile(model, "60%", **{"example_inputs": X, **given})
    return str(caught.value)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_model_wrapped_for_several_processes_is_told_what_is_inside() -> None:
    wrapped = nn.parallel.DistributedDataParallel(net())
    assert "wrapped in DistributedDataParallel; pass what is inside (model.module)" in refused(wrapped)
    assert "(model.0.module)" in refused(nn.Sequential(wrapped))
    slim = fxprune.compile(wrapped.module, "60%", **options("gradnas"))
    assert nn.parallel.DistributedDataParallel(slim)(X).shape == (4, 4)


@pytest.mark.usefixtures("group")
def test_a_sharded_model_is_told_to_be_pruned_before() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, model, slim = init_device_mesh("cpu", (1,)), net(), fxprune.compile(net(), "60%", example_inputs=X)
    fully_shard(model, mesh=mesh)
    assert "0.weight is a DTensor (fully_shard, for example); prune the model before it is sharded" in refused(model)
    fully_shard(slim, mesh=mesh)
    assert type(slim.get_parameter("0.weight")).__name__ == "DTensor"


@pytest.mark.filterwarnings("ignore")  # torch.ao and torch.jit are deprecated
def test_scripted_and_quantised_models_are_told_what_to_pass() -> None:
    assert "pass the nn.Module that was scripted or traced" in refused(torch.jit.trace(net(), X))
    assert "pass the nn.Module that was scripted or traced" in refused(torch.jit.script(net()))
    layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    quantised = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})
    assert "0 is quantised" in refused(quantised, example_inputs=torch.ones(2, 8))


@pytest.mark.parametrize("scorer", ["gradnas", "magnitude", "obs"])
@pytest.mark.parametrize("data", [list, lambda: iter([]), lambda: DataLoader(TensorDataset(X[:0]), batch_size=2)])
def test_data_without_a_batch(data: Callable[[], Any], scorer: str) -> None:
    with pytest.raises(InputError, match="data holds no batch"):
        fxprune.compile(net(), "60%", **{**options(scorer), "data": data()})


@pytest.mark.parametrize("scorer", ["fastnas", "gradnas", "magnitude", "obs"])
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (X[:0], r"batch 2 of data is empty: it holds a tensor of shape \[0, 3, 8, 8\]"),
        (X.to("meta"), "batch 2 of data is on the meta device"),
        (
            X.double(),
            r"batch 2 of data cannot be run .*: its input 'input_1' is float64 \[4, 3, 8, 8\], that of the example",
        ),
        (X.int(), r"batch 2 of data cannot be run .*: its input 'input_1' is int32"),
    ],
    ids=["empty", "meta", "float64", "int32"],
)
def test_a_batch_that_is_unlike_the_others(batch: Tensor, said: str, scorer: str) -> None:
    with pytest.raises(InputError, match=said):
        fxprune.compile(net(), "60%", **{**options(scorer), "data": [X, batch, X]})


class Unrolled(nn.Module):
    """One step after the other, as many as the example has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out: Tensor = self.last(torch.stack([hidden[:, at].relu() for at in range(x.shape[1])]).sum(0))
        return out


@pytest.mark.parametrize("scorer", ["magnitude", "obs"])
def test_batches_of_a_size_that_the_graph_does_not_take(scorer: str) -> None:
    data = [torch.ones(4, 6, 8), torch.ones(4, 5, 8)]
    said = r"batch 2 of data cannot be run .* 'x' is float32 \[4, 5, 8\], .* \[1, 6, 8\], .* in dimension 1\. Convert"
    with pytest.raises(InputError, match=said):
        fxprune.compile(Unrolled(), "60%", data=data, scorer=scorer, progress=False)


def test_inputs_and_models_on_different_devices() -> None:
    assert "The example inputs are on meta, the model is on cpu: move one of them" in refused(
        net(), example_inputs=X.to("meta")
    )
    assert "The example inputs are on cpu, the model is on meta" in refused(net().to("meta"))


def test_a_model_without_weights() -> None:
    with pytest.raises(InputError, match=r"the model is on the meta device.*fxprune\.plan"):
        fxprune.compile(net().to("meta"), "60%", example_inputs=X.to("meta"))
