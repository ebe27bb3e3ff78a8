"""Models of the latency benchmark, and each of them pruned by Torch-Pruning to a share of its FLOPs.

Weights are random: latency does not depend on them. Torch-Pruning is called as its own examples call it for each family:

- CNNs: group magnitude, one ratio for all layers, the classifier ignored;
- torchvision's ViT: heads keep their number, so widths are multiples of it (`round_to`), and `hidden_dim` is set afterwards;
- BERT: heads declared, their width is cut, and the sizes in the attention modules that pruning does not know are set after.

It has no budget, so the ratio is bisected until the FLOPs come just under it, each try on a fresh copy; `round_to` is what
its users have to make widths fit the hardware.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_compare import count_flops
from benchmarks.coverage_models import Example
from benchmarks.torch_pruning_budget import fresh_groupings, largest_within
from fxprune.capture import no_fast_path
from fxprune.cli.vision_operators import declare_vision_operators

TRIES = 9
"""Of bisection: the ratio is known to a five-hundredth."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of the benchmark.

    Attributes:
        make: the model in eval mode.
        example: positional input of a batch size.
        channels_last: whether it is a CNN, whose images and weights are laid out with channels last on a GPU.
        heads: what Torch-Pruning's widths have to be a multiple of.
        options: of Torch-Pruning's pruner, for a copy of the model.
        finish: sets sizes that Torch-Pruning leaves as they were.
    """

    make: Callable[[], nn.Module]
    example: Callable[[int], Tensor]
    channels_last: bool
    heads: int
    options: Callable[[Any], dict[str, Any]]
    finish: Callable[[Any, Any], None]


def flops_of(model: nn.Module, example: Tensor) -> int:
    """FLOPs of one call, as torch counts them; attention by its parts, which the counter does not see in fused operations."""
    with no_fast_path():
        return count_flops(model, Example(model, (example,), None))


def bisect_torch_pruning(
    subject: Subject, model: nn.Module, share: float, round_to: int | None
) -> tuple[float, nn.Module]:
    """The largest model within a share of the FLOPs that bisection of the ratio meets, with its ratio.

    Raises:
        ValueError: no ratio comes under the budget.
    """
    example = subject.example(1)
    return largest_within(
        lambda ratio: prune_torch_pruning(subject, model, ratio, round_to),
        lambda made: flops_of(made, example),
        share * flops_of(model, example),
        TRIES,
    )


def prune_torch_pruning(subject: Subject, model: nn.Module, ratio: float, round_to: int | None) -> nn.Module:
    """A copy of the model, pruned by a ratio of its widths that are multiples of `round_to`."""
    library: Any = importlib.import_module("torch_pruning")
    made: Any = copy.deepcopy(model).requires_grad_(True)
    multiple = math.lcm(round_to or 1, subject.heads)
    pruner = library.pruner.BasePruner(
        made,
        subject.example(1),
        importance=library.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=multiple if multiple > 1 else None,
        **subject.options(made),
        **fresh_groupings(),
    )
    pruner.step()
    subject.finish(made, pruner)
    slim: nn.Module = made.eval().requires_grad_(False)
    return slim


def _torchvision(name: str, heads: int = 1) -> Subject:
    """One of torchvision's models; `heads` above 1 for its vision transformers."""
    from fxprune.cli.models import load_model

    return Subject(
        make=lambda: load_model(f"torchvision.models:{name}"),
        example=lambda batch: torch.randn(batch, 3, 224, 224),
        channels_last=heads == 1,
        heads=heads,
        options=_vision_options,
        finish=_set_hidden_dim,
    )


def _vision_options(model: Any) -> dict[str, Any]:
    last = [module for module in model.modules() if getattr(module, "out_features", None) == 1000]
    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    return {"ignored_layers": last, "num_heads": {each: each.num_heads for each in attention}}


def _set_hidden_dim(model: Any, _: Any) -> None:
    if hasattr(model, "hidden_dim"):
        model.hidden_dim = model.conv_proj.out_channels


def _bert() -> Subject:
    """BERT-base with a classifier, on sequences of 128 tokens."""
    return Subject(
        _make_bert, lambda batch: torch.randint(0, 30_000, (batch, 128)), False, 12, _bert_options, _set_heads
    )


def _make_bert() -> nn.Module:
    declare_vision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    made: nn.Module = BertForSequenceClassification(BertConfig())
    return made.eval()


def _bert_options(model: Any) -> dict[str, Any]:
    heads = {
        projection: layer.attention.self.num_attention_heads
        for layer in model.bert.encoder.layer
        for projection in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
    }
    return {
        "num_heads": heads,
        "ignored_layers": [model.classifier],
        "output_transform": lambda output: output["logits"],
    }


def _set_heads(model: Any, pruner: Any) -> None:
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
        attention.attention_head_size = attention.all_head_size // attention.num_attention_heads
        attention.scaling = attention.attention_head_size**-0.5


SUBJECTS: Mapping[str, Subject] = {
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "vit_b_16": _torchvision("vit_b_16", heads=12),
    "bert": _bert(),
}
