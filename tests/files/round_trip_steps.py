"""What one process of `tests.files.round_trips` does for each of its models, and says as a line of JSON.

    write   compile, save, `apply` the plan to the model, save that too; keep what both compute
    again   in a new process: build the model, `restore` it from the file, `apply` the saved plan to another one, save
    load    in a third process, in which the libraries cannot be imported: load all three files

Outputs and state are compared to the last bit; the processes run the same kernels on one thread.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

LIBRARIES = ("torchvision", "timm", "transformers", "diffusers", "benchmarks")
SHARE = "60%"

if TYPE_CHECKING:
    from torch import Tensor, nn


def write(name: str, folder: Path) -> dict[str, Any]:
    """Compile and save; where the user's own class can follow, that too."""
    import torch

    import fxprune
    from benchmarks.coverage_models import find, make

    example = make(find(name))
    slim = fxprune.compile(example.model, SHARE, example_inputs=example.inputs, progress=False).eval()
    fxprune.save(slim, folder / "slim.fxprune")
    slim.plan.save(folder / "plan.json")
    torch.save(outputs(slim, example.inputs), folder / "slim.pt")
    torch.save(example.inputs, folder / "inputs.pt")
    try:
        applied = fxprune.apply(slim.plan, example.model, example_inputs=example.inputs)
    except fxprune.CannotApply as error:
        return {"applies": False, "reason": str(error).splitlines()[0]}
    fxprune.save(applied, folder / "applied.fxprune")
    torch.save(outputs(applied, example.inputs), folder / "applied.pt")
    torch.save(dict(applied.state_dict()), folder / "state.pt")
    return {"applies": True}


def again(name: str, folder: Path) -> dict[str, Any]:
    """The same model, built anew, slimmed by the file and by the plan."""
    import torch

    import fxprune
    from benchmarks.coverage_models import find, make

    model, inputs = make(find(name)).model, torch.load(folder / "inputs.pt")

    def restore() -> nn.Module:
        return fxprune.restore(model, folder / "slim.fxprune")

    def apply() -> nn.Module:
        return fxprune.apply(fxprune.Plan.load(folder / "plan.json"), model, example_inputs=inputs)

    if not (folder / "applied.pt").exists():
        return {"refused": refuses(restore) and refuses(apply)}
    wanted, state = torch.load(folder / "applied.pt"), torch.load(folder / "state.pt")
    restored, applied = restore(), apply()
    fxprune.save(restored, folder / "restored.fxprune")
    return {
        "restored": equal(outputs(restored, inputs), wanted) and equal_state(restored, state),
        "applied": equal(outputs(applied, inputs), wanted) and equal_state(applied, state),
    }


def load(name: str, folder: Path) -> dict[str, Any]:
    """All files of the model, where its source is out of reach."""
    import torch

    import fxprune

    inputs, wanted, found = torch.load(folder / "inputs.pt"), torch.load(folder / "slim.pt"), {}
    for path in sorted(folder.glob("*.fxprune")):
        try:
            slim = fxprune.load(path)
        except fxprune.CheckpointError as error:
            return {"missing": str(error)}
        found[path.stem] = equal(outputs(slim, inputs), wanted)
    return {"loaded": all(found.values()), "files": found}


def refuses(act: Callable[[], object]) -> bool:
    """Whether the class cannot follow here either."""
    import fxprune

    try:
        act()
    except fxprune.CannotApply:
        return True
    return False


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that the model returns in eval mode."""
    import torch
    from torch.utils._pytree import tree_leaves

    torch.manual_seed(0)  # of the few that draw numbers in eval mode
    with torch.no_grad():
        found = model.eval()(**inputs) if isinstance(inputs, dict) else model.eval()(*inputs)
    leaves = tree_leaves(found if not hasattr(found, "to_tuple") else found.to_tuple())
    return [each for each in leaves if isinstance(each, torch.Tensor)]


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """To the last bit."""
    return len(found) == len(wanted) and all(
        one.dtype == other.dtype and one.shape == other.shape and one.equal(other)
        for one, other in zip(found, wanted, strict=True)
    )


def equal_state(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    """The same names in the same order, the same values."""
    state = model.state_dict()
    return list(state) == list(wanted) and equal(list(state.values()), list(wanted.values()))


def main() -> None:
    """`STEP FOLDER "library ..." NAME ...`: one line of JSON for every model."""
    step, folder, blocked = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split()
    for library in blocked:
        sys.modules[library] = None  # type: ignore[assignment]
    import torch

    torch.set_num_threads(1)
    act = {"write": write, "again": again, "load": load}[step]
    for name in sys.argv[4:]:
        own = folder / name.replace("/", "-")
        own.mkdir(exist_ok=True)
        try:
            said = act(name, own)
        except Exception:
            said = {"failed": traceback.format_exc()}
        print(json.dumps({"model": name, "step": step, **said}), flush=True)


if __name__ == "__main__":
    main()
