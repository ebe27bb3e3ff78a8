"""GradNAS, Taylor and the importances of Torch-Pruning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.errors import InputError
from fxprune.scorer import Context, find_scorer
from fxprune.scoring import run_scorer


class Branches(nn.Module):
    """A residual network of convolutions with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(images)))
        x = x + self.outer(functional.relu(self.inner(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Two heads over tokens, then neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 48)
        self.down = nn.Linear(48, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(mixed))
        logits: Tensor = self.down(functional.gelu(self.up(x)))
        return logits.mean(1)


def image_batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator))
        for _ in range(count)
    ]


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def context_of(model: nn.Module, example: Any, **given: Any) -> Context:
    return Context(model, fxprune.analyze(model, example), **given)


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def test_gradnas_is_the_squared_derivative_of_scaling_an_index_wherever_it_is_consumed() -> None:
    model = seeded(Branches)
    batches = image_batches()
    context = context_of(model, batches[0][0], data=batches, loss=cross_entropy)
    scores = run_scorer(find_scorer("gradnas"), context)
    expected = np.zeros(24)
    for images, labels in batches:
        for index in range(24):
            losses = []
            for step in (1e-2, -1e-2):
                changed = copy.deepcopy(model)
                with torch.no_grad():
                    changed.get_parameter("outer.weight")[:, index] *= 1 + step
                    losses.append(functional.cross_entropy(changed.double()(images.double()), labels).item())
            expected[index] += ((losses[0] - losses[1]) / 2e-2) ** 2 / len(batches)
    np.testing.assert_allclose(scores.importance["inner"], expected, rtol=1e-3)


def test_gradnas_sees_heads_and_says_what_each_width_loses() -> None:
    model = seeded(Attention)
    tokens = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(2))
    data = [{"tokens": tokens, "labels": torch.tensor([0, 1, 2, 0])}]
    loss = lambda output, batch: functional.cross_entropy(output, batch["labels"])  # noqa: E731
    context = context_of(model, {"tokens": tokens}, data=data, loss=loss)
    scores = run_scorer(find_scorer("gradnas"), context)
    heads = next(group for group in context.groups if group.kind == "heads")
    neurons = context.analysis.group("up")
    for group in (heads, neurons):
        values, curve = scores.importance[group.name], scores.sensitivity[group.name]
        assert (values > 0).all()
        assert curve.widths == tuple(range(1, group.size + 1))
        assert curve.loss[-1] == 0
        assert curve.loss[-2] == pytest.approx(values.min())
        assert curve.loss[0] == pytest.approx(values.sum() - values.max())


@pytest.mark.parametrize("name", ["gradnas", "taylor"])
def test_a_model_is_pruned_by_gradients_and_left_as_it_was(name: str) -> None:
    model = seeded(Branches)
    before = copy.deepcopy(model.state_dict())
    slim = fxprune.compile(
        model, "50%", example_inputs=image_batches()[0][0], scorer=name, data=image_batches(), loss=cross_entropy
    )
    assert slim.plan.scorer == name
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_data_and_loss_are_enough_for_auto_to_take_gradients() -> None:
    slim = fxprune.compile(
        seeded(Branches), "60%", example_inputs=image_batches()[0][0], data=image_batches(), loss=cross_entropy
    )
    assert slim.plan.scorer == "gradnas"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda *_: torch.tensor(float("nan"), requires_grad=True), r"is not finite \(nan\) for batch 1"),
        (lambda output, _: output, r"tensor of shape \(8, 5\)"),
        (lambda *_: 1.0, "a float, no tensor"),
        (lambda *_: torch.tensor(1.0), "has no gradient"),
    ],
)
def test_a_loss_that_cannot_be_used_is_explained(loss: Any, message: str) -> None:
    context = context_of(seeded(Branches), image_batches()[0][0], data=image_batches(), loss=loss)
    with pytest.raises(InputError, match=message):
        find_scorer("gradnas").score(context)


def test_an_error_of_the_users_loss_names_it() -> None:
    def loss(*_: Any) -> Tensor:
        raise KeyError("labels")

    context = context_of(seeded(Branches), image_batches()[0][0], data=image_batches(), loss=loss)
    with pytest.raises(KeyError) as caught:
        find_scorer("gradnas").score(context)
    assert "passed as loss=" in caught.value.__notes__[0]


def torch_pruning_scores(model: nn.Module, importance: Any, layer: nn.Module) -> np.ndarray[Any, Any]:
    """Torch-Pruning's own call for the group of a layer's outputs."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image_batches()[0][0])
    function = torch_pruning.prune_conv_out_channels
    count = layer.get_parameter("weight").shape[0]
    group = graph.get_pruning_group(layer, function, idxs=list(range(count)))
    return np.asarray(importance(group).double().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GroupMagnitudeImportance", "GroupTaylorImportance", "GroupHessianImportance"])
def test_the_adapter_ranks_as_torch_pruning_does(kind: str) -> None:
    model = seeded(Branches)
    context = context_of(model, image_batches()[0][0], data=image_batches(), loss=cross_entropy)
    own = getattr(torch_pruning.importance, kind)
    found = run_scorer(find_scorer(own()), context)
    reference = copy.deepcopy(model)
    importance = own()
    for batch in image_batches():
        if hasattr(importance, "accumulate_grad"):
            reference.zero_grad()
        cross_entropy(reference(batch[0]), batch).backward()
        if hasattr(importance, "accumulate_grad"):
            importance.accumulate_grad(reference)
    for name in ("inner", "stem"):
        expected = torch_pruning_scores(reference, importance, reference.get_submodule(name))
        ours = found.importance[name]
        np.testing.assert_allclose(ours / ours.mean(), expected / expected.mean(), rtol=1e-4)
        assert np.argsort(ours).tolist() == np.argsort(expected).tolist()


def test_gradients_of_the_users_own_backward_pass_are_taken() -> None:
    model = seeded(Branches)
    importance = torch_pruning.importance.GroupTaylorImportance()
    with pytest.raises(InputError, match="needs gradients"):
        fxprune.compile(model, "60%", example_inputs=image_batches()[0][0], scorer=importance)
    cross_entropy(model(image_batches()[0][0]), image_batches()[0]).backward()
    slim = fxprune.compile(model, "60%", example_inputs=image_batches()[0][0], scorer=importance)
    assert slim.plan.scorer == "torch-pruning GroupTaylorImportance"


def test_heads_are_ranked_by_the_sum_over_their_channels() -> None:
    model = seeded(Attention)
    context = context_of(model, torch.randn(2, 7, 6))
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    scores = run_scorer(find_scorer(importance), context)
    heads = next(group for group in context.groups if group.kind == "heads")
    qkv, out = model.get_parameter("qkv.weight").detach(), model.get_parameter("out.weight").detach()
    expected = qkv.unflatten(0, (3, 4, 8)).square().sum((0, 2, 3)) + out.unflatten(1, (4, 8)).square().sum((0, 2))
    np.testing.assert_allclose(scores.importance[heads.name], expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("argument", ["loss", "score", "collect"])
def test_compile_passes_on_what_the_users_functions_raise(argument: str) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("labels")

    given: dict[str, Any] = {"data": image_batches(), "loss": cross_entropy, argument: fails}
    with pytest.raises(KeyError) as caught:
        fxprune.compile(seeded(Branches), "60%", example_inputs=image_batches()[0][0], **given)
    assert caught.value.__notes__ == [f"raised by the function that was passed as {argument}="]


def test_nothing_to_cut_is_no_fault_of_the_loss() -> None:
    data = [(torch.randn(4, 8), torch.randint(0, 4, (4,)))]
    with pytest.raises(fxprune.InfeasibleBudget):
        fxprune.compile(nn.Linear(8, 4), "50%", data=data, loss=cross_entropy)


def test_scoring_works_inside_no_grad() -> None:
    with torch.no_grad():
        slim = fxprune.compile(
            seeded(Branches), "60%", example_inputs=image_batches()[0][0], data=image_batches(), loss=cross_entropy
        )
    assert slim.plan.scorer == "gradnas"
