"""`apply` on small classes: what it patches, what it leaves alone, and what it says where it cannot."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune import CannotApply, CheckpointError
from fxprune.apply import apply, rewritten
from tests.apply import toys
from tests.apply.helpers import check, same

TOKENS = torch.randn(2, 5, 24)


def test_sizes_of_heads_and_layers_follow_and_the_scale_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Attention(24, 6), nn.Linear(24, 3))
    made: Any
    made, slim = check(model, TOKENS, "40%", align=1)
    attention = made[1]
    assert isinstance(attention, toys.Attention)
    assert attention.factor == 4**-0.5
    assert attention.qkv.out_features == attention.qkv.weight.shape[0] == 3 * attention.amount * attention.each
    assert made[0].out_features == slim.state_dict()["0.weight"].shape[0]


def test_a_head_cut_is_found_by_attribute_without_knowing_its_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Attention(24, 6), nn.Linear(24, 3))
    heads = [group for group in fxprune.analyze(model, TOKENS).groups if group.size == 6]
    made: Any = apply(_equal_plan(model, {group.name: 4 for group in heads}), model, example_inputs=TOKENS)
    assert (made[1].amount, made[1].each) == (4, 4)
    assert made[1].qkv.out_features == 48


def test_what_an_earlier_pass_left_in_a_cache_is_made_anew() -> None:
    """With more positions than a table of sizes would ever have."""
    torch.manual_seed(0)
    tokens = torch.randn(2, 17, 24)
    biased = toys.Biased(24, 6, 17)
    model = nn.Sequential(nn.Linear(24, 24), biased, nn.Linear(24, 3)).eval()
    with torch.no_grad():
        model(tokens)
    kept = biased.cache["biases"]
    made: Any
    made, slim = check(model, tokens, "40%", align=1)
    assert biased.cache["biases"] is kept
    assert len(made[1].table) == len(slim.state_dict()["1.table"]) == made[1].heads < 6
    assert made[1].indices == biased.indices
    loss = made.train()(tokens).square().mean()
    loss.backward()
    assert made[1].table.grad.abs().sum() > 0


def test_a_hard_coded_size_is_rewritten() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Hardcoded(24, 6), nn.Linear(24, 3))
    made, _ = check(model, TOKENS, align=1)
    assert "t.view(-1, 5, self.slim_view_" in rewritten(made)["1"]


def test_comparisons_show_which_attribute_has_to_follow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Checked(24, 6), nn.Linear(24, 3))
    width = {group.name: 16 for group in fxprune.analyze(model, TOKENS).groups}
    slim = fxprune.compile(model, {"params": "80%"}, example_inputs=TOKENS, align=1, floor=width)
    try:
        made: Any = apply(slim, model)
    except CannotApply as error:
        assert "Checked" in str(error)  # noqa: PT017 - the cut may part what the class takes for one number
    else:
        same(made, slim, TOKENS)


def test_a_flag_that_avoids_the_kernels_own_scale_is_cleared() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Rescaled(24, 3, flag=True), nn.Linear(24, 3))
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4.0 if "weight" in name else 1.0)
    dims = [group for group in fxprune.analyze(model, TOKENS).groups if "dimensions" in group.kind]
    plan = _equal_plan(model, {group.name: 4 for group in dims})
    made: Any = apply(plan, model.eval(), example_inputs=TOKENS)
    assert made[1].quick is False
    assert made[1].unrelated is True
    assert made[1].each == 4


def test_a_kernel_that_takes_its_own_scale_is_given_the_originals() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Rescaled(24, 3, flag=False), nn.Linear(24, 3)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4.0 if "weight" in name else 1.0)
    dims = [group for group in fxprune.analyze(model, TOKENS).groups if "dimensions" in group.kind]
    made: Any = apply(_equal_plan(model, {group.name: 4 for group in dims}), model, example_inputs=TOKENS)
    assert "F.scaled_dot_product_attention(q, k, v, scale=self.slim_scale_" in rewritten(made)["1"]


def test_a_scale_computed_from_the_patched_attribute_stays_what_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.RecomputedScale(24, 3), nn.Linear(24, 3)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4.0 if "weight" in name else 1.0)
    dims = [group for group in fxprune.analyze(model, TOKENS).groups if group.size == 8]
    made: Any = apply(_equal_plan(model, {group.name: 4 for group in dims}), model, example_inputs=TOKENS)
    assert "q @ k.transpose(-2, -1) / self.slim_scale_" in rewritten(made)["1"]
    assert made[1].each == 4


def test_tuples_dictionaries_and_a_number_that_means_two_things() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, 16, 8)
    made: Any
    made, slim = check(toys.Parts(), inputs, "60%", align=1)
    small, large = slim.state_dict()["third.weight"].shape[1], slim.state_dict()["second.weight"].shape[1]
    assert made.sizes == (small, large)
    assert made.more == {"left": small, "steps": [16, 3]}
    assert made.length == 16
    assert small < 16


def test_layers_get_their_own_configuration_only_where_they_differ() -> None:
    model = toys.Shared()
    inputs = torch.randn(3, 8)
    groups = fxprune.analyze(model, inputs).groups
    uneven: Any = apply(
        _equal_plan(model, {groups[0].name: 10, groups[1].name: 20}, inputs), model, example_inputs=inputs
    )
    widths = [block.settings.width for block in uneven.blocks]
    assert sorted(widths) == [10, 20]
    assert uneven.settings.width == 24
    even: Any = apply(_equal_plan(model, {group.name: 12 for group in groups}, inputs), model, example_inputs=inputs)
    assert even.settings.width == 12
    assert all(block.settings is even.settings for block in even.blocks)
    assert model.settings.width == 24


def test_ties_flags_hooks_and_memory() -> None:
    torch.manual_seed(0)
    model = toys.Tied()
    model.inner.bias.requires_grad_(False)
    calls: list[str] = []
    model.outer.register_forward_hook(lambda *_: calls.append("called"))
    model.inner.eval()
    ids = torch.randint(0, 50, (2, 7))
    slim = fxprune.compile(model, "60%", example_inputs=ids)
    made: Any = apply(slim, model)
    assert made.head.weight is made.embed.weight
    assert not made.inner.bias.requires_grad
    assert made.embed.weight.requires_grad
    assert made.training
    assert not made.inner.training
    assert "step" not in made.state_dict()
    calls.clear()
    made(ids)
    assert calls == ["called"]
    with torch.no_grad():
        made.outer.bias.add_(1.0)
    assert not torch.equal(made.outer.bias, slim.state_dict()["outer.bias"])


def test_weights_come_from_the_slim_module_or_for_a_plan_from_the_model() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    inputs = torch.randn(2, 8)
    slim = fxprune.compile(model, "50%", example_inputs=inputs)
    plan = fxprune.Plan.from_json(slim.plan.to_json())
    with torch.no_grad():
        slim.get_parameter("0.weight").mul_(2.0)
    trained: Any = apply(slim, model)
    cut: Any = apply(plan, model, example_inputs=inputs)
    assert torch.equal(trained[0].weight, 2.0 * cut[0].weight)
    assert torch.equal(cut[0].weight, model[0].weight[plan.slices["0.weight"][0]])


def test_a_slim_module_that_was_moved_gives_its_dtype() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8)).double()
    assert apply(slim, model).get_parameter("0.weight").dtype == torch.float64


def test_another_model_is_refused() -> None:
    def build(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    slim = fxprune.compile(build(64), "50%", example_inputs=torch.randn(2, 8))
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(64, 8\) there, Sequential has \(48, 8\)"):
        apply(slim, build(48))
    with pytest.raises(CheckpointError, match=r"3\.weight"):
        apply(slim, nn.Sequential(*build(64), nn.Linear(4, 4)))
    with pytest.raises(fxprune.InputError, match="SlimModule or a Plan"):
        apply(build(64), build(64))  # type: ignore[arg-type]


def test_a_buffer_that_the_model_made_anew_does_not_make_it_another_model() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2, 8)
    model.register_buffer("positions", torch.zeros(1), persistent=False)
    slim = fxprune.compile(model, "50%", example_inputs=inputs)
    model.positions = torch.zeros(7)
    same(apply(slim, model), slim, inputs)
    model.register_buffer("more", torch.zeros(7), persistent=False)
    with pytest.raises(CheckpointError, match="more"):
        apply(slim, model)


def test_grouped_and_transposed_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=32, padding=1),
        nn.Conv2d(32, 48, 3, groups=4),
        nn.GroupNorm(6, 48),
        nn.PReLU(48),
        nn.ConvTranspose2d(48, 24, 2, stride=2),
        nn.InstanceNorm2d(24, affine=True),
        nn.Conv2d(24, 4, 1),
    )
    made: Any
    made, _ = check(model, torch.randn(2, 3, 8, 8), "50%", align=1)
    depthwise, transposed = made[3], made[7]
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == made[0].out_channels < 32
    assert transposed.in_channels == transposed.weight.shape[0] == made[6].num_parameters == made[5].num_channels
    assert made[8].num_features == transposed.out_channels
    assert made[1].num_features == made[0].out_channels


def _equal_plan(model: nn.Module, widths: dict[str, int], inputs: torch.Tensor = TOKENS) -> fxprune.Plan:
    """A plan that keeps the first indices of some groups."""
    groups = {group.name: group for group in fxprune.analyze(model, inputs).groups}
    kept = {}
    for name, width in widths.items():
        outer = groups[name].outer
        first = np.arange(width)
        kept[name] = (first if outer is None else np.tile(first, (outer.size, 1))).tolist()
    return fxprune.Plan(kept=copy.deepcopy(kept), slices={}, widths={})
