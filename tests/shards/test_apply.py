"""Checkpoints cut on disk against `apply` and the slim module, bit for bit, and what has to be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from fxprune import CheckpointError, InputError, Plan
from fxprune.apply import slice_tensor
from tests.shards.helpers import IDS, UNIFORM, cut, llama, read, save

KINDS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_checkpoint_is_the_slim_module(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = llama(**KINDS[kind])
    source = save(model, tmp_path / "source")
    slim = cut(UNIFORM, **KINDS[kind])
    made = fxprune.apply_to_checkpoint(slim.plan, source, tmp_path / "cut")
    expected = slim.state_dict()
    found = read(tmp_path / "cut")
    assert len(made.files) > 2
    assert found.keys() == read(source).keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert (loaded.config.hidden_size, loaded.config.num_attention_heads, loaded.config.head_dim) == (48, 6, 8)
    with torch.no_grad():
        assert torch.allclose(loaded(**IDS).logits, slim(**IDS).logits, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*config does not describe:UserWarning")
def test_a_cut_checkpoint_is_what_apply_gives(tmp_path: Path) -> None:
    model = llama()
    slim = cut(UNIFORM)
    fxprune.apply_to_checkpoint(slim.plan, save(model, tmp_path / "source"), tmp_path / "cut")
    expected = fxprune.apply(slim, model).state_dict()
    found = read(tmp_path / "cut")
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_dropped_layers_leave_no_gap(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = llama()
    source = save(model, tmp_path / "source")
    slim = cut(UNIFORM, drop=["model.layers.1"])
    fxprune.apply_to_checkpoint(slim.plan, source, tmp_path / "cut")
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    found = read(tmp_path / "cut")
    assert index["weight_map"].keys() == found.keys()
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in found.values())
    assert set(index["weight_map"].values()) == {path.name for path in (tmp_path / "cut").glob("*.safetensors")}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert loaded.config.num_hidden_layers == 2
    with torch.no_grad():
        assert torch.allclose(loaded(**IDS).logits, slim(**IDS).logits, atol=1e-6)


def of_type(plan: Plan, dtype: str) -> Plan:
    return replace(plan, signature={name: (shape, dtype) for name, (shape, _) in plan.signature.items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_types_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.to(dtype) for name, tensor in llama().state_dict().items()}
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    plan = of_type(cut(UNIFORM).plan, str(dtype).removeprefix("torch."))
    fxprune.apply_to_checkpoint(plan, tmp_path / "source", tmp_path / "cut")
    for name, tensor in read(tmp_path / "cut").items():
        expected = slice_tensor(tensors[name].view(BITS[dtype]), plan.slices.get(name, {}))
        assert tensor.dtype == dtype
        assert torch.equal(tensor.view(BITS[dtype]), expected), name


BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float8_e4m3fn: torch.int8}


def test_a_single_file_and_what_lies_beside_it(tmp_path: Path) -> None:
    model = llama()
    source = save(model, tmp_path / "source", "1GB")
    (source / "tokenizer.json").write_text('{"a": 1}')
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (source / "original").mkdir()
    slim = cut(UNIFORM)
    made = fxprune.apply_to_checkpoint(slim.plan, source, tmp_path / "cut")
    names = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "cut").iterdir()} == names
    assert "original, pytorch_model.bin" in made.notes[0]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "cut"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxprune.cli import main

    model = llama()
    save(model, tmp_path / "source")
    plan = cut(UNIFORM).plan
    (tmp_path / "plan.json").write_text(plan.to_json())
    arguments = ["apply", str(tmp_path / "plan.json"), str(tmp_path / "source"), str(tmp_path / "cut")]
    assert main(arguments) == 0
    assert "wrote" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err.replace("\n", " ")
    assert main(["apply", str(tmp_path / "none.json"), *arguments[2:]]) == 2


def test_a_prefix_is_bridged_and_a_head_is_not(tmp_path: Path) -> None:
    model = llama()
    save(model.model, tmp_path / "base")  # names without "model."
    save(model, tmp_path / "whole")
    plan = cut({"*.gate_proj": 64}, tie_word_embeddings=True).plan
    fxprune.apply_to_checkpoint(plan, tmp_path / "base", tmp_path / "cut", keep_config=True)
    assert read(tmp_path / "cut")["layers.0.mlp.up_proj.weight"].shape == (64, 64)
    slices = {name.removeprefix("model."): each for name, each in cut({"*.gate_proj": 64}).plan.slices.items()}
    signature = {name.removeprefix("model."): each for name, each in plan.signature.items() if name != "lm_head.weight"}
    inner = replace(plan, slices=slices, signature=signature, tied={}, unsaved=("rotary_emb.inv_freq",))
    with pytest.raises(CheckpointError, match=r"has 'lm_head\.weight', which the plan's model has not"):
        fxprune.apply_to_checkpoint(inner, tmp_path / "whole", tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"lacks 'lm_head\.weight' \(expected float32 \[100, 64\]\)"):
        fxprune.apply_to_checkpoint(cut(UNIFORM).plan, tmp_path / "base", tmp_path / "other")


def test_another_model_is_refused(tmp_path: Path) -> None:
    model = llama()
    source = save(model, tmp_path / "source")
    plan = cut({"model.embed_tokens": 48}).plan
    name = "model.layers.0.mlp.gate_proj.weight"
    other = replace(plan, signature={**plan.signature, name: ((80, 64), "float32")})
    with pytest.raises(
        CheckpointError, match=r"gate_proj\.weight' is float32 \[96, 64\] there, expected float32 \[80, 64\]"
    ):
        fxprune.apply_to_checkpoint(other, source, tmp_path / "cut")
    half = of_type(cut(UNIFORM).plan, "float16")
    with pytest.raises(CheckpointError, match=r"is float32 .*expected float16.*any_dtype"):
        fxprune.apply_to_checkpoint(half, source, tmp_path / "cut")
    fxprune.apply_to_checkpoint(half, source, tmp_path / "cut", any_dtype=True)
    assert {each.dtype for each in read(tmp_path / "cut").values()} == {torch.float32}


def test_tensors_of_no_model_are_kept_if_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = llama()
    source = save(model, tmp_path / "source", "1GB")
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "rotary.inv_freq": torch.ones(4)}, source / "model.safetensors")
    plan = cut(UNIFORM).plan
    with pytest.raises(CheckpointError, match=r"rotary\.inv_freq.*extra="):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")
    fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut", extra=["*inv_freq"])
    assert torch.equal(read(tmp_path / "cut")["rotary.inv_freq"], torch.ones(4))


def test_a_configuration_that_cannot_say_it(tmp_path: Path) -> None:
    model = llama()
    source = save(model, tmp_path / "source")
    uneven = cut({"model.layers.0.mlp.gate_proj": 64}).plan
    with pytest.raises(CheckpointError, match=r"intermediate_size would be 64 by .* and 96 by .*--keep-config"):
        fxprune.apply_to_checkpoint(uneven, source, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    fxprune.apply_to_checkpoint(uneven, source, tmp_path / "cut", keep_config=True)
    assert (tmp_path / "cut" / "config.json").read_text() == (source / "config.json").read_text()


def test_dimensions_within_heads_would_change_the_scale(tmp_path: Path) -> None:
    model = llama()
    source = save(model, tmp_path / "source")
    plan = cut({"*q_proj:features#3": 3, "*v_proj": 6}).plan
    with pytest.raises(CheckpointError, match="scale"):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "cut")


def test_where_it_may_go(tmp_path: Path) -> None:
    model = llama()
    source = save(model, tmp_path / "source")
    plan = cut(UNIFORM).plan
    with pytest.raises(InputError, match="is the checkpoint itself"):
        fxprune.apply_to_checkpoint(plan, source, source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "full")
    with pytest.raises(InputError, match="does not exist"):
        fxprune.apply_to_checkpoint(plan, source, tmp_path / "none" / "cut")
    with pytest.raises(InputError, match="is no folder"):
        fxprune.apply_to_checkpoint(plan, tmp_path / "none", tmp_path / "cut")
    with pytest.raises(InputError, match="takes a Plan"):
        fxprune.apply_to_checkpoint(plan.to_json(), source, tmp_path / "cut")  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    assert fxprune.apply_to_checkpoint(plan, source, tmp_path / "empty").files


def test_a_plan_says_what_is_tied_and_not_saved() -> None:
    plan = cut(UNIFORM, tie_word_embeddings=True).plan
    assert dict(plan.tied) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "model.rotary_emb.inv_freq" in plan.unsaved
    assert Plan.from_json(plan.to_json()) == plan
