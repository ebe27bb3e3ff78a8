"""ModelOpt's FastNAS on one model, as a newcomer calls it: convert, take the smallest subnet, export, forward.

The space of subnets is called usable if the largest has at least three times the parameters of the smallest, ModelOpt's
own rule of thumb.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from benchmarks.coverage_child import Record, describe
from benchmarks.coverage_compare import count_flops, outputs, without_cache
from benchmarks.coverage_models import Example, parameters

USABLE = 3.0


def measure_modelopt(example: Example, record: Record) -> None:
    """Fill the record."""
    record.found["versions"]["modelopt"] = importlib.metadata.version("nvidia-modelopt")
    expected = outputs(without_cache(example.model), example)
    library: Any = importlib.import_module("modelopt.torch.nas")
    try:
        with record.during("convert"):
            model = library.convert(without_cache(example.model), "fastnas")
        with record.during("export"):
            library.sample(model, min)
            model = library.export(model)
        record.tell(parameters_after=parameters(model))
        with record.during("forward"):
            actual = outputs(model, example)
    except Exception as error:
        record.tell(status="failed", failure=describe(error))
        return
    ratio = parameters(example.model) / parameters(model)
    same = [each.shape for each in actual] == [each.shape for each in expected]
    record.tell(status="usable" if ratio >= USABLE else "runs", ratio=ratio, keeps_outputs=same)
    record.tell(flops=[count_flops(example.model, example), count_flops(model, example)])
    record.stage = "done"
    record.tell()
