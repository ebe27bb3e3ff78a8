"""A process that has neither the source of the models nor, then, Transformers, loads them and computes the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import fxprune
from tests.files.nets import NETS, call, compiled

READER = """
import sys
from pathlib import Path
without = sys.argv[2].split()
for name in without: sys.modules[name] = None
import torch
torch.set_num_threads(1)
import fxprune
from torch.utils._pytree import tree_leaves
for path in sorted(Path(sys.argv[1]).glob("*.fxprune")):
    slim = fxprune.load(path)
    args, kwargs = slim.example_inputs
    with torch.no_grad(): output = slim(*args, **kwargs)
    wanted = torch.load(path.with_suffix(".pt"))
    found = [each for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
    same = len(found) == len(wanted) and all(torch.equal(one, other) for one, other in zip(found, wanted))
    slim.train()
    print(path.stem, same, type(output).__module__, type(output).__name__, hasattr(output, "logits"))
assert not any(name.startswith("tests") and module for name, module in sys.modules.items())
"""


def read(folder: Path, *without: str) -> dict[str, list[str]]:
    """What such a process says of each file."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder), " ".join(without)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(fxprune.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def write(slim: nn.Module, inputs: Any, path: Path) -> None:
    fxprune.save(slim, path)
    output = call(slim, inputs)
    torch.save([each for each in tree_leaves(output) if isinstance(each, torch.Tensor)], path.with_suffix(".pt"))


def language_models() -> dict[str, tuple[nn.Module, Any]]:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 50}
    wide = {**small, "intermediate_size": 64, "num_key_value_heads": 2}
    tokens = {"input_ids": torch.randint(0, 50, (2, 6))}
    mixture = transformers.MixtralConfig(**wide, num_local_experts=4)
    return {
        "llama": (transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide)), tokens),
        "mixtral": (transformers.MixtralForCausalLM(mixture), tokens),
        "bert": (transformers.BertModel(transformers.BertConfig(**small, intermediate_size=64)), tokens),
    }


def test_a_process_without_the_source(tmp_path: Path) -> None:
    for name in NETS:
        slim, _, inputs = compiled(name)
        write(slim, inputs, tmp_path / f"{name}.fxprune")
    said = read(tmp_path, "tests")
    assert said.keys() == NETS.keys()
    assert {each[0] for each in said.values()} == {"True"}
    assert said["nested"][2] == "dict"


@pytest.mark.slow
def test_language_models_with_and_without_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, (model, inputs) in language_models().items():
        slim = fxprune.compile(model.eval(), {"params": "80%"}, example_inputs=inputs, progress=False)
        write(slim, inputs, tmp_path / f"{name}.fxprune")
    said = read(tmp_path, "tests")
    assert said["llama"] == ["True", "transformers.modeling_outputs", "CausalLMOutputWithPast", "True"]
    assert {each[0] for each in said.values()} == {"True"}
    (tmp_path / "mixtral.fxprune").unlink()  # needs an operation that Transformers registers
    said = read(tmp_path, "tests", "transformers")
    assert said["llama"] == ["True", "fxprune.files.outputs", "Output", "True"]
    assert said["bert"] == ["True", "fxprune.files.outputs", "Output", "False"]
