"""A process that has imported what one library's measurements need, and forks a process for each of them.

    python -m benchmarks.coverage_warm LIBRARY

Imports take longer than many a measurement. Each line of the standard input names a folder and the arguments of
`coverage_child`: the fork writes its results to `out` and its errors to `errors` in that folder. A second fork between
the two waits for it: it writes the process id to `pid`, and the exit code to `code` once there is one. At the end of the
input the process ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks import coverage_child
from benchmarks.coverage_diffusers import load_diffusers
from benchmarks.coverage_models import UnavailableError
from benchmarks.coverage_timm import load_timm
from benchmarks.coverage_transformers import load_transformers

NEEDS = {
    "fxprune": ("benchmarks.coverage_fxprune", "onnxscript.optimizer", "onnxruntime"),
    "torch-pruning": ("benchmarks.coverage_torch_pruning", "torch_pruning", "fxprune.capture"),
    "modelopt": ("benchmarks.coverage_modelopt", "modelopt.torch.nas"),
}
SHARED = ("torch.export", "torch._dynamo", "transformers.modeling_utils", "diffusers.models.modeling_utils")


def main() -> None:
    """Import, then fork for each line."""
    library = sys.argv[1]
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
        preload(library)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        if os.fork() == 0:
            keep(Path(folder), arguments)


def preload(library: str) -> None:
    """Import what most measurements use; what is missing shows there."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # or it begins a thread, and forks have one only
    for load in (load_timm, load_transformers, load_diffusers):
        with contextlib.suppress(UnavailableError):
            load()
    for name in (*SHARED, "tests.reference", *NEEDS[library]):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if library == "fxprune":
        rehearse()


def rehearse() -> None:
    """Export a small module both ways, for all that torch imports and sets up when it is first needed."""
    import torch

    import fxprune

    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    slim = fxprune.compile(layers, "90%", example_inputs=(torch.randn(2, 4),))
    with tempfile.TemporaryDirectory() as folder:
        fxprune.lower(slim, "onnx", Path(folder) / "layers.onnx", verify=False)


def keep(folder: Path, arguments: Sequence[str]) -> None:
    """Fork once more, say who that is and how it ended, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if worker == 0:
        work(folder, arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # which a whole group of processes may be sent
        signal.signal(number, signal.SIG_IGN)
    write(folder / "pid", worker)
    _, status = os.waitpid(worker, 0)
    with contextlib.suppress(OSError):  # the folder is gone once nobody asks any more
        write(folder / "code", os.waitstatus_to_exitcode(status))
    os._exit(0)


def work(folder: Path, arguments: Sequence[str]) -> None:
    """Measure with the standard streams in the folder, and end."""
    for number, (path, mode) in enumerate(
        ((Path(os.devnull), os.O_RDONLY), (folder / "out", os.O_WRONLY), (folder / "errors", os.O_WRONLY))
    ):
        os.dup2(os.open(path, mode | os.O_CREAT), number)
    code = 0
    try:
        coverage_child.main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write(path: Path, number: int) -> None:
    """All at once, so that nobody reads half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(str(number))
    fresh.replace(path)


if __name__ == "__main__":
    main()
