"""diffusers' part of the zoo: denoisers and autoencoders from small configurations."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.coverage_models import BATCH, Entry, Example, UnavailableError
from benchmarks.coverage_torchvision import load_torchvision


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one architecture is made small.

    Attributes:
        config: arguments of the class.
        shapes: shape of each floating-point input behind the batch dimension, by its keyword.
        integers: number of values of each integer input of one element per example, by its keyword.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    integers: Mapping[str, int]


IMAGE = (3, 32, 32)
LATENT = (4, 16, 16)
TIME = {"timestep": 1000}
TOKENS = (8, 32)

RECIPES = {
    "AutoencoderKL": Recipe(
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 8,
        },
        {"sample": IMAGE},
        {},
    ),
    "AutoencoderTiny": Recipe(
        {"encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32)}
        | {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1)},
        {"sample": IMAGE},
        {},
    ),
    "DiTTransformer2DModel": Recipe(
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "sample_size": 16,
        }
        | {"num_embeds_ada_norm": 10, "norm_num_groups": 8},
        {"hidden_states": LATENT},
        {**TIME, "class_labels": 10},
    ),
    "PixArtTransformer2DModel": Recipe(
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "num_layers": 2,
            "sample_size": 16,
            "cross_attention_dim": 64,
        }
        | {"caption_channels": 32, "use_additional_conditions": False, "norm_num_groups": 8},
        {"hidden_states": LATENT, "encoder_hidden_states": TOKENS},
        TIME,
    ),
    "SD3Transformer2DModel": Recipe(
        {
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
        }
        | {
            "joint_attention_dim": 32,
            "caption_projection_dim": 64,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        {"hidden_states": LATENT, "encoder_hidden_states": TOKENS, "pooled_projections": (32,)},
        TIME,
    ),
    "UNet2DConditionModel": Recipe(
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            "norm_num_groups": 8,
            "sample_size": 16,
        },
        {"sample": LATENT, "encoder_hidden_states": TOKENS},
        TIME,
    ),
    "UNet2DModel": Recipe(
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 8,
            "norm_num_groups": 8,
            "sample_size": 32,
        },
        {"sample": IMAGE},
        TIME,
    ),
}


def entries() -> Iterator[Entry]:
    """One entry for every class."""
    for name, recipe in RECIPES.items():
        yield Entry(f"diffusers/{name}", "diffusers", name, partial(_build, name, recipe))


def _build(name: str, recipe: Recipe) -> Example:
    import torch

    library = load_diffusers()
    if not hasattr(library, name):
        msg = f"this diffusers has no {name}"
        raise UnavailableError(msg)
    model = getattr(library, name)(**recipe.config)
    inputs = {key: torch.randn(BATCH, *shape) for key, shape in recipe.shapes.items()}
    inputs |= {key: torch.randint(0, values, (BATCH,)) for key, values in recipe.integers.items()}
    return Example(model, inputs, None)


def load_diffusers() -> Any:
    """The library, offline."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with contextlib.suppress(UnavailableError):
        load_torchvision()  # which diffusers imports where it is installed
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UnavailableError(str(error)) from error
