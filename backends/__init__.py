"""Where a slim module runs: the backends, what they write, and how latency is measured on all of them alike."""

from fxprune.backends.base import Artifact, Backend, Runner, TensorSpec, measure_module
from fxprune.backends.intervals import Interval, median_interval
from fxprune.backends.measure import (
    DEFAULT_TIMING,
    Latency,
    Timing,
    cuda_clock,
    measure,
    measure_side_by_side,
    wall_clock,
)
from fxprune.backends.parity import TOLERANCES, compare_outputs, relative_error
from fxprune.backends.registry import backend_names, get_backend, get_usable_backend

__all__ = [
    "DEFAULT_TIMING",
    "TOLERANCES",
    "Artifact",
    "Backend",
    "Interval",
    "Latency",
    "Runner",
    "TensorSpec",
    "Timing",
    "backend_names",
    "compare_outputs",
    "cuda_clock",
    "get_backend",
    "get_usable_backend",
    "measure",
    "measure_module",
    "measure_side_by_side",
    "median_interval",
    "relative_error",
    "wall_clock",
]
