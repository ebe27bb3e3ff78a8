"""Search: from importances, costs and limits to one width per group."""

from fxprune.search.choices import Choices, build_choices
from fxprune.search.fast import search_fast
from fxprune.search.further import FurtherCosts
from fxprune.search.methods import METHODS, search
from fxprune.search.problem import Costs
from fxprune.search.roomy import search_roomy

__all__ = ["METHODS", "Choices", "Costs", "FurtherCosts", "build_choices", "search", "search_fast", "search_roomy"]
