"""How good is what is left? fxprune beside Torch-Pruning and ModelOpt at equal FLOPs, before and after fine-tuning.

    python benchmarks/quality.py [--stage train|prune|calibrate] [--jobs N] [--out DIR] [--quick] [--only NETWORK]...
                                 [--method METHOD]... [--seconds SECONDS] [--retry] [--python-torch-pruning PYTHON]
                                 [--python-modelopt PYTHON]

A ResNet-20 on digits and on a generated image task (`quality_images.py`), and a network in the style of MobileNetV2 on the
latter, are trained with three seeds; every method prunes the same trained networks to 50 % and 25 % of their FLOPs, by one
counter, and what it returns is fine-tuned for 3 and for 10 epochs by one recipe. What each library is asked stands in
`quality_fxprune.py`, `quality_torch_pruning.py` and `quality_modelopt.py`; sizes, recipes and methods in
`quality_plan.py`.

Stages: `train` writes OUT/quality-checkpoints, `prune` needs them; without `--stage` both are done. Results are appended to
OUT/quality.jsonl as they come, and a rerun leaves out what is there; `--retry` tries again what failed. After `--seconds` the
run ends where it is. `--jobs 0` only writes the tables, OUT/quality.md and OUT/quality.json. `calibrate` trains one seed of
the generated task at several difficulties and prints accuracies, to choose `DIFFICULTY` by. Everything is computed on the GPU
if there is one, shared by `--jobs` processes. `--quick` is a smoke run of everything, with sizes that mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script, this file's folder comes first on the path, where a neighbour would hide the package `coverage`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.quality_run import main

    main(__doc__)
