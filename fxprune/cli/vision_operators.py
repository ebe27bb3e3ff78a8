"""torchvision without its compiled operators: its Python part works once the operators that it names are declared.

A torchvision that was installed beside another PyTorch than it was built for fails on import with "operator
torchvision::nms does not exist", although no classification or segmentation model uses that operator. Declaring it
(without an implementation) is enough to import and capture those models; a detection model that really calls it still
fails, with PyTorch's own message.
"""

from __future__ import annotations

import torch

_DECLARED: list[torch.library.Library] = []

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_vision_operators() -> None:
    """Declare torchvision's operators that its import asks for, where they are missing."""
    missing = [schema for schema in _SCHEMAS if not hasattr(torch.ops.torchvision, schema.partition("(")[0])]
    if missing and not _DECLARED:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _DECLARED.append(library)  # the declarations last as long as the library object
