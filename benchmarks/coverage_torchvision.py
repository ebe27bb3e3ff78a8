"""torchvision's part of the zoo: every classification, segmentation and video model of up to 120 M parameters.

Images have 224 x 224 pixels (299 x 299 where the architecture needs them), clips 16 frames of 112 x 112 where the
architecture takes any size, and its own size where it does not.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.coverage_models import Entry, Example, UnavailableError, images

CLASSIFICATION = [
    "alexnet",
    "convnext_base",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vit_b_16",
    "vit_b_32",
    "wide_resnet50_2",
]
TOO_LARGE = [
    "convnext_large",
    "regnet_y_128gf",
    "regnet_y_32gf",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
]
"""Classification models of more than 120 M parameters, which are left out."""

SEGMENTATION = [
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "fcn_resnet101",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
]
VIDEO = ["mc3_18", "mvit_v1_b", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "swin3d_b", "swin3d_s", "swin3d_t"]
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}


def entries() -> Iterator[Entry]:
    """Video models first: they take longest."""
    for name in VIDEO:
        frames, size = CLIPS.get(name, (16, 112))
        yield _entry(name, "video", 400, (3, frames, size, size))
    for name in SEGMENTATION:
        yield _entry(name, "segmentation", 21, (3, 224, 224), weights_backbone=None)
    for name in CLASSIFICATION:
        size = 299 if name == "inception_v3" else 224
        # These two would otherwise spend half a minute on SciPy's truncated normal distribution.
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        yield _entry(name, "classification", 1000, (3, size, size), **options)


def _entry(name: str, part: str, classes: int, shape: tuple[int, ...], **options: Any) -> Entry:
    build = partial(_build, name, classes, shape, options)
    return Entry(f"torchvision/{name}", f"torchvision {part}", name, build)


def _build(name: str, classes: int, shape: tuple[int, ...], options: dict[str, Any]) -> Example:
    models = load_torchvision().models
    if name not in models.list_models():
        msg = f"this torchvision has no {name}"
        raise UnavailableError(msg)
    return Example(models.get_model(name, weights=None, **options), images(*shape), classes)


def load_torchvision() -> Any:
    """The library, also where its compiled operators do not fit the installed torch: no model of the zoo uses them."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise UnavailableError(str(error)) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import sys

    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARATIONS.append(library)
    return importlib.import_module("torchvision")


_DECLARATIONS: list[Any] = []
"""The declarations last as long as the objects."""
