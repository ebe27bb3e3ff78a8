"""Latency: predicted from measured fragments, limited by budgets, and closed by measuring what was chosen."""

from fxprune.latency.budget import TimeBudget, split_times
from fxprune.latency.compiling import Timekeeping, build_to_time, usable_backend
from fxprune.latency.estimating import build_model
from fxprune.latency.model import LatencyModel
from fxprune.latency.predict import latency_model
from fxprune.latency.prepared import Effort
from fxprune.latency.stopwatch import Stopwatch

__all__ = [
    "Effort",
    "LatencyModel",
    "Stopwatch",
    "TimeBudget",
    "Timekeeping",
    "build_model",
    "build_to_time",
    "latency_model",
    "split_times",
    "usable_backend",
]
