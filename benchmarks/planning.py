"""How long does it take to plan the largest language models from their configurations alone, and in how much memory?

PYTHONPATH=. python -m benchmarks.planning [llama-3.1-405b ...] [--out benchmarks/results]

Each in a process of its own: the class is built on the meta device, captured, analysed and costed, and the budget is searched
for. Configurations are written out here, so that nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import tests.conftest  # noqa: F401  torchvision's operators, where its extension does not load
from benchmarks.coverage_child import machine, peak, versions

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.1-405b": (
        "Llama",
        {
            "hidden_size": 16384,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "intermediate_size": 53248,
            "vocab_size": 128256,
        },
    ),
    "mixtral-8x22b": (
        "Mixtral",
        {
            "hidden_size": 6144,
            "num_hidden_layers": 56,
            "num_attention_heads": 48,
            "num_key_value_heads": 8,
            "intermediate_size": 16384,
            "vocab_size": 32768,
            "num_local_experts": 8,
        },
    ),
    "qwen3-235b-a22b": (
        "Qwen3Moe",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
    ),
}
IDS = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


def measure(name: str) -> dict[str, Any]:
    """Seconds of every stage, and the peak memory of this process in MiB."""
    started = time.perf_counter()
    import transformers

    from fxprune.analysis import Analysis
    from fxprune.capture import capture
    from fxprune.costs import build_costs
    from fxprune.groups import find_groups
    from fxprune.planning import choose
    from fxprune.propagate import propagate
    from fxprune.pruning import Subject
    from fxprune.shards.configuration import build

    family, sizes = CONFIGURATIONS[name]
    kind = getattr(transformers, f"{family}ForCausalLM")
    config = getattr(transformers, f"{family}Config")(**sizes, dtype="bfloat16")
    marks = [("import", started), ("build", time.perf_counter())]
    model = build(kind, config).eval()
    marks.append(("capture", time.perf_counter()))
    program = capture(model, {key: each.to("meta") for key, each in IDS.items()}, free_batch=False)
    marks.append(("axes", time.perf_counter()))
    propagation = propagate(program, {})
    marks.append(("groups", time.perf_counter()))
    groups = find_groups(program, propagation)
    marks.append(("costs", time.perf_counter()))
    analysis = Analysis(program, propagation, groups, build_costs(program, propagation, groups))
    marks.append(("search", time.perf_counter()))
    made = choose(model, Subject(analysis, (), analysis, ()), {"params": "70%"}, None)
    marks.append(("plan as JSON", time.perf_counter()))
    text = made.plan.to_json()
    marks.append(("", time.perf_counter()))
    seconds = {stage: round(end - begin, 2) for (stage, begin), (_, end) in pairwise(marks)}
    return {
        "parameters": int(made.before["params"]),
        "kept": int(made.after["params"]),
        "layers": sizes["num_hidden_layers"],
        "nodes": len(program.nodes),
        "groups": len(groups),
        "seconds": {**seconds, "all": round(time.perf_counter() - started, 2)},
        "cpu seconds": round(time.process_time(), 1),
        "peak MiB": peak(),
        "plan bytes": len(text),
    }


def table(found: dict[str, Any]) -> str:
    """The findings as a table."""
    stages = list(next(iter(found["models"].values()))["seconds"])
    head = ["model", "parameters", "layers", "nodes", "groups", *stages, "CPU", "peak"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, each in found["models"].items():
        cells = [
            name,
            f"{each['parameters'] / 1e9:.1f} B",
            f"{each['layers']}",
            f"{each['nodes']:,}",
            f"{each['groups']}",
            *(f"{each['seconds'][stage]:.2f} s" for stage in stages),
            f"{each['cpu seconds']:.0f} s",
            f"{each['peak MiB']} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    where = f"{found['machine']}; {', '.join(f'{name} {each}' for name, each in found['versions'].items())}"
    return "\n".join([*lines, "", f"{where}. {found['remark']}".strip()])


def main() -> None:
    """Measure each in a process of its own, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(CONFIGURATIONS))
    parser.add_argument("--child", action="store_true", help="measure one, print it as JSON")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--remark", default="", help="about the machine, for the table")
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(options.models[0])) + "\n")
        return
    where = {"machine": machine(), "versions": versions("torch", "transformers"), "remark": options.remark}
    found: dict[str, Any] = {"models": {}, **where}
    for name in options.models:
        command = [sys.executable, "-m", "benchmarks.planning", name, "--child"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found["models"][name] = json.loads(done.stdout.splitlines()[-1])
        (options.out / "planning.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "planning.md").write_text(table(found) + "\n")
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
