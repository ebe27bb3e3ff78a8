"""fxprune: a structured-pruning compiler over torch.fx. A trained model and a budget in, a smaller dense model out."""

from fxprune.analysis import Analysis, analyze
from fxprune.apply import Sayable, apply, rewritten, sayable
from fxprune.bench import bench
from fxprune.compile import compile
from fxprune.depth import Depth
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
from fxprune.files import load, restore, save
from fxprune.front import Front, Point
from fxprune.grid import Grid
from fxprune.hidden_states import hidden_state_loss
from fxprune.iterate import iterate
from fxprune.kv_cache import KVCache
from fxprune.latency import LatencyModel, latency_model
from fxprune.lower import lower
from fxprune.plan import Plan
from fxprune.planning import plan
from fxprune.profile import profile
from fxprune.report import Report
from fxprune.rules import Role, rule
from fxprune.score import score
from fxprune.scorer import Context, Scorer
from fxprune.scores import Curve, Scores
from fxprune.shards import CutCheckpoint, apply_to_checkpoint
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
    "CutCheckpoint",
    "Depth",
    "Distiller",
    "Front",
    "FxpruneError",
    "GraphError",
    "Grid",
    "InfeasibleBudget",
    "InputError",
    "KVCache",
    "LatencyModel",
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
    "apply_to_checkpoint",
    "bench",
    "compile",
    "distillation_loss",
    "hidden_state_loss",
    "iterate",
    "latency_model",
    "load",
    "lower",
    "plan",
    "profile",
    "restore",
    "rewritten",
    "rule",
    "save",
    "sayable",
    "score",
    "sweep",
]
