"""What the language-model benchmark consists of: sizes, recipes, cases."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.llm_train import Recipe, Shape

SHARES = (0.8, 0.6)
MODES = ("width", "depth", "both")
LONGER = ", distilled longer"
METHODS = {
    "minitron + reconstruct": MODES,
    f"minitron + reconstruct{LONGER}": MODES,
    "minitron": MODES,
    "magnitude": ("width",),
    "magnitude + reconstruct": ("width",),
    "random": MODES,
    "Torch-Pruning L2": ("width",),
    "from nothing": MODES,
}
"""Ways to prune, and how each can. Magnitude and Torch-Pruning have nothing to rank layers by; "from nothing" trains the
shape that Minitron finds."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is.

    Attributes:
        shape: of the model.
        bytes: of text.
        training: of the original.
        tuning: distillation, and training from nothing.
        longer: distillation of the methods that say so.
        calibration: sequences that methods may look at.
        tested: held-out sequences for perplexity.
    """

    shape: Shape
    bytes: int
    training: Recipe
    tuning: Recipe
    longer: Recipe
    calibration: int
    tested: int


FULL = Scale(
    Shape(4096, 512, 1408, 10, 8, 4, 64),
    150_000_000,
    Recipe(3000, 64, 512, 1e-3),
    Recipe(300, 32, 512, 5e-4, seed=1),
    Recipe(1500, 32, 512, 5e-4, seed=1),
    calibration=256,
    tested=256,
)
QUICK = Scale(
    Shape(512, 64, 128, 5, 4, 2, 16),
    2_000_000,
    Recipe(60, 8, 64, 3e-3),
    Recipe(10, 8, 64, 1e-3, seed=1),
    Recipe(20, 8, 64, 1e-3, seed=1),
    calibration=16,
    tested=16,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One pruned model: how many of the parameters, what is cut, by which method."""

    share: float
    mode: str
    method: str

    @property
    def name(self) -> str:
        """How results call it."""
        return f"{self.share:.0%}, {self.mode}, {self.method}"


def cases() -> list[Case]:
    """All of them, what matters most first."""
    return [Case(share, mode, method) for method, modes in METHODS.items() for share in SHARES for mode in modes]
