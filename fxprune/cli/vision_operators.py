"""torchvision without its compiled operators: its Python part works once the operators that it names are declared.

A torchvision that was installed beside another PyTorch than it was built for fails on import with "operator
torchvision::nms does not exist", although no classification or segmentation model uses that operator. Declaring it
(without an implementation) is enough to import and capture those models; a detection model that really calls it still
fails, with PyTorch's own message. Where torchvision's compiled part loads, it declares them itself, and to do so twice would
end the process.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_DECLARED: list[torch.library.Library] = []

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_vision_operators() -> None:
    """Declare torchvision's operators that its import asks for, where they are missing."""
    if _DECLARED or _compiled_part_loads():
        return
    missing = [schema for schema in _SCHEMAS if not hasattr(torch.ops.torchvision, schema.partition("(")[0])]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _DECLARED.append(library)  # the declarations last as long as the library object


def _compiled_part_loads() -> bool:
    """Whether torchvision's compiled part is there and fits this PyTorch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    parts = sorted(Path(spec.origin).parent.glob("_C*.so"))
    try:
        for part in parts:
            torch.ops.load_library(part)
    except OSError:
        return False
    return bool(parts)
