"""FLOPs, parameters and memory of a model as functions of the sizes of its dependency groups."""

from fxprune.costs import einsum as einsum  # registers its formula
from fxprune.costs import products as products  # registers its formulas
from fxprune.costs.costs import Costs, build_costs
from fxprune.costs.formulas import flops, unregister_flops
from fxprune.costs.polynomial import Monomial, Shape

__all__ = ["Costs", "Monomial", "Shape", "build_costs", "flops", "unregister_flops"]
