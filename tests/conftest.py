"""What all tests share: one thread, and torchvision's operators where its compiled extension does not load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

# One: tests run small operations, and threads that wait for each other cost more than they bring on a busy machine.
torch.set_num_threads(1)


def _extension_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    libraries = sorted(Path(spec.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(library)
    except OSError:
        return False
    return bool(libraries)


def _declare_torchvision_operators() -> torch.library.Library | None:
    """Declare what `import torchvision` registers shape functions for, so that it imports and its classifiers build."""
    if _extension_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# The declarations last as long as the object: it has to outlive every test.
TORCHVISION_OPERATORS = _declare_torchvision_operators()
