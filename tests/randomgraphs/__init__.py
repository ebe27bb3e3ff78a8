"""Random modules: what fxprune's tests are run on besides real models. Nothing here but the long run knows fxprune."""

from tests.randomgraphs.generator import RandomModule, dynamic_batch, module_and_inputs, random_module
from tests.randomgraphs.registry import BLOCKS, Draw, Seeded

__all__ = ["BLOCKS", "Draw", "RandomModule", "Seeded", "dynamic_batch", "module_and_inputs", "random_module"]
