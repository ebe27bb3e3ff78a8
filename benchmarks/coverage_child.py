"""One model and one library in a process of its own: measure, and print a JSON line whenever something new is known.

    python -m benchmarks.coverage_child fxprune timm/levit_128s [--onnx] [--apply]

The last line is the result. A process that is ended for its time or its memory has told what it found until then.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.coverage_models import UnavailableError, find, make, parameters

_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/\"']+/)+(?=[^\s/\"']*\.)")


@dataclass(slots=True)
class Record:
    """What is known so far, and where it is told.

    Attributes:
        stream: where lines go.
        found: the findings.
        stage: what is being done.
    """

    stream: IO[str]
    found: dict[str, Any] = field(default_factory=dict)
    stage: str = "import"

    def tell(self, **findings: Any) -> None:
        """Add findings and print all."""
        self.found.update(findings)
        self.stream.write(json.dumps({**self.found, "stage": self.stage, "peak_mib": peak()}) + "\n")
        self.stream.flush()

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Name the stage, and add its seconds."""
        self.stage = stage
        self.tell()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds(stage, time.perf_counter() - started)

    def seconds(self, stage: str, value: float) -> None:
        """Note a duration."""
        self.found.setdefault("seconds", {})[stage] = round(value, 4)


def peak() -> int:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def machine() -> str:
    """The processor and its number of cores."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores"


def versions(*packages: str) -> dict[str, str]:
    """Those of the packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def describe(error: BaseException) -> dict[str, str]:
    """Class and first lines of an error, files by their names alone, and the line of code that raised it."""
    text = " / ".join(line.strip() for line in str(error).strip().splitlines()[:3])
    text = _FOLDERS.sub("", text)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
    return {"type": type(error).__name__, "message": text[:300], "where": where}


def measure(library: str, name: str, record: Record, options: argparse.Namespace) -> None:
    """Build the model and hand it to the library's own measurement."""
    import torch

    torch.set_num_threads(1)
    record.found["machine"] = machine()
    record.found["versions"] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    record.found["versions"] |= versions(find(name).source.split()[0].lower())
    try:
        with record.during("build"):
            example = make(find(name))
    except UnavailableError as error:
        record.tell(status="unavailable", failure=describe(error))
        return
    except Exception as error:
        record.tell(status="broken", failure=describe(error))
        return
    record.tell(parameters=parameters(example.model))
    if library == "fxprune":
        record.found["versions"] |= versions("onnxruntime") if options.onnx else {}
        from benchmarks.coverage_fxprune import measure_fxprune

        measure_fxprune(example, record, onnx=options.onnx, apply=options.apply)
    elif library == "torch-pruning":
        from benchmarks.coverage_torch_pruning import measure_torch_pruning

        measure_torch_pruning(example, record)
    else:
        from benchmarks.coverage_modelopt import measure_modelopt

        measure_modelopt(example, record)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, and keep what libraries print away from the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=("fxprune", "torch-pruning", "modelopt"))
    parser.add_argument("model")
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--apply", action="store_true")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    record = Record(sys.stdout)
    with contextlib.redirect_stdout(sys.stderr):
        measure(options.library, options.model, record, options)


if __name__ == "__main__":
    main()
