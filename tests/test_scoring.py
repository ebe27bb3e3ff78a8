"""Scores by themselves, with values from a module, a mapping or a folder instead of the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from fxprune.weights import stand_in
from tests.tiny_languages import llama


def batches(number: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(0, 64, (2, 12), generator=generator)} for _ in range(number)]


def emptied(model: nn.Module) -> nn.Module:
    """A copy with parameters on the meta device; buffers keep their values."""
    made = copy.deepcopy(model)
    for module in made.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    return made


def same(first: fxprune.Scores, second: fxprune.Scores) -> None:
    assert first.signature == second.signature
    assert first.blocks == second.blocks
    assert first.importance.keys() == second.importance.keys()
    for name, values in first.importance.items():
        np.testing.assert_array_equal(values, second.importance[name])


@pytest.fixture(scope="module")
def model() -> Any:
    return llama(layers=2)


@pytest.fixture(scope="module")
def expected(model: nn.Module) -> fxprune.Scores:
    return fxprune.score(model, "minitron", data=batches())


def test_they_are_those_of_compile(model: nn.Module, expected: fxprune.Scores) -> None:
    slim = fxprune.compile(model, {"params": "80%"}, scorer="minitron", data=batches(), reconstruct=False)
    assert slim.scores is not None
    same(slim.scores, expected)


def test_values_of_another_module(model: nn.Module, expected: fxprune.Scores) -> None:
    same(fxprune.score(copy.deepcopy(model).to("meta"), "minitron", data=batches(), weights=model), expected)


def test_values_by_name(model: nn.Module, expected: fxprune.Scores) -> None:
    same(fxprune.score(emptied(model), "minitron", data=batches(), weights=model.state_dict()), expected)


def test_values_of_a_sharded_checkpoint_lead_to_a_cut_one(model: Any, expected: fxprune.Scores, tmp_path: Path) -> None:
    """The three steps for a model that does not fit: score, plan, cut; the same plan as with the model at hand."""
    folder, shell = tmp_path / "whole", emptied(model)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    found = fxprune.score(shell, "minitron", data=batches(), weights=folder, checkpoint=tmp_path / "score.ckpt")
    same(found, expected)
    plan = fxprune.plan(shell, {"params": "70%"}, scores=found, config=True)
    assert plan.slices == fxprune.plan(model, {"params": "70%"}, scores=expected, config=True).slices
    fxprune.apply_to_checkpoint(plan, folder, tmp_path / "slim")
    again = type(model).from_pretrained(tmp_path / "slim")
    assert again.config.intermediate_size < model.config.intermediate_size


def test_magnitude_fetches_weights_too(model: nn.Module) -> None:
    found = fxprune.score(emptied(model), "magnitude", example_inputs=batches()[0], weights=model)
    same(found, fxprune.score(model, "magnitude", example_inputs=batches()[0]))


def test_a_finished_run_is_not_taken_for_other_weights(model: nn.Module, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    given: dict[str, Any] = {"data": batches(), "checkpoint": tmp_path / "score.ckpt"}
    fxprune.score(emptied(model), "minitron", weights=model, **given)
    with pytest.raises(fxprune.CheckpointError, match="weights"):
        fxprune.score(emptied(model), "minitron", weights=other, **given)


def test_a_stand_in_takes_no_memory() -> None:
    with torch.device("meta"):
        layer = nn.Linear(1 << 20, 1 << 20)
    made = stand_in(layer, {})
    weight: Any = made.weight
    assert weight.untyped_storage().nbytes() == 4
    assert weight.shape == layer.weight.shape
    assert layer.weight.is_meta


def test_what_is_missing_is_named(model: nn.Module) -> None:
    state = model.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"no value for 'model\.layers\.1\.mlp\.up_proj\.weight'; names have to be"):
        fxprune.score(emptied(model), "minitron", data=batches(), weights=state)
    with pytest.raises(InputError, match=r"buffers without values: 'model\.rotary_emb\.inv_freq'"):
        fxprune.score(copy.deepcopy(model).to("meta"), "minitron", data=batches(), weights=state)
    state["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    with pytest.raises(InputError, match=r"has shape \[3, 3\], the model's has \[96, 64\]"):
        fxprune.score(emptied(model), "minitron", data=batches(), weights=state)


def test_values_that_are_not_finite_are_found_in_the_weights(model: Any) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"The model's model\.layers\.1\.mlp\.up_proj\.weight holds nan"):
        fxprune.score(emptied(model), "minitron", data=batches(), weights=broken)


def test_scorers_that_need_the_whole_model_say_so(model: nn.Module) -> None:
    with pytest.raises(InputError, match="'obs' needs the whole model at once"):
        fxprune.score(emptied(model), "obs", data=batches(), weights=model)
    from fxprune.passes.minitron import Minitron

    with pytest.raises(InputError, match='take depth="influence"'):
        fxprune.score(emptied(model), Minitron(depth="loss"), data=batches(), weights=model)
    wrong: Any = 3
    with pytest.raises(InputError, match=r"device='gpu' cannot be used: Expected one of cpu, cuda"):
        fxprune.score(emptied(model), "minitron", data=batches(), weights=model, device="gpu")
    with pytest.raises(InputError, match="device= goes with weights="):
        fxprune.score(model, "minitron", data=batches(), device="cpu")
    arrays: Any = {name: value.numpy() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"weights\['model\.embed_tokens\.weight'\] is a ndarray; pass tensors"):
        fxprune.score(model, "minitron", data=batches(), weights=arrays)
    with pytest.raises(InputError, match="weights is a int; pass a folder"):
        fxprune.score(emptied(model), "minitron", data=batches(), weights=wrong)
