"""Random modules: what fxprune's tests are run on besides real models. Nothing here knows fxprune."""

from tests.randomgraphs.generator import RandomModule, dynamic_batch, random_module, random_modules
from tests.randomgraphs.registry import BLOCKS

__all__ = ["BLOCKS", "RandomModule", "dynamic_batch", "random_module", "random_modules"]
