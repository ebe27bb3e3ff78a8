"""Slim Transformers models: `save_pretrained`, `from_pretrained` in a fresh process, and generation with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from fxprune.apply.blueprint import blueprint_of, implied_fields, sizes_of
from fxprune.errors import CannotApply, InputError
from tests.apply.helpers import equal_plan
from tests.apply.pretrained import ARCHITECTURES, load_all, pretrained, save

pytest.importorskip("transformers")
FAST = ("llama",)
WIDTHS = {
    "llama": {"hidden_size", "intermediate_size"},
    "gpt2": {"n_embd", "n_inner", "n_head"},
    "bert": {"hidden_size", "intermediate_size", "num_attention_heads"},
    "qwen2": {"hidden_size", "intermediate_size", "head_dim"},
    "opt": {"hidden_size", "ffn_dim", "num_attention_heads", "word_embed_proj_dim"},
}


def parameters(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def slimmed(name: str, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    model, inputs = pretrained(name)
    slim = fxprune.compile(
        model, {"params": "70%"}, example_inputs=inputs, search="uniform", config=True, progress=False, **options
    )
    made = fxprune.apply(slim, model, config=True)
    with torch.no_grad():
        torch.testing.assert_close(made(**inputs)[0], slim.eval()(**inputs)[0], rtol=1e-4, atol=1e-4)
    return model, made, inputs


def changed(model: Any, made: Any) -> set[str]:
    before, after = model.config.to_dict(), made.config.to_dict()
    return {key for key in after if after[key] != before.get(key)} - {"architectures", "dtype"}


@pytest.mark.parametrize(
    "names", [FAST, pytest.param([each for each in ARCHITECTURES if each not in FAST], marks=pytest.mark.slow)]
)
def test_loads_in_a_fresh_process(names: Sequence[str], tmp_path: Path) -> None:
    """All models are loaded in one process: importing Transformers takes the most time."""
    for name in names:
        model, made, inputs = slimmed(name)
        assert parameters(made) <= 0.7 * parameters(model)
        assert WIDTHS.get(name, set()) <= changed(model, made)
        assert made.config.tie_word_embeddings == model.config.tie_word_embeddings if name != "vit" else True
        save(name, made, inputs, tmp_path)
    assert load_all(tmp_path).split() == [word for name in sorted(names) for word in (name, "loads")]


def test_minitron_keeps_to_the_configuration_in_width_and_depth() -> None:
    """What is inside a head keeps its width, and so does what goes with it; groups are renamed where the first layer goes."""
    model, inputs = pretrained("llama")
    options: dict[str, Any] = {"data": [inputs, inputs], "config": True, "progress": False}
    slim = fxprune.compile(model, {"params": "60%"}, drop=1, **options)
    made = fxprune.apply(slim, model, config=True)
    assert (slim.plan.scorer, slim.plan.search) == ("minitron", "uniform")
    assert made.config.num_hidden_layers == model.config.num_hidden_layers - 1
    assert made.config.head_dim == model.config.head_dim
    assert {"hidden_size", "intermediate_size"} <= changed(model, made)
    with torch.no_grad():
        torch.testing.assert_close(made(**inputs)[0], slim.eval()(**inputs)[0], rtol=1e-4, atol=1e-4)


def test_a_grid_over_what_the_configuration_can_say(tmp_path: Path) -> None:
    """Candidates are combinations of fields, and of depths; the best one loads without fxprune."""
    model, inputs = pretrained("llama")
    options: dict[str, Any] = {"data": [inputs, inputs], "config": True, "reconstruct": False, "progress": False}
    slim = fxprune.compile(model, {"params": "60%"}, search=fxprune.Grid(top=4, depth=(0, 1)), **options)
    assert slim.plan.search == "grid"
    assert any("candidates measured" in note for note in slim.report.notes)
    params = next(each for each in slim.report.metrics if each.name == "params")
    assert 0.5 * params.before < params.after <= 0.6 * params.before
    made = fxprune.apply(slim, model, config=True)
    assert changed(model, made) <= {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "layer_types",
        "head_dim",
    } | {
        "num_attention_heads",
        "num_key_value_heads",
    }
    assert "intermediate_size" in changed(model, made) or "hidden_size" in changed(model, made)
    save("llama", made, inputs, tmp_path)
    assert load_all(tmp_path).split() == ["llama", "loads"]
    shallow = fxprune.compile(model, {"params": "75%"}, search=fxprune.Grid(depth=(1,), width=False), **options)
    assert changed(model, fxprune.apply(shallow, model, config=True)) == {"num_hidden_layers"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3_text", "gpt2", "mamba", "qwen2"])
def test_dropped_layers(name: str, tmp_path: Path) -> None:
    model, inputs = pretrained(name)
    block = fxprune.analyze(model, inputs).blocks[1].name
    slim = fxprune.compile(model, {"params": "95%"}, example_inputs=inputs, drop=[block], progress=False)
    made = fxprune.apply(slim, model, config=True)
    sliced = fxprune.apply(slim.plan, model, example_inputs=inputs).state_dict()
    assert made.config.num_hidden_layers == 2
    assert len(getattr(made.config, "layer_types", [0, 0])) == 2
    assert all(torch.equal(tensor, sliced[key]) for key, tensor in made.state_dict().items())
    assert model.config.num_hidden_layers == 3
    save(name, made, inputs, tmp_path)
    load_all(tmp_path)


def test_what_the_configuration_computes_from_a_width_is_noticed() -> None:
    """Shapes would do with head_dim=12; frequencies and scale of the class would be others."""
    model, inputs = pretrained("llama")
    groups = fxprune.analyze(model, inputs).groups
    plan = equal_plan(model, inputs, [g.size * 3 // 4 if g.size in (8, 16) else g.size for g in groups], groups)
    with pytest.warns(UserWarning, match="a model built with head_dim=12 computes something else"):
        made = fxprune.apply(plan, model, example_inputs=inputs)
    assert made.config.head_dim == 16
    assert made.model.layers[0].self_attn.head_dim == 12
    with pytest.raises(CannotApply, match=r"LlamaForCausalLM.config does not .*fxprune.compile\(\.\.\., config=True\)"):
        fxprune.apply(plan, model, example_inputs=inputs, config=True)


def test_sayable_widths() -> None:
    model, inputs = pretrained("bert")
    found = fxprune.sayable(model, inputs)
    assert found.fields == (("intermediate_size",), ("hidden_size", "num_attention_heads"))
    assert [each.steps for each in found.ties] == [128, 4]
    assert len(found.ties[1].groups) == 4
    assert {name.rpartition(":")[2] for name in found.held if ":" in name} == {"query/key dimensions"}
    assert "hidden_size, num_attention_heads: 4 groups in 4 steps" in str(found)


def test_fields_that_are_not_in_the_configuration() -> None:
    model, _ = pretrained("qwen2")
    blueprint = blueprint_of(model)
    assert blueprint is not None
    assert implied_fields(blueprint, sizes_of(model)) == {("head_dim",): 16}
    assert blueprint.sizes({}) == sizes_of(model)


def test_other_models_have_no_configuration() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
    x = torch.randn(2, 4)
    with pytest.raises(InputError, match="no Transformers model"):
        fxprune.compile(net, "50%", example_inputs=x, config=True)
    slim = fxprune.compile(net, "50%", example_inputs=x)
    with pytest.raises(CannotApply, match="no Transformers model"):
        fxprune.apply(slim, net, config=True)
    with pytest.raises(InputError, match="iterate cannot keep to a configuration"):
        fxprune.iterate(net, "50%", steps=2, finetune=lambda _: None, example_inputs=x, config=True)
