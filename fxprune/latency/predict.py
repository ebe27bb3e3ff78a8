"""`fxprune.latency_model`: a latency model by itself, to predict widths with that no budget asked for, or to see how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.latency.compiling import usable_backend
from fxprune.latency.estimating import build_model
from fxprune.latency.prepared import Effort
from fxprune.latency.stopwatch import Stopwatch
from fxprune.planning import survey
from fxprune.widths import Align, Floor, width_ranges

if TYPE_CHECKING:
    from fxprune.backends.base import Backend
    from fxprune.latency.model import LatencyModel


def latency_model(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    backend: str | Backend | None = None,
    backend_options: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    align: Align | None = None,
    floor: Floor | None = None,
    fitted: int = 8,
    held_out: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> LatencyModel:
    """Measure how latency on a backend depends on the widths of a model's groups.

    What was measured before, on this device with these versions, is taken from the cache (`fxprune.latency.cache`).

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: as for `compile`; latency is that of a call with them.
        backend: where it runs, by name; None for PyTorch itself.
        backend_options: of the backend.
        ignore: names of modules or parameters, or `fnmatch` patterns, whose tensors keep their shape.
        align: the multiple that widths are kept to, as for `compile`.
        floor: smallest widths, as for `compile`.
        fitted: whole candidates that the sum of the tables is fitted to.
        held_out: further whole candidates, which tell how far off predictions are (`.error`, `.held_out`).
        seed: decides which candidates.
        progress: show on the terminal how far it is.

    Returns:
        The model: `.predict({group: width, ...})` in seconds, `.seconds(widths)` for many candidates at once.

    Raises:
        InputError: example inputs are missing, or an argument is unusable.
        CaptureError: the model cannot be captured.
        BackendError: the backend cannot run the model here.

    Example:
        >>> import fxprune, torch  # doctest: +SKIP
        >>> times = fxprune.latency_model(resnet, images, backend="onnxruntime")  # doctest: +SKIP
        >>> times.predict({name: kept for name, (kept, _) in slim.plan.widths.items()}), times.error  # doctest: +SKIP
        (0.0123, 0.04)
    """
    usable = usable_backend(backend)
    analysis = survey(model, example_inputs, ignore=ignore).analysis
    effort = Effort(fitted=fitted, held_out=held_out, seed=seed, progress=progress)
    stopwatch = Stopwatch(usable, dict(backend_options or {}))
    return build_model(analysis, width_ranges(analysis, align, floor), stopwatch, effort)
