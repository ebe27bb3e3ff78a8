"""The user's own class, slimmed."""

from fxprune.apply.application import apply
from fxprune.apply.followed import rewritten
from fxprune.apply.sayable import Sayable, sayable
from fxprune.apply.slicing import slice_tensor

__all__ = ["Sayable", "apply", "rewritten", "sayable", "slice_tensor"]
