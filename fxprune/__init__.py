"""fxprune: a structured-pruning compiler over torch.fx. A trained model and a budget in, a smaller dense model out."""

from fxprune.analysis import Analysis, analyze
from fxprune.apply import Sayable, apply, rewritten, sayable
from fxprune.bench import bench
from fxprune.compile import compile
from fxprune.distill import Distiller, distillation_loss
from fxprune.errors import (
    BackendError,
    BudgetError,
    CannotApply,
    CaptureError,
    CheckpointError,
    CouplingConflict,
    FxpruneError,
    GraphError,
    InfeasibleBudget,
    InputError,
    PluginError,
    RewriteError,
    VerificationError,
)
from fxprune.front import Front, Point
from fxprune.iterate import iterate
from fxprune.lower import lower
from fxprune.plan import Plan
from fxprune.profile import profile
from fxprune.report import Report
from fxprune.rules import Role, rule
from fxprune.scorer import Context, Scorer
from fxprune.scores import Curve, Scores
from fxprune.slim_module import SlimModule
from fxprune.sweep import sweep
from fxprune.version import __version__

__all__ = [
    "Analysis",
    "BackendError",
    "BudgetError",
    "CannotApply",
    "CaptureError",
    "CheckpointError",
    "Context",
    "CouplingConflict",
    "Curve",
    "Distiller",
    "Front",
    "FxpruneError",
    "GraphError",
    "InfeasibleBudget",
    "InputError",
    "Plan",
    "PluginError",
    "Point",
    "Report",
    "RewriteError",
    "Role",
    "Sayable",
    "Scorer",
    "Scores",
    "SlimModule",
    "VerificationError",
    "__version__",
    "analyze",
    "apply",
    "bench",
    "compile",
    "distillation_loss",
    "iterate",
    "lower",
    "profile",
    "rewritten",
    "rule",
    "sayable",
    "sweep",
]
