"""Which models can be pruned with no help, and is the result right? fxprune beside Torch-Pruning and ModelOpt.

    python benchmarks/coverage.py [--library fxprune|torch-pruning|modelopt]... [--only PATTERN]... [--jobs N] [--limit
                                  SECONDS] [--python-torch-pruning PYTHON] [--python-modelopt PYTHON] [--onnx] [--apply]
                                  [--fresh]

The zoo (`coverage_models.py`) is all of torchvision's classification, segmentation and video models, a model of every
timm module, Transformers architectures of every kind and diffusers models. Every model is measured in a process of its
own with one thread and limits of time and memory, with random weights and randomised norms, and with no argument but
its own example input. What is asked of each library stands in `coverage_fxprune.py`, `coverage_torch_pruning.py` and
`coverage_modelopt.py`.

Results are appended to OUT/coverage.jsonl as they come, one line for each model and library; a rerun leaves out what is
there unless `--fresh` is given. OUT/coverage.md is written at the end: `--jobs 0` only writes it. The other libraries
live in environments of their own (benchmarks/README.md says how to make them); the default is the interpreter that runs
this.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script, this file's folder comes first on the path, where its own name would hide the package `coverage`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.coverage_run import main

    main(__doc__)
