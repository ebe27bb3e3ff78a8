"""Transformers' part of the zoo: architectures built from small configurations, with the inputs that they take."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.coverage_models import BATCH, Entry, Example, UnavailableError
from benchmarks.coverage_recipes import VOCABULARY, Recipe
from benchmarks.coverage_torchvision import load_torchvision
from benchmarks.coverage_transformers_text import DECODERS, ENCODERS, EXPERT_MIXTURES, PAIRS, STATE_SPACES
from benchmarks.coverage_transformers_vision import SPEECH, TWO_TOWERS, VISION

KINDS = {
    "decoder": DECODERS,
    "mixture of experts": EXPERT_MIXTURES,
    "state space": STATE_SPACES,
    "encoder": ENCODERS,
    "encoder-decoder": PAIRS,
    "vision": VISION,
    "vision and text": TWO_TOWERS,
    "speech": SPEECH,
}


def entries() -> Iterator[Entry]:
    """One entry for every architecture."""
    for kind, recipes in KINDS.items():
        for name, recipe in recipes.items():
            yield Entry(f"transformers/{name}", "Transformers", kind, partial(_build, name, recipe))


def _build(name: str, recipe: Recipe) -> Example:
    transformers = load_transformers()
    if name not in transformers.CONFIG_MAPPING or not hasattr(transformers, recipe.auto):
        msg = f"this transformers has no {name}"
        raise UnavailableError(msg)
    config = transformers.AutoConfig.for_model(name, **recipe.config)
    maker = getattr(transformers, recipe.auto)
    model = maker.from_config(config) if recipe.auto.startswith("Auto") else maker(config)
    labels = recipe.config.get("num_labels")
    return Example(model, _inputs(recipe), recipe.config.get("vocab_size") if labels is None else labels)


def load_transformers() -> Any:
    """The library, quiet and offline."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with contextlib.suppress(UnavailableError):
        load_torchvision()  # which transformers imports where it is installed
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise UnavailableError(str(error)) from error
    transformers.logging.set_verbosity_error()
    return transformers


def _inputs(recipe: Recipe) -> dict[str, Any]:
    """Random inputs of the recipe's kind."""
    import torch

    size = recipe.config.get("image_size", 64)
    height, width = size if isinstance(size, list) else (size, size)

    def tokens(length: int) -> torch.Tensor:
        return torch.randint(3, VOCABULARY, (BATCH, length))

    def pixels(*before: int) -> torch.Tensor:
        return torch.randn(BATCH, *before, 3, height, width)

    made: dict[str, Callable[[], dict[str, Any]]] = {
        "tokens": lambda: {"input_ids": tokens(32)},
        "pair": lambda: {"input_ids": tokens(16), "decoder_input_ids": tokens(8)},
        "pair with mask": lambda: {
            "input_ids": tokens(16),
            "attention_mask": torch.ones(BATCH, 16, dtype=torch.long),
            "decoder_input_ids": tokens(8),
        },
        "image": lambda: {"pixel_values": pixels()},
        "clip": lambda: {"pixel_values": pixels(4)},
        "image and text": lambda: {"pixel_values": pixels(), "input_ids": tokens(16)},
        "sound": lambda: {"input_values": torch.randn(BATCH, 8000)},
        "spectrogram": lambda: {"input_values": torch.randn(BATCH, 128, 64)},
        "speech": lambda: {"input_features": _features(recipe), "decoder_input_ids": tokens(8)},
    }
    return made[recipe.inputs]()


def _features(recipe: Recipe) -> Any:
    """A spectrogram as the architecture takes it: Whisper's has the bands before the frames."""
    import torch

    return torch.randn(BATCH, 64, 64) if "num_mel_bins" in recipe.config else torch.randn(BATCH, 48, 64)
