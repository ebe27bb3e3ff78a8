"""Whole experts of mixtures: cut exactly, scored by what they put out, said by the configuration; held where unseen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import BudgetError, CheckpointError
from fxprune.analysis import analyze_program
from fxprune.capture import capture
from fxprune.passes.experts import expert_groups
from fxprune.passes.silence import silenced_model
from fxprune.widths import width_ranges
from tests.apply.pretrained import load_all, pretrained, save

pytest.importorskip("transformers.integrations.moe")  # registers the product in groups
MODELS = ("mixtral", "qwen3_moe")


class ChoosingAmong(nn.Module):
    """A router in its own words: experts that are gone have a logit of minus infinity."""

    def __init__(self, router: nn.Module, gone: Sequence[int], *, normalise: bool) -> None:
        super().__init__()
        self.router, self.gone, self.normalise = router, list(gone), normalise

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight: Any = self.router.weight
        logits = hidden.reshape(-1, hidden.shape[-1]) @ weight.T
        logits[:, self.gone] = -torch.inf
        values, chosen = logits.float().softmax(-1).topk(2)
        values = values / values.sum(-1, keepdim=True) if self.normalise else values
        return logits, values.to(logits.dtype), chosen


def router_of(model: Any, layer: int) -> nn.Module:
    router: nn.Module = model.model.layers[layer].mlp.gate
    return router


def plan_without(model: nn.Module, inputs: Any, gone: Sequence[Sequence[int]]) -> fxprune.Plan:
    """A plan that cuts these experts of each layer."""
    groups = fxprune.analyze(model, inputs).groups
    experts = [group for group in groups if group.kind == "experts"]
    assert [group.size for group in experts] == [4] * len(gone)
    kept = {
        group.name: [each for each in range(4) if each not in own] for group, own in zip(experts, gone, strict=True)
    }
    return fxprune.Plan(kept={name: own for name, own in kept.items() if len(own) < 4}, slices={}, widths={})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_slim_model_computes_what_the_original_does_without_those_experts(name: str, dtype: torch.dtype) -> None:
    """`compile` has compared the slim module with its own idea of that; this one shares nothing with it."""
    model, inputs = pretrained(name)
    model = model.to(dtype)
    gone: tuple[list[int], ...] = ([1], [0, 3], [])
    small: Any = fxprune.apply(plan_without(model, inputs, gone), model, example_inputs=inputs, config=False)
    assert small.model.layers[1].mlp.experts.down_proj.shape[0] == 2
    assert small.model.layers[0].mlp.gate.weight.shape[0] == 3
    normalise = name == "mixtral" or model.config.norm_topk_prob
    for layer, own in enumerate(gone):
        model.model.layers[layer].mlp.gate = ChoosingAmong(router_of(model, layer), own, normalise=normalise)
    with torch.no_grad():
        expected, found = model(**inputs)[0], small(**inputs)[0]
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()) if dtype.itemsize == 4 else 0.1
    )


@pytest.mark.parametrize("name", MODELS)
def test_other_implementations_of_experts_are_held(name: str) -> None:
    """There the numbers of experts index weights, which fxprune does not renumber."""
    model, inputs = pretrained(name)
    model.set_experts_implementation("batched_mm")
    analysis = fxprune.analyze(model, inputs)
    assert not expert_groups(analysis)
    assert "softmax over it" in str(analysis)
    slim = fxprune.compile(model, {"params": "80%"}, example_inputs=inputs, progress=False)
    assert all(parameter.shape[0] == 4 for name, parameter in slim.named_parameters() if "gate.weight" in name)


class LooksAtNumbers(nn.Module):
    """A layer of experts that also makes something else of the numbers of those it has chosen."""

    ends: Tensor

    def __init__(self, use: str) -> None:
        super().__init__()
        self.router, self.use = nn.Linear(8, 4, bias=False), use
        self.weight = nn.Parameter(torch.randn(4, 8, 8))
        self.names = nn.Embedding(4, 8)
        self.register_buffer("ends", torch.tensor([3, 6, 9, 12], dtype=torch.int32))

    def forward(self, x: Tensor) -> Any:
        scores, chosen = self.router(x).softmax(-1).topk(2)
        numbers, order = chosen.reshape(-1).sort()
        counts = torch.histc(numbers.float(), bins=5 if self.use == "another bin" else 4, min=0, max=3)
        offsets = (
            counts[:4].cumsum(0, dtype=torch.int32)
            if self.use == "another bin"
            else counts.cumsum(0, dtype=torch.int32)
        )
        if self.use == "fixed rows":
            offsets = self.ends + 0
        rows = torch.ops.transformers.grouped_mm_fallback(x[order // 2], self.weight, offsets)
        rows = rows * scores.reshape(-1)[order][:, None]
        rows = rows[order.argsort()].reshape(-1, 2, 8).sum(1)
        if self.use in ("weights", "weights in as many bins"):
            bins = 10 if self.use == "weights" else 4
            return rows, torch.histc(scores, bins=bins, min=0, max=bins - 1).sqrt().sum()
        if self.use == "positions":
            return rows, torch.histc(order.float(), bins=4, min=0, max=3).sum()
        found: Tensor = rows * counts.mean() if self.use == "counts" else rows
        return found + self.names(chosen).sum(1) if self.use == "names" else found


@pytest.mark.parametrize(
    ("use", "cut"),
    [("nothing", True), ("names", False), ("counts", False), ("another bin", False), ("fixed rows", False)],
)
def test_numbers_that_are_looked_at_hold_the_experts(use: str, cut: bool) -> None:
    torch.manual_seed(0)
    analysis = analyze_program(capture(LooksAtNumbers(use).eval(), torch.randn(6, 8)))
    assert bool(expert_groups(analysis)) is cut
    assert cut or not any(group.size == 4 for group in analysis.groups)


@pytest.mark.parametrize("use", ["weights", "weights in as many bins", "positions"])
def test_histograms_of_anything_else_stay_as_they_are(use: str) -> None:
    """Of the router's weights, or of the rows' positions: their bins are no experts."""
    torch.manual_seed(0)
    model, x = LooksAtNumbers(use).eval(), torch.randn(6, 8)
    plan = plan_without(model, (x,), [[0, 2]])
    small = fxprune.apply(plan, model, example_inputs=(x,))
    with torch.no_grad():
        found = small(x)
        assert isinstance(model.router, nn.Linear)
        model.router.bias = nn.Parameter(torch.tensor([-torch.inf, 0, -torch.inf, 0]))
        torch.testing.assert_close(found, model(x))


class ListOfExperts(nn.Module):
    """Experts that are modules: all of them for every row, or each for the rows that chose it."""

    def __init__(self, *, loop: bool) -> None:
        super().__init__()
        self.router, self.loop = nn.Linear(8, 4, bias=False), loop
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        values, chosen = self.router(x).softmax(-1).topk(2)
        weights = x.new_zeros(len(x), 4).scatter(1, chosen, values)
        found = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if self.loop:
                rows = torch.where((chosen == number).any(-1))[0]
                found = found.index_add(0, rows, expert(x[rows]) * weights[rows, number, None])
            else:
                found = found + weights[:, number, None] * expert(x)
        return found


@pytest.mark.parametrize("loop", [False, True])
def test_experts_in_a_list_are_held(loop: bool) -> None:
    torch.manual_seed(0)
    analysis = analyze_program(capture(ListOfExperts(loop=loop).eval(), torch.randn(6, 8)))
    assert not expert_groups(analysis)
    assert loop or "softmax over it" in str(analysis)  # what a loop's rows are chosen by may be what holds them
    hidden = [group.name for group in analysis.groups if group.size == 16]
    assert len(hidden) == (0 if loop else 4)


def test_a_router_keeps_as_many_as_it_chooses() -> None:
    model, inputs = pretrained("mixtral")
    analysis = fxprune.analyze(model, inputs)
    assert {width_ranges(analysis, 1, 1)[name].floor for name in expert_groups(analysis)} == {2}
    with pytest.raises(BudgetError, match=r"leaves model\.layers\.0\.mlp\.gate 1 experts, and the router chooses 2"):
        fxprune.compile(model, {"config": {"num_local_experts": 1}}, example_inputs=inputs, progress=False)
    config = {"num_local_experts": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.raises(BudgetError, match="1 experts, and the router chooses 2"):
        fxprune.compile(model, {"config": config}, example_inputs=inputs, progress=False)
    plan = plan_without(model, inputs, ([0, 1, 3], [], []))
    with pytest.raises(
        CheckpointError, match=r"keeps 1 of the experts 'model\.layers\.0\.mlp\.gate', and the router chooses 2"
    ):
        fxprune.apply(plan, model, example_inputs=inputs)


def test_how_many_a_router_chooses_is_no_width() -> None:
    """Cutting does not change it, and it is not passed over."""
    model, inputs = pretrained("mixtral")
    config = {"num_local_experts": 3, "num_experts_per_tok": 1}
    with pytest.raises(
        BudgetError, match="num_experts_per_tok=1, which is no width, and changes what the model computes"
    ):
        fxprune.compile(model, {"config": config}, example_inputs=inputs, progress=False)


@pytest.mark.parametrize(("name", "field"), [("mixtral", "num_local_experts"), ("qwen3_moe", "num_experts")])
def test_the_configuration_says_how_many(name: str, field: str, tmp_path: Path) -> None:
    model, inputs = pretrained(name)
    options: dict[str, Any] = {"data": [inputs], "scorer": "minitron", "reconstruct": False, "progress": False}
    slim = fxprune.compile(model, {"config": {field: 3}}, **options)
    cut = {name: kept for name, (kept, size) in slim.plan.widths.items() if kept < size}
    assert list(cut.values()) == [3, 3, 3]
    made = fxprune.apply(slim, model, config=True)
    assert getattr(made.config, field) == 3
    save(name, made, inputs, tmp_path)
    assert load_all(tmp_path).split() == [name, "loads"]
    balanced = made(input_ids=inputs["input_ids"], labels=inputs["input_ids"], output_router_logits=True)
    loaded = type(made).from_pretrained(tmp_path / name)
    expected = loaded(input_ids=inputs["input_ids"], labels=inputs["input_ids"], output_router_logits=True)
    torch.testing.assert_close(balanced.aux_loss, expected.aux_loss)


@pytest.mark.parametrize("padded", [False, True])
def test_minitron_weighs_what_experts_put_out(padded: bool) -> None:
    """Mean over the tokens that chose an expert of the router's weight times the norm of its output; padding left out."""
    model, inputs = pretrained("mixtral")
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, :5] = 0 if padded else 1
    batch = {**inputs, "attention_mask": mask}
    scores = fxprune.score(model, "minitron", data=[batch], progress=False)
    for layer, expected in enumerate(_by_hand(model, batch, mask.flatten().bool())):
        found = scores.importance[f"model.layers.{layer}.mlp.gate"]
        np.testing.assert_allclose(found, expected.square().numpy(), rtol=1e-4)


def _by_hand(model: Any, batch: Any, counts: Tensor) -> list[Tensor]:
    entering: dict[int, Tensor] = {}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, args, number=number: entering.update({number: args[0]}))
    with torch.no_grad():
        model(**batch)
        return [
            _layer_by_hand(layer.mlp, entering[number].flatten(0, 1), counts)
            for number, layer in enumerate(model.model.layers)
        ]


def _layer_by_hand(mlp: Any, tokens: Tensor, counts: Tensor) -> Tensor:
    values, chosen = (tokens @ mlp.gate.weight.T).softmax(-1).topk(2)
    values = values / values.sum(-1, keepdim=True)
    found = []
    for expert in range(4):
        gate, up = (tokens @ mlp.experts.gate_up_proj[expert].T).chunk(2, -1)
        norms = ((nn.functional.silu(gate) * up) @ mlp.experts.down_proj[expert].T).norm(dim=-1)
        weights = torch.where(chosen == expert, values, 0).sum(-1)
        own = (chosen == expert).any(-1) & counts
        found.append((weights * norms)[own].mean() if own.any() else torch.tensor(0.0))
    return torch.stack(found)


def test_switches_choose_among_what_is_kept() -> None:
    """Candidates of a grid, and of scorers that try widths out, are the original with switches."""
    model, inputs = pretrained("mixtral")
    plan = plan_without(model, inputs, ([1], [0, 3], []))
    analysis = fxprune.analyze(model, inputs)
    kept = {name: np.array(own) for name, own in plan.kept.items()}
    small: Any = fxprune.apply(plan, model, example_inputs=inputs, config=False)
    with silenced_model(analysis).silenced(kept) as silenced, torch.no_grad():
        torch.testing.assert_close(silenced(**inputs)[0], small(**inputs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["magnitude", "taylor", "gradnas", "obs", "fastnas", "random"])
def test_every_scorer_takes_mixtures(scorer: str) -> None:
    """Gradients of masks say nothing of a choice: gradnas holds experts."""
    model, inputs = pretrained("mixtral")

    def loss(output: Any, _: Any) -> Tensor:
        logits: Tensor = output[0] if isinstance(output, tuple) else output.logits
        return logits[:, :-1].flatten(0, 1).log_softmax(-1).mean().neg()

    given: dict[str, Any] = {"data": [inputs], "loss": loss, "score": lambda model: -float(loss(model(**inputs), None))}
    if scorer != "fastnas":
        del given["score"]
    slim = fxprune.compile(model, {"params": "55%"}, scorer=scorer, progress=False, **given)
    experts = [kept for name, (kept, _) in slim.plan.widths.items() if name.endswith("gate")]
    assert all(kept >= 2 for kept in experts)
    assert (experts == [4, 4, 4]) is (scorer == "gradnas") or scorer in ("obs", "random", "taylor", "fastnas")
