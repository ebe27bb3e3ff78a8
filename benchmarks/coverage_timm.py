"""timm's part of the zoo: of every module the model with the smallest product of parameters and pixels, and some more.

`smallest` finds them anew, which takes a quarter of an hour; the table keeps what it found with timm 1.0.31. A module
whose models all have more than 120 M parameters is left out (`TOO_LARGE`), and models that timm keeps for its own
tests (`test_...`) do not count. The image size is that of the model's `default_cfg` (but see `SHAPES`). `MORE` names
models that differ from the one that stands for their module.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.coverage_models import LIMIT, Entry, Example, UnavailableError, images, parameters
from benchmarks.coverage_torchvision import load_torchvision

SMALLEST = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_zepto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "tinynet_e",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
TOO_LARGE = ("deepseek_vit", "gemma4_vit", "vgg")
MORE = {
    "byoanet": ("eca_botnext26ts_256",),
    "byobnet": ("repvgg_a0",),
    "convnext": ("convnextv2_atto",),
    "cspnet": ("cspdarknet53",),
    "efficientnet": ("efficientnet_b0",),
    "maxxvit": ("coatnet_nano_rw_224",),
    "metaformer": ("caformer_s18",),
    "mlp_mixer": ("mixer_s32_224", "resmlp_12_224"),
    "mobilenetv3": ("mobilenetv4_conv_small",),
    "mobilevit": ("mobilevitv2_050",),
    "nfnet": ("nfnet_l0",),
    "regnet": ("regnety_002",),
    "resnet": ("ecaresnet26t",),
    "swin_transformer_v2": ("swinv2_tiny_window8_256",),
    "vision_transformer": ("vit_base_patch32_224",),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224",),
}

SHAPES = {"qwen3_vit_88m": (3, 384, 384)}
"""Models of any image size that would take longer at their default one than all others."""


def entries() -> Iterator[Entry]:
    """One entry for every module, then the others."""
    chosen = list(SMALLEST.items())
    chosen += [(module, name) for module, names in MORE.items() for name in names]
    for module, name in chosen:
        yield Entry(f"timm/{name}", "timm", module, partial(_build, name))


def load_timm() -> Any:
    """The library, quiet."""
    load_torchvision()
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UnavailableError(str(error)) from error


def _build(name: str) -> Example:
    timm = load_timm()
    if name not in timm.list_models():
        msg = f"this timm has no {name}"
        raise UnavailableError(msg)
    model = timm.create_model(name, pretrained=False)
    shape = model.default_cfg["input_size"]
    return Example(model, images(*SHAPES.get(name, shape)), model.num_classes or None)


def modules() -> dict[str, list[str]]:
    """Names of the models of every module of the installed timm."""
    timm = load_timm()
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        if not name.startswith("test_"):
            found.setdefault(timm.models.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)
    return found


def smallest(module: str) -> str | None:
    """The model of a module with the smallest product of parameters and pixels; None where all are too large."""
    import torch

    timm = load_timm()
    sizes: dict[str, int] = {}
    for name in modules()[module]:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
        if parameters(model) <= LIMIT:
            height, width = model.default_cfg["input_size"][1:]
            sizes[name] = parameters(model) * height * width
    return min(sizes, key=lambda name: (sizes[name], name), default=None)
