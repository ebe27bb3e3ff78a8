"""Plans of models without weights: the same as with them, and good for cutting a checkpoint."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune import InfeasibleBudget, InputError
from fxprune.cli import main
from tests.shards.helpers import IDS, llama, read, save

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8}),
}


def built(name: str, device: str) -> nn.Module:
    import transformers

    family, more = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**SIZES, **more, pad_token_id=0)
    with torch.device(device):
        model: nn.Module = getattr(transformers, f"{family}ForCausalLM")(config)
    return model.eval()


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "llama")]
)
def test_a_meta_model_is_analysed_as_the_real_one(name: str) -> None:
    torch.manual_seed(0)
    real = fxprune.plan(built(name, "cpu"), {"params": "60%"}, example_inputs=IDS)
    meta = fxprune.plan(built(name, "meta"), {"params": "60%"}, example_inputs=IDS)
    assert meta == real
    assert meta.slices


@pytest.mark.slow
def test_fixed_sizes_do_not_change_the_plan() -> None:
    from fxprune.planning import choose, survey

    model = built("llama", "meta")
    scores = fxprune.Scores(
        "equal", {g.name: torch.ones(g.shape).double().numpy() for g in fxprune.analyze(model, META).groups}
    )
    fixed = choose(model, survey(model, IDS), {"params": "60%"}, scores).plan
    assert fixed.slices
    free = fxprune.compile(
        built("llama", "cpu"), {"params": "60%"}, example_inputs=IDS, scores=scores, search="uniform"
    )
    assert free.plan.slices == fixed.slices


META = {name: tensor.to("meta") for name, tensor in IDS.items()}


def test_convolutions_on_meta() -> None:
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=4), nn.Conv2d(64, 8, 1)]
    with torch.device("meta"):
        model = nn.Sequential(*[type(layer)(*_arguments(layer)) for layer in layers]).eval()
    plan = fxprune.plan(model, "50%", example_inputs=torch.randn(1, 3, 16, 16))
    assert plan == fxprune.plan(nn.Sequential(*layers).eval(), "50%", example_inputs=torch.randn(1, 3, 16, 16))
    assert plan.slices


def _arguments(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels, layer.kernel_size, 1, 0, 1, layer.groups
    return (layer.num_features,) if isinstance(layer, nn.BatchNorm2d) else ()


def test_bad_arguments() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    inputs = torch.randn(2, 8)
    with pytest.raises(InfeasibleBudget):
        fxprune.plan(model, {"params": "0.01%"}, example_inputs=inputs)
    with pytest.raises(InputError, match="example_inputs is missing"):
        fxprune.plan(model, "50%")
    other = fxprune.Scores("mine", {"other": torch.ones(3).double().numpy()})
    with pytest.raises(InputError, match="belongs to another model"):
        fxprune.plan(model, "50%", example_inputs=inputs, scores=other)


def test_from_a_configuration_to_a_cut_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    source = save(llama(dtype="bfloat16").bfloat16(), tmp_path / "source")
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.json").write_text((source / "config.json").read_text())
    plan = tmp_path / "out" / "plan.json"
    budget = ["--budget", "params=60%", "--drop", "model.layers.1", "--input", "input_ids=1x16:int64"]
    assert main(["plan", f"transformers:{config}", "--config", *budget, "-o", str(plan), "--traceback"]) == 0
    said = capsys.readouterr().out
    assert "params: " in said
    assert "kept whole: model.layers.{0,2}.self_attn.q_proj:features#1, with what else is cut: " in said
    assert main(["apply", str(plan), str(source), str(tmp_path / "cut"), "--traceback"]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert loaded.config.num_hidden_layers == 2
    assert sum(each.numel() for each in loaded.parameters()) <= 0.6 * sum(
        each.numel() for each in read(source).values()
    )
    assert loaded(**IDS).logits.isfinite().all()


CONFIGURED: dict[str, tuple[str, dict[str, Any]]] = {
    "heads that fit": ("Llama", {"num_attention_heads": 16, "num_key_value_heads": 4}),
    "a hidden size of whole heads": ("Llama", {"hidden_size": 2048, "num_attention_heads": 32, "head_dim": 8}),
    "qwen2": ("Qwen2", {}),
    "gpt2": ("GPT2", {"n_inner": 1024}),
    "opt": ("OPT", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
}


@pytest.mark.parametrize("name", CONFIGURED)
@pytest.mark.parametrize("share", ["85%", "65%"])
def test_a_plan_that_the_configuration_says(name: str, share: str) -> None:
    import transformers

    from fxprune.shards.configuration import build, said

    family, more = CONFIGURED[name]
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 704}
    if family == "GPT2":
        sizes = {"n_embd": 256, "n_layer": 2, "n_head": 8, "vocab_size": 100}
    if family == "OPT":
        more = {"ffn_dim": 704, "word_embed_proj_dim": 256}
    config = getattr(transformers, f"{family}Config")(**{**sizes, **more})
    kind = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")
    with torch.device("meta"):
        model = kind(config).eval()
    plan = fxprune.plan(model, {"params": share}, example_inputs=META, config=True)
    slim = build(kind, said(kind, model.config, plan))
    counts = [sum(each.numel() for each in made.parameters()) for made in (slim, model)]
    assert 0.75 * float(share[:-1]) / 100 < counts[0] / counts[1] <= float(share[:-1]) / 100


def test_a_plan_that_no_configuration_says_is_refused() -> None:
    with pytest.raises(InputError, match="is no Transformers model"):
        fxprune.plan(
            nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 4)), "50%", example_inputs=torch.randn(2, 8), config=True
        )


def test_names_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["os"], "model_type": "llama"}))
    out = ["--budget", "50%", "-o", str(tmp_path / "plan.json")]
    assert main(["plan", f"transformers:{tmp_path}", *out]) == 2
    assert "none of Transformers" in capsys.readouterr().err.replace("\n", " ")
    assert main(["plan", "transformers:/nowhere", *out]) == 2
    assert main(["plan", "tests.cli.toy_models:network", "--input", "1x3x16x16", *out]) == 0
    assert fxprune.Plan.from_json((tmp_path / "plan.json").read_text()).slices


def test_the_function_and_the_module_share_a_name() -> None:
    assert importlib.import_module("fxprune.plan").Plan is fxprune.Plan
    assert callable(fxprune.plan)
