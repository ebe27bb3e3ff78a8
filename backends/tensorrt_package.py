"""Which of the two packages of TensorRT is used, and which GPU it builds for.

`tensorrt` and `tensorrt_rtx` have one Python API. The first times kernels on the GPU that it builds for, so it needs
one; the second compiles on the CPU for a compute capability that is asked for, and finishes on the user's machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from fxprune.errors import BackendError

INSTALL = (
    "pip install 'fxprune[onnx,tensorrt]' (builds on the GPU) or 'fxprune[onnx,tensorrt-rtx]' (needs none to build)"
)
NAMES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, slots=True)
class Package:
    """One of the packages, imported.

    Attributes:
        name: `tensorrt` or `tensorrt_rtx`.
        module: what `import` gave.
    """

    name: str
    module: Any

    @property
    def version(self) -> str:
        """Its version; an engine runs only with the one it was built with."""
        return str(self.module.__version__)

    @property
    def portable(self) -> bool:
        """Whether it builds for GPUs that are not there."""
        return self.name == "tensorrt_rtx"

    def capabilities(self) -> dict[str, Any]:
        """Compute capabilities that it builds for without the GPU, such as `8.9` -> the package's own value."""
        known = getattr(self.module, "ComputeCapability", None)
        names = [name for name in dir(known) if name.startswith("SM")] if self.portable else []
        found = {f"{name[2:-1]}.{name[-1]}": getattr(known, name) for name in names}
        return dict(sorted(found.items(), key=lambda item: float(item[0])))


def choose_package(name: str | None = None) -> Package:
    """The package called `name`; None for `tensorrt` where it and a GPU are there, else `tensorrt_rtx`, else `tensorrt`.

    Raises:
        BackendError: it is not installed, or there is no such package.
    """
    if name is not None:
        name = name.replace("-", "_")
        if name not in NAMES:
            raise BackendError(f"package={name!r} is none of TensorRT's: pass {' or '.join(map(repr, NAMES))}")
        return _imported(name)
    order = NAMES if current_capability() is not None else NAMES[::-1]
    for each in order:
        try:
            return _imported(each)
        except BackendError:
            continue
    raise BackendError(f"neither of the packages 'tensorrt' and 'tensorrt_rtx' can be imported: {INSTALL}")


def current_capability() -> str | None:
    """Compute capability of this machine's current GPU, such as `9.0`; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return "{}.{}".format(*torch.cuda.get_device_capability())


def choose_capability(
    package: Package, wanted: str | None, current: Callable[[], str | None] = current_capability
) -> str:
    """The compute capability to build for: the one wanted, else this machine's GPU's.

    Raises:
        BackendError: there is no GPU and none is named, or the package cannot build for it.
    """
    here, known = current(), package.capabilities()
    choice = str(wanted or here or "")
    if not choice:
        raise BackendError(
            "there is no GPU here to build an engine for: name one by its compute capability, such as "
            f"compute_capability='8.9'; {_what_builds(package)}"
        )
    if choice != here and choice not in known:
        gpu = "there is no GPU here" if here is None else f"the GPU here has {here}"
        raise BackendError(
            f"{package.name} {package.version} cannot build for compute capability {choice} ({gpu}): "
            f"{_what_builds(package)}"
        )
    return choice


def _imported(name: str) -> Package:
    try:
        return Package(name, import_module(name))
    except (ImportError, OSError) as error:  # OSError: a library that it loads is missing
        raise BackendError(f"the package {name!r} cannot be imported ({error}): {INSTALL}") from error


def _what_builds(package: Package) -> str:
    if package.portable:
        return f"{package.name} builds for {', '.join(package.capabilities())} on any machine"
    return "tensorrt builds for the GPU it runs on, tensorrt-rtx for others: package='tensorrt_rtx'"
