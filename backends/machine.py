"""What a measurement ran on: the processor's name, the threads used and the versions that matter."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def describe_device(device: torch.device, threads: int | None = None) -> str:
    """One line such as `AMD EPYC 7B13, 2 threads` or `NVIDIA H200`.

    Args:
        device: where the computation runs.
        threads: threads used on a CPU; None leaves them unsaid.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    return processor_name() if threads is None else f"{processor_name()}, {threads} thread{'s' * (threads != 1)}"


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The CPU's model name where the system tells it, its architecture otherwise."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            # torch's own says for which CUDA it was built, which its metadata may leave out
            found[package] = str(torch.__version__) if package == "torch" else version(package)
        except PackageNotFoundError:
            continue
    return found
