"""What the quality benchmark consists of: networks, methods, sizes and recipes. Imports nothing heavy.

A *network* is an architecture on a task; one *job* is a network, a training seed and a method, at all budgets and, where the
method has it, with and without reconstruction: each of those is a *variant* and becomes a line of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

BUDGETS = (0.5, 0.25)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum 0.9, a warm-up of one epoch, cosine to nothing.

    Attributes:
        epochs: times that every training image is seen.
        rate: the highest learning rate.
        batch: images to a step.
        decay: weight decay.
        warm: epochs in which the learning rate climbs.
    """

    epochs: int
    rate: float
    batch: int
    decay: float = 5e-4
    warm: int = 1


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is.

    Attributes:
        seeds: training seeds.
        images: training, held-out and test images of the generated task, and their side.
        digits: side of the digits, and how many of the training images are used at most.
        calibration: training images that methods may look at.
        recipes: by task.
        tuning: lengths of fine-tuning in epochs.
        tries: how often a library that has no budget of its own is asked, to come close under one.
    """

    seeds: tuple[int, ...]
    images: tuple[int, int, int, int]
    digits: tuple[int, int]
    calibration: int
    recipes: dict[str, Recipe]
    tuning: tuple[int, ...]
    tries: int


FULL = Scale(
    seeds=(0, 1, 2),
    images=(18_000, 2_000, 5_000, 32),
    digits=(16, 10_000),
    calibration=2_048,
    recipes={"images": Recipe(40, 0.1, 256), "digits": Recipe(30, 0.1, 64)},
    tuning=(3, 10),
    tries=10,
)
QUICK = Scale(
    seeds=(0,),
    images=(96, 32, 64, 16),
    digits=(8, 96),
    calibration=32,
    recipes={"images": Recipe(1, 0.05, 32), "digits": Recipe(1, 0.05, 32)},
    tuning=(1, 2),
    tries=3,
)


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture on a task."""

    task: str
    architecture: str

    @property
    def name(self) -> str:
        """How results call it."""
        return f"{self.task}/{self.architecture}"


NETWORKS = (Network("digits", "resnet20"), Network("images", "resnet20"), Network("images", "mobilenetv2"))


@dataclass(frozen=True, slots=True)
class Method:
    """A way to choose what to cut.

    Attributes:
        library: who does it.
        criterion: the scorer or importance.
        needs: the most that it looks at beside the weights: "weights", "images" or "labels".
        steps: pruning steps.
        reconstructs: whether there is a variant with reconstruction.
    """

    library: str
    criterion: str
    needs: str
    steps: int = 1
    reconstructs: bool = False

    @property
    def name(self) -> str:
        """How results call it."""
        steps = f", {self.steps} steps" if self.steps > 1 else ""
        return f"{self.library} {self.criterion}{steps}"

    def variants(self) -> list[Variant]:
        """One for every budget, with and without reconstruction where there is that."""
        choices = (False, True) if self.reconstructs else (False,)
        return [Variant(budget, choice) for budget in BUDGETS for choice in choices]


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of results of a job: a share of the FLOPs, and whether consumers are reconstructed."""

    budget: float
    reconstruct: bool = False


FXPRUNE = "fxprune"
TORCH_PRUNING = "torch-pruning"
MODELOPT = "modelopt"

METHODS = (
    *(
        Method(FXPRUNE, scorer, needs, reconstructs=True)
        for scorer, needs in (
            ("fastnas", "labels"),
            ("obs", "images"),
            ("gradnas", "labels"),
            ("taylor", "labels"),
            ("magnitude", "weights"),
            ("random", "weights"),
        )
    ),
    *(
        Method(TORCH_PRUNING, importance, needs, steps)
        for importance, needs in (("hessian", "labels"), ("taylor", "labels"), ("magnitude", "weights"))
        for steps in (5, 1)
    ),
    Method(MODELOPT, "fastnas", "labels"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """What one request to a worker asks for.

    Attributes:
        stage: "train" or "prune".
        network: name of the network.
        seed: training seed.
        method: name of the method; "" to train.
        wanted: the variants that have no result yet.
        difficulty: of the generated images, where it is not the default.
    """

    stage: str
    network: str
    seed: int
    method: str = ""
    wanted: tuple[Variant, ...] = ()
    difficulty: float | None = None


def network(name: str) -> Network:
    """The network of that name."""
    return next(each for each in NETWORKS if each.name == name)


def method(name: str) -> Method:
    """The method of that name."""
    return next(each for each in METHODS if each.name == name)


def select_networks(patterns: Sequence[str]) -> list[Network]:
    """Networks whose name matches a pattern; all without patterns."""
    return [each for each in NETWORKS if _matches(each.name, patterns)]


def select_methods(patterns: Sequence[str], known: Sequence[str]) -> list[Method]:
    """Methods whose name matches a pattern, of fxprune's only those whose scorer it knows."""
    found = [each for each in METHODS if _matches(each.name, patterns)]
    return [each for each in found if each.library != FXPRUNE or each.criterion in known]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
