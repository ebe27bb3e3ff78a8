"""Importance of a language model on several GPUs: are the scores those of one, how long does it take, in how much memory?

    python benchmarks/distributed.py [--processes 2] [--out benchmarks/results] [--quick]

A Llama-style model with random weights (1.1 billion parameters) is scored by `minitron`: in one process; under `torchrun` with
the batches shared and the model whole in every process; sharded by FSDP2; and with a part of its layers in each process, as in a
pipeline. Processes are connected by NCCL, on a CPU by gloo. Each way is a run of its own; the table says the seconds for scores
(capture included), the largest peak of GPU memory of a process, the largest relative difference of any score from that of one
process, and whether a budget of 70 % of the parameters leads to the same plan. `--quick` is a smoke run with sizes that mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import distributed, nn

import fxprune
from benchmarks.coverage_child import machine, versions
from fxprune.cli.vision_operators import declare_vision_operators
from fxprune.distributed import world

ROOT = Path(__file__).resolve().parent.parent
WAYS = {"whole": "whole in each", "sharded": "sharded by FSDP2", "staged": "some layers in each"}
FULL = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
QUICK = {name: max(size // 32, 2) for name, size in FULL.items()} | {"num_attention_heads": 4, "vocab_size": 128}
BATCHES, SHAPE, QUICK_SHAPE = 32, (4, 2048), (2, 32)


def main() -> None:
    """Measure every way in processes of their own, or be one of these processes."""
    options = parse()
    if options.way:
        work(options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [measured("whole", 1, folder, quick=options.quick)]
        found += [measured(way, options.processes, folder, quick=options.quick) for way in WAYS]
        text = table(found, folder, quick=options.quick)
    (options.out / "distributed.md").write_text(text)
    sys.stdout.write(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="with a GPU each")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny sizes")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(way: str, processes: int, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Run `torchrun`; what its processes found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    command += ["--way", way, "--folder", str(folder), *(["--quick"] if quick else [])]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    ranks = [json.loads((folder / f"{way}-{processes}-{rank}.json").read_text()) for rank in range(processes)]
    return {
        "way": way,
        "processes": processes,
        "seconds": max(each["seconds"] for each in ranks),
        "memory": max(each["memory"] for each in ranks),
        "parameters": ranks[0]["parameters"],
        "plans": [each["plan"] for each in ranks],
        "machine": ranks[0]["machine"],
    }


def table(found: list[dict[str, Any]], folder: Path, *, quick: bool) -> str:
    """All ways as Markdown, and the differences of their scores from those of one process."""
    lines = [
        "| model | processes | seconds | speed-up | peak GPU memory of one, GiB | largest relative difference | same plan |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    alone = np.load(folder / "whole-1-0.npz")
    for each in found:
        others = [
            np.load(folder / f"{each['way']}-{each['processes']}-{rank}.npz") for rank in range(each["processes"])
        ]
        apart = max(difference(alone, other) for other in others)
        same = all(plan == found[0]["plans"][0] for plan in each["plans"])
        where = WAYS[each["way"]] if each["processes"] > 1 else "whole"
        lines.append(
            f"| {where} | {each['processes']} | {each['seconds']:.1f} | {found[0]['seconds'] / each['seconds']:.2f} | "
            f"{each['memory'] / 2**30:.2f} | {apart:.1e} | {'yes' if same else 'no'} |"
        )
    batch, length = QUICK_SHAPE if quick else SHAPE
    said = (
        f"`python benchmarks/distributed.py` on {found[0]['machine']}: {found[0]['parameters']:,} parameters in float32, "
        f"{BATCHES} batches of {batch} x {length} tokens."
    )
    return "\n\n".join(["# Scores on several GPUs", said, "\n".join(lines)]) + "\n"


def difference(one: Any, other: Any) -> float:
    """Largest difference of any score, relative to the largest of its group."""
    assert set(one) == set(other), "the groups differ"
    return max(float(np.abs(one[name] - other[name]).max() / np.abs(one[name]).max()) for name in one)


def work(options: argparse.Namespace) -> None:
    """One process under `torchrun`."""
    declare_vision_operators()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    on_gpu = device.type == "cuda"
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    rank, size = world()
    model = build(device, quick=options.quick)
    parameters = sum(each.numel() for each in model.parameters())
    shell, weights = spread(model, options.way, device, quick=options.quick)
    generator = torch.Generator().manual_seed(0)
    vocabulary, shape = model.config.vocab_size, QUICK_SHAPE if options.quick else SHAPE
    data = [{"input_ids": torch.randint(0, vocabulary, shape, generator=generator)} for _ in range(BATCHES)]
    example = {"input_ids": data[0]["input_ids"][:1, :64].to("meta" if weights is not None else device)}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    distributed.barrier()
    started = time.perf_counter()
    scores = fxprune.score(
        shell,
        "minitron",
        data=data,
        example_inputs=example,
        weights=weights,
        device=None if weights is None else device,
        progress=False,
    )
    seconds = time.perf_counter() - started
    plan = fxprune.plan(shell, {"params": "70%"}, example_inputs=example, scores=scores)
    file = options.folder / f"{options.way}-{size}-{rank}"
    np.savez(file.with_suffix(".npz"), **{name: np.asarray(each) for name, each in scores.importance.items()})
    found = {"seconds": seconds, "parameters": parameters, "plan": plan.to_json(), "machine": place(device)}
    found["memory"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    file.with_suffix(".json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def build(device: torch.device | str, *, quick: bool) -> Any:
    """The model, with the same weights on every rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**(QUICK if quick else FULL), max_position_embeddings=2048)).eval()


def spread(model: Any, way: str, device: torch.device, *, quick: bool) -> tuple[nn.Module, nn.Module | None]:
    """The model to score, and where its weights are, if elsewhere."""
    if way == "whole":
        return model, None
    shell = build("cpu", quick=quick).to("meta")
    rank, size = world()
    if way == "sharded":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (size,))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
        return shell, model
    layers = list(model.model.layers)
    bounds = [len(layers) * each // size for each in range(size + 1)]
    elsewhere = [layer for at, layer in enumerate(layers) if not bounds[rank] <= at < bounds[rank + 1]]
    elsewhere += [model.model.embed_tokens] if rank else []
    elsewhere += [model.model.norm, model.lm_head] if rank < size - 1 else []
    for module in elsewhere:
        module.to("meta")
    return shell, model


def place(device: torch.device) -> str:
    """The processors, and what was installed."""
    used = ", ".join(f"{name} {version}" for name, version in versions("torch", "transformers").items())
    return f"{torch.cuda.get_device_name() if device.type == 'cuda' else machine()} ({used})"


if __name__ == "__main__":
    main()
