"""Properties of axis expressions, their unification, and what cuts make of them."""
