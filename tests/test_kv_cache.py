"""Budgets of memory that hold a key/value cache: what is counted is what the slim model's own cache takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune import InputError, KVCache
from fxprune.cli import main
from fxprune.planning import survey
from fxprune.pruning import understand
from tests.apply.pretrained import ARCHITECTURES, pretrained
from tests.tiny_languages import IDS, llama

transformers: Any = pytest.importorskip("transformers")
WINDOW = {"sliding_window": 8}
BUILT: dict[str, dict[str, Any]] = {
    name: {} for name in ("llama", "qwen3", "gpt2", "gpt_neox", "gptj", "falcon", "mixtral")
}
BUILT |= dict.fromkeys(("gemma2", "mistral", "gemma3_text", "phi3"), WINDOW) | {"olmo2": {}, "opt": {}}
FAST = ("llama", "gemma2")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in BUILT]
LENGTH = 20
TOKENS: Any = {"input_ids": IDS, "use_cache": False}


def built(name: str) -> Any:
    kind, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **settings, **BUILT[name])
    return getattr(transformers, kind).from_config(config).eval()


def bytes_after_generating(model: nn.Module, batch: int, length: int) -> int:
    """What the model's own cache takes once it holds so many tokens of each sequence."""
    tokens = torch.full((batch, 5), 7)
    generate: Any = model.generate
    made = generate(tokens, max_new_tokens=length - 4, min_new_tokens=length - 4, return_dict_in_generate=True)
    layers = made.past_key_values.layers
    return sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))


def memory_of(model: nn.Module, plan: fxprune.Plan, batch: int) -> float:
    cache = KVCache(batch, LENGTH)
    subject = understand(model, TOKENS, None, None, ignore=(), drop=plan.dropped, strict=False, kv_cache=cache)
    costs = subject.analysis.costs
    widths = np.array([[plan.widths[name][0] for name in costs.groups]])
    return float(costs.evaluate(widths)["memory"][0])


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_that_of_weights_and_the_real_cache(name: str) -> None:
    model, cache = built(name), KVCache(2, LENGTH)
    align = 4 if name == "mixtral" else 1  # products in groups take rows of 16 bytes
    slim = fxprune.compile(
        model, {"memory": "60%"}, example_inputs=TOKENS, kv_cache=cache, align=align, seed=1, progress=False
    )
    small = fxprune.apply(slim, model, config=False)
    memory = next(each for each in slim.report.metrics if each.name == "memory")
    one, two = (memory_of(model, slim.plan, batch) for batch in (1, 2))
    assert two - one == bytes_after_generating(small, 1, LENGTH)
    assert memory.after == two <= memory.limit  # type: ignore[operator]
    assert 2 * (two - one) <= bytes_after_generating(model, 2, LENGTH)
    weights = sum(each.nbytes for each in slim.parameters())
    assert weights <= 2 * one - two <= weights + sum(each.nbytes for each in slim.buffers())


def test_a_dropped_layer_takes_its_cache_along() -> None:
    model = llama(3)
    options: Any = {"example_inputs": TOKENS, "kv_cache": KVCache(4, LENGTH), "progress": False, "align": 1}
    slim = fxprune.compile(model, {"memory": "90%"}, drop=["model.layers.1"], **options)
    small = fxprune.apply(slim, model, config=False)
    one, two = (memory_of(model, slim.plan, batch) for batch in (1, 2))
    assert two - one == bytes_after_generating(small, 1, LENGTH)
    assert len(small.model.layers) == 2
    assert any("key/value cache of 4 x 20 tokens" in note for note in slim.report.notes)
    assert "memory: weights and key/value cache" in " ".join(str(slim.report).split())


def test_a_long_cache_has_heads_go_first() -> None:
    """Where nearly all of the memory is the cache, what feeds no cache is left whole."""
    options: Any = {"example_inputs": TOKENS, "search": "knapsack", "align": 1, "progress": False}
    slim = fxprune.compile(llama(3), {"memory": "60%"}, kv_cache=KVCache(64, 4096), **options)
    cut = {name for name, (after, before) in slim.plan.widths.items() if after < before}
    assert cut
    assert not any("mlp" in name or "embed" in name for name in cut)
    short = fxprune.compile(llama(3), {"memory": "60%"}, kv_cache=KVCache(1, 1), **options)
    assert any("mlp" in name for name, (after, before) in short.plan.widths.items() if after < before)


def test_half_precision_halves_weights_and_cache() -> None:
    cache = KVCache(8, 100)
    found = [survey(llama(2).to(dtype), TOKENS, kv_cache=cache).whole for dtype in (torch.float32, torch.bfloat16)]
    whole, half = (sum((each.program.cached or {}).values()) for each in found)
    assert whole == 2 * half == bytes_after_generating(llama(2), 8, 100)


def test_what_has_no_such_cache_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    with pytest.raises(InputError, match="Sequential is no causal language model of Transformers"):
        fxprune.compile(net, {"memory": "60%"}, example_inputs=torch.randn(2, 4), kv_cache=KVCache(1, 8))
    with pytest.raises(InputError, match=r"kv_cache is a tuple; pass fxprune.KVCache\(batch=8, length=4096\)"):
        fxprune.compile(llama(1), {"memory": "60%"}, example_inputs=TOKENS, kv_cache=(1, 8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kv_cache has length=0"):
        KVCache(1, 0)
    with pytest.raises(InputError, match="iterate cannot count a key/value cache"):
        fxprune.iterate(llama(1), {"memory": "60%"}, steps=1, finetune=lambda _: None, kv_cache=KVCache(1, 8))
    mamba, inputs = pretrained("mamba")
    with pytest.raises(InputError, match="MambaForCausalLM does not keep keys and values alone"):
        fxprune.compile(mamba, {"memory": "60%"}, example_inputs=inputs, kv_cache=KVCache(1, 8))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "tests.tiny_languages:llama", "--input", "input_ids=2x12:int64", "--budget", "memory=60%"]
    assert main([*command, "--kv-cache", "4x100", "-o", str(tmp_path / "plan.json")]) == 0
    assert "memory: " in capsys.readouterr().out
    assert main([*command, "--kv-cache", "4", "-o", str(tmp_path / "plan.json")]) == 2
    assert "--kv-cache '4' is not a batch size and a length, such as 8x4096" in capsys.readouterr().err
