"""Why a model could not be captured, on one screen: what failed, where in the user's code, what to do."""

from __future__ import annotations

import inspect
import sysconfig

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.inputs import Inputs


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"


def describe_inputs(inputs: Inputs) -> str:
    """Types and shapes of example inputs, in a line."""
    given = [*enumerate(inputs[0]), *inputs[1].items()]
    texts = []
    for name, value in given:
        label = f"{name}: " if isinstance(name, str) else ""
        what = (
            f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        texts.append(label + what)
    return ", ".join(texts)


def explain_failure(shell: nn.Module, inputs: Inputs, error: Exception) -> str:
    """One screen: what failed, where in the user's code, what to do."""
    lines = [f"{type(shell).__name__} could not be captured: {type(error).__name__}: {first_line(error)}"]
    place = _user_frame(error)
    if place:
        lines.append(f"  at {place}")
    lines.append(f"  example inputs: {describe_inputs(inputs)}; forward{inspect.signature(shell.forward)}")
    lines.append(_devices(shell, inputs) or "If model(*example_inputs) fails too, mend the example inputs.")
    lines.append(
        "fxprune captures models with torch.export. Where forward leaves PyTorch (numpy, say), makes tensors whose sizes "
        "depend on values, or uses code that torch cannot trace, rewrite that part (torch.where, torch.cond), or pass "
        "example inputs that avoid it. "
        "`torch.export.export(model.eval(), args, strict=False)` shows the full story."
    )
    return "\n".join(lines)


def _devices(shell: nn.Module, inputs: Inputs) -> str | None:
    """Said where the example inputs are elsewhere than the model."""
    given = {str(each.device) for each in tree_leaves(inputs) if isinstance(each, Tensor)}
    own = {str(each.device) for each in (*shell.parameters(), *shell.buffers())}
    if not given or not own or given & own:
        return None
    return f"The example inputs are on {', '.join(sorted(given))}, the model is on {', '.join(sorted(own))}: move one of them."


_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + "/"


def _user_frame(error: BaseException) -> str | None:
    """Innermost frame of the traceback that is neither torch's nor fxprune's."""
    found, traceback = None, error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if "/torch/" not in file and "/fxprune/" not in file and not file.startswith(("<", _STANDARD_LIBRARY)):
            found = f"{file}:{traceback.tb_lineno} in {traceback.tb_frame.f_code.co_name}"
        traceback = traceback.tb_next
    return found
