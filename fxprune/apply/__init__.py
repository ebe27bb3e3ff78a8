"""The user's own class, slimmed."""

from fxprune.apply.application import apply
from fxprune.apply.followed import rewritten
from fxprune.apply.slicing import slice_tensor

__all__ = ["apply", "rewritten", "slice_tensor"]
