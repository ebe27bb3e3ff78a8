"""Small Transformers models, as fresh as their random weights, and the program that loads slim ones without fxprune."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(0))
CAUSAL, MASKED, IMAGES = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForImageClassification"
TOKENS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**TOKENS, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 16}
GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 128}
GPT |= {"bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
PATCHES: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_labels": 10}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (CAUSAL, GROUPED),
    "gpt2": (CAUSAL, GPT),
    "bert": (MASKED, TOKENS),
    "mistral": (CAUSAL, GROUPED),
    "qwen2": (CAUSAL, GROUPED),
    "qwen3": (CAUSAL, HEADS),
    "gemma": (CAUSAL, HEADS),
    "gemma2": (CAUSAL, {**HEADS, "query_pre_attn_scalar": 16}),
    "gemma3_text": (CAUSAL, {**HEADS, "query_pre_attn_scalar": 16}),
    "phi3": (CAUSAL, GROUPED),
    "olmo2": (CAUSAL, GROUPED),
    "gpt_neox": (CAUSAL, TOKENS),
    "gptj": (CAUSAL, {**GPT, "rotary_dim": 8}),
    "opt": (CAUSAL, {**TOKENS, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "falcon": (CAUSAL, {**TOKENS, "multi_query": True}),
    "mixtral": (CAUSAL, {**GROUPED, **EXPERTS}),
    "qwen3_moe": (CAUSAL, {**HEADS, **EXPERTS}),
    "mamba": (CAUSAL, {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 128, "state_size": 8}),
    "roberta": (MASKED, TOKENS),
    "vit": (IMAGES, {**TOKENS, **PATCHES}),
}


def pretrained(name: str) -> tuple[Any, dict[str, Any]]:
    """A model with weights so large that attention attends, and inputs."""
    import transformers

    kind, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind).from_config(transformers.AutoConfig.for_model(name, **settings))
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=chance) * 0.5 + 0.75)
            else:
                parameter.mul_(6)
    if kind == IMAGES:
        return model.eval(), {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    return model.eval(), {"input_ids": IDS, **({"use_cache": False} if kind == CAUSAL else {})}


def save(name: str, made: Any, inputs: dict[str, Any], folder: Path) -> None:
    """Save a slim model, with what it computes."""
    made.save_pretrained(folder / name)
    with torch.no_grad():
        torch.save((ARCHITECTURES[name][0], inputs, made(**inputs)[0]), folder / name / "expected.pt")


def load_all(folder: Path) -> str:
    """Load every model of a folder in a fresh process, with Transformers alone, and compare; what it printed."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.apply.pretrained", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _main(folder: Path) -> None:
    import transformers

    for each in sorted(folder.iterdir()):
        kind, inputs, expected = torch.load(each / "expected.pt")
        model, loading = getattr(transformers, kind).from_pretrained(each, output_loading_info=True)
        assert not any(loading.values()), (each.name, loading)
        with torch.no_grad():
            found = model.eval()(**inputs)[0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        if kind == CAUSAL:
            options = {"max_new_tokens": 8, "do_sample": False}
            cached = model.generate(inputs["input_ids"], use_cache=True, **options)
            assert torch.equal(cached, model.generate(inputs["input_ids"], use_cache=False, **options)), each.name
        print(each.name, "loads")
    assert "fxprune" not in sys.modules


if __name__ == "__main__":
    # By its file, since importing the package that it lies in would import fxprune.
    operators = spec_from_file_location("vision_operators", ROOT / "fxprune/cli/vision_operators.py")
    assert operators is not None
    assert operators.loader is not None
    module = module_from_spec(operators)
    operators.loader.exec_module(module)
    module.declare_vision_operators()
    _main(Path(sys.argv[1]))
