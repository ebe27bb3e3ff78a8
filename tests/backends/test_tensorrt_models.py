"""Real models, slimmed, as TensorRT engines for two generations of GPUs: no larger than the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.backends.engine_file import EngineInfo, read_engine

pytest.importorskip("tensorrt_rtx")
models = pytest.importorskip("torchvision.models")
transformers = pytest.importorskip("transformers")

Made = tuple[nn.Module, Any]


def image(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side)


def tokens(length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 500, (2, length))}


def convolutions(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width, wider in pairwise((3, *widths)):
        layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def bert(**sizes: int) -> nn.Module:
    config = transformers.BertConfig(**sizes)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def llama(**sizes: int) -> nn.Module:
    config = transformers.LlamaConfig(**sizes, use_cache=False)
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


# Large enough for weights to weigh more than the code of kernels.
ONE_LAYER = {
    "hidden_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1376,
    "vocab_size": 512,
}
PREFILL = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1376,
    "vocab_size": 8000,
}

SMALL: Mapping[str, Callable[[], Made]] = {
    "convolutions": lambda: (convolutions(64, 256, 256, 512), image(16)),
    "llama_layer": lambda: (llama(**ONE_LAYER), tokens(16)),
}
LARGE: Mapping[str, Callable[[], Made]] = {
    "resnet50": lambda: (models.resnet50(), image(224)),
    "mobilenet_v2": lambda: (models.mobilenet_v2(), image(224)),
    "vit_b_16": lambda: (models.vit_b_16(), image(224)),
    "bert_base": lambda: (bert(), tokens(64)),
    "llama_prefill": lambda: (llama(**PREFILL), tokens(64)),
}


def settled(model: nn.Module, inputs: Any) -> nn.Module:
    """The model with BatchNorm statistics of its own activations, which would vanish in half precision without."""
    if isinstance(inputs, torch.Tensor):
        with torch.no_grad():
            model.train()(inputs)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = None
            model(inputs)
    return model.eval()


def lowered(module: nn.Module, inputs: Any, folder: Path, capability: str) -> EngineInfo:
    artifact = fxprune.lower(
        module,
        "tensorrt",
        folder / "model.engine",
        example_inputs=inputs,
        package="tensorrt_rtx",
        precision="fp16",
        compute_capability=capability,
        profiles={"batch": (1, 2, 8)},
        tolerance=5e-2,
    )
    assert artifact.largest_relative_error is not None
    info, _ = read_engine(artifact.path)
    return info


def check(make: Callable[[], Made], folder: Path, capability: str) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    settled(model, inputs)
    slim = fxprune.compile(model, "50%", example_inputs=inputs, verify=False)
    before, after = (lowered(module, inputs, folder, capability) for module in (model, slim))
    assert after.size_bytes < before.size_bytes
    # Constants of other sizes may be spelled by a node more or less: one of 1,866 in vit_b_16.
    assert after.network_layers <= 1.01 * before.network_layers
    assert before.engine_layers is not None
    assert after.engine_layers is not None
    assert after.plan_digest is not None
    assert before.plan_digest is None
    assert {each.compute_capability for each in (before, after)} == {capability}
    assert [spec.shape for spec in after.inputs] == [spec.shape for spec in before.inputs]
    assert after.profiles == ({"batch": (1, 2, 8)},)


@pytest.mark.parametrize(("name", "capability"), [("convolutions", "8.9"), ("llama_layer", "12.0")])
def test_small_models(name: str, capability: str, tmp_path: Path) -> None:
    check(SMALL[name], tmp_path, capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["8.9", "12.0"])
@pytest.mark.parametrize("name", list(LARGE))
def test_large_models(name: str, capability: str, tmp_path: Path) -> None:
    check(LARGE[name], tmp_path, capability)
