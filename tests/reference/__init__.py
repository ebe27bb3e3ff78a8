"""The reference interpreter: what a cut model must compute, said without any of fxprune's own code."""

from tests.reference.grids import compact
from tests.reference.interpreter import alive_shapes, masked_outputs, masked_values
from tests.reference.values import Masked

__all__ = ["Masked", "alive_shapes", "compact", "masked_outputs", "masked_values"]
