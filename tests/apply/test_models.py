"""`apply` on real models: torchvision, timm and Transformers, small and with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.apply import apply, rewritten
from tests.apply.helpers import check, same

TORCHVISION = {"resnet18": {}, "mobilenet_v3_small": {}, "vit_b_16": {"image_size": 64}}
SLOW_TORCHVISION: dict[str, dict[str, Any]] = {
    "convnext_tiny": {},
    "densenet121": {},
    "regnet_y_400mf": {},
    "efficientnet_b0": {},
}
TIMM = {"vit_tiny_patch16_224": {"img_size": 32}, "mobilenetv4_conv_small": {}}
SLOW_TIMM: dict[str, dict[str, Any]] = {
    "convnext_atto": {},
    "deit_tiny_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 224},
    "resnetv2_50": {},
    "cait_xxs24_224": {"img_size": 64},
    "pvt_v2_b0": {},
    "poolformer_s12": {},
    "mobilevit_xxs": {},
    "hrnet_w18_small": {},
}
IDS = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(0))
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 128}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "gpt2": GPT,
    "llama": {**SMALL, "num_key_value_heads": 2},
    "opt": {**SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64},
}
SLOW_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "roberta": SMALL,
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 128},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
    "mistral": {**SMALL, "num_key_value_heads": 2},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 128},
}
CAUSAL = ("gpt2", "llama", "opt", "qwen3", "mistral", "mamba")


def _marked(fast: Any, slow: Any) -> list[Any]:
    return [*fast, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@pytest.mark.parametrize("name", _marked(TORCHVISION, SLOW_TORCHVISION))
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None, **{**TORCHVISION, **SLOW_TORCHVISION}[name])
    check(model, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("name", _marked(TIMM, SLOW_TIMM))
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {**TIMM, **SLOW_TIMM}[name]
    size = options.get("img_size", 64)
    check(timm.create_model(name, pretrained=False, **options), torch.randn(2, 3, size, size))


def test_channels_split_into_unequal_halves() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    made, _ = check(models.shufflenet_v2_x1_0(weights=None), torch.randn(2, 3, 64, 64))
    assert any("x1, x2 = x.split(self.slim_chunk_" in difference for difference in rewritten(made).values())


@pytest.mark.slow
def test_functions_of_the_library_are_followed() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    made, _ = check(models.swin_t(weights=None), torch.randn(2, 3, 64, 64))
    assert any("self.slim_shifted_window_attention(" in difference for difference in rewritten(made).values())


@pytest.mark.parametrize("name", _marked(TRANSFORMERS, SLOW_TRANSFORMERS))
def test_transformers(name: str) -> None:
    model, inputs = _transformer(name)
    floor = _whole_heads(model, inputs)
    with _notes():
        check(model, inputs, "70%", align=1, floor=floor, search="uniform")


def test_value_dimensions_of_their_own_where_one_attribute_says_both() -> None:
    model, inputs = _transformer("bert")
    groups = fxprune.analyze(model, inputs).groups
    values = next(group for group in groups if group.kind == "value dimensions")
    floor = {group.name: group.size for group in groups if group is not values}
    with _notes():
        made, _ = check(model, inputs, {"params": "99%"}, align=1, floor=floor)
    (difference,) = rewritten(made).values()
    assert "self.attention_head_size" not in "".join(x for x in difference.splitlines() if x.startswith("+"))


def test_a_configuration_follows_and_generation_with_a_cache_works() -> None:
    model, inputs = _transformer("llama")
    slim = fxprune.compile(
        model, "70%", example_inputs=inputs, align=1, floor=_whole_heads(model, inputs), search="uniform", config=True
    )
    made = apply(slim, model, config=True)
    mlp = made.model.layers[0].mlp
    assert made.config.intermediate_size == mlp.gate_proj.out_features < model.config.intermediate_size == 128
    assert made.config.hidden_size == mlp.gate_proj.in_features
    assert made.config is made.model.layers[0].self_attn.config
    again = type(made)(made.config).eval()
    again.load_state_dict(made.state_dict())
    same(again, made, inputs)
    cached = made.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=True)
    plain = made.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_a_configuration_that_cannot_say_the_widths_is_left_alone() -> None:
    model, inputs = _transformer("llama")
    groups = fxprune.analyze(model, inputs).groups
    first = next(group for group in groups if group.name == "model.layers.0.mlp.gate_proj")
    floor = {group.name: group.size for group in groups if group is not first}
    slim = fxprune.compile(model, {"params": "90%"}, example_inputs=inputs, align=1, floor=floor)
    with pytest.warns(UserWarning, match="config does not describe"):
        made = apply(slim, model)
    assert made.config.intermediate_size == 128
    assert torch.equal(
        made.generate(IDS, max_new_tokens=4, do_sample=False, use_cache=True),
        made.generate(IDS, max_new_tokens=4, do_sample=False, use_cache=False),
    )


def _transformer(name: str) -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = copy.deepcopy({**TRANSFORMERS, **SLOW_TRANSFORMERS}[name])
    kind = "AutoModelForCausalLM" if name in CAUSAL else "AutoModelForSeq2SeqLM" if name == "t5" else "AutoModel"
    model: nn.Module = getattr(transformers, kind).from_config(transformers.AutoConfig.for_model(name, **settings))
    inputs = {"input_ids": IDS, "use_cache": False} if name in CAUSAL else {"input_ids": IDS}
    if name == "t5":
        inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5], "use_cache": False}
    return model.eval(), inputs


def _whole_heads(model: nn.Module, inputs: Any) -> dict[str, int]:
    """A floor that leaves the dimensions of heads alone, which most classes have one number for."""
    groups = fxprune.analyze(model, inputs).groups
    return {g.name: g.size for g in groups if "dimensions" in g.kind or ("q_proj:features" in g.name and g.size < 16)}


@contextmanager
def _notes() -> Iterator[None]:
    """Whether the configuration can say the widths is another question."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*config does not describe", UserWarning)
        yield
