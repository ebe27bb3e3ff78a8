"""How much memory and time does it take to cut a checkpoint of 6 GB, and does a killed run go on to the same bytes?

PYTHONPATH=. python -m benchmarks.checkpoint [--layers 13] [--folder DIR] [--out benchmarks/results]

A Llama-style checkpoint in bfloat16, of random bytes, in shards of 1.5 GB, is made in a temporary folder, planned from its
configuration, copied (each file flushed to the disk, its pages dropped from memory before), cut by `fxprune apply` in a
process of its own, and cut once more with a SIGKILL half way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import tests.conftest  # noqa: F401  torchvision's operators, where its extension does not load
from benchmarks.coverage_child import machine, versions
from fxprune.cli import main as fxprune

SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 64000,
}
SHARD = 1_500_000_000
COMMAND = "import sys, tests.conftest; from fxprune.cli import main; sys.exit(main(sys.argv[1:]))"
KEEP = ["--keep", "*q_proj:*", "--keep", "*v_proj", "--align", "128"]


def make(folder: Path, layers: int) -> dict[str, int]:
    """Write the checkpoint; returns sizes in bytes: of all tensors, and of the largest."""
    import transformers
    from transformers import LlamaConfig

    from fxprune.shards.configuration import build

    config = LlamaConfig(**SIZES, num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    shapes = {n: tuple(t.shape) for n, t in build(transformers.LlamaForCausalLM, config).state_dict().items()}
    parts = list(_parts(shapes))
    weight_map = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        _write(folder / file, {name: shapes[name] for name in names}, number)
        weight_map.update(dict.fromkeys(names, file))
    sizes = {name: 2 * prod(shape) for name, shape in shapes.items()}
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"bytes": sum(sizes.values()), "largest": max(sizes.values()), "shards": len(parts)}


def _parts(shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, shape in shapes.items():
        if names and size + 2 * prod(shape) > SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * prod(shape)
    yield names


def _write(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    entries, end = {}, 0
    for name, shape in shapes.items():
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, 1 << 26):
            file.write(generator.bytes(min(1 << 26, end - start)))
        file.flush()
        os.fsync(file.fileno())


def forget(folder: Path) -> None:
    """Drop the pages of a folder's files from memory, so that they are read from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> float:
    """Seconds that copying the files takes until they are on the disk."""
    forget(source)
    started = time.perf_counter()
    target.mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def start(plan: Path, source: Path, target: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    arguments = [sys.executable, "-c", COMMAND, "apply", str(plan), str(source), str(target)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[1])


def cut(plan: Path, source: Path, target: Path) -> dict[str, float]:
    """Seconds of the whole command, and its largest resident memory in bytes."""
    forget(source)
    started = time.perf_counter()
    process = start(plan, source, target)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "the command failed"
    return {"seconds": time.perf_counter() - started, "peak": usage.ru_maxrss * 1024}


def kill_half_way(plan: Path, source: Path, target: Path) -> list[str]:
    """Kill the command while it writes its third file; returns the files that were finished."""
    partial = target.with_name(f".{target.name}.partial")
    process = start(plan, source, target)
    while process.poll() is None:
        if len(list(partial.glob("*.safetensors"))) >= 2 and list(partial.glob("*.part")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    return sorted(path.name for path in partial.glob("*.safetensors"))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def measure(folder: Path, layers: int) -> dict[str, Any]:
    """Everything, in an empty folder."""
    source, plan = folder / "source", folder / "plan.json"
    source.mkdir()
    made = make(source, layers)
    options = ["--budget", "params=70%", "--drop", "model.layers.7", *KEEP, "-o", str(plan)]
    assert fxprune(["plan", f"transformers:{source}", *options]) == 0
    first = copy(source, folder / "copy")
    run = cut(plan, source, folder / "cut")
    second = copy(source, folder / "copy")
    expected = digests(folder / "cut")
    shutil.rmtree(folder / "cut")
    finished = kill_half_way(plan, source, folder / "cut")
    stamps = {name: (folder / ".cut.partial" / name).stat().st_mtime_ns for name in finished}
    again = cut(plan, source, folder / "cut")
    kept = {name: (folder / "cut" / name).stat().st_mtime_ns for name in finished}
    return {
        **made,
        "cut bytes": sum(path.stat().st_size for path in (folder / "cut").glob("*.safetensors")),
        "copy seconds": [round(first, 1), round(second, 1)],
        "cut seconds": round(run["seconds"], 1),
        "peak bytes": int(run["peak"]),
        "peak limit": 2 * made["largest"] + (1 << 30),
        "finished when killed": len(finished),
        "not repeated": stamps == kept,
        "resumed seconds": round(again["seconds"], 1),
        "resumed peak bytes": int(again["peak"]),
        "same bytes": digests(folder / "cut") == expected,
    }


def table(found: dict[str, Any]) -> str:
    """The findings as a table."""
    rate, copied = found["bytes"] / found["cut seconds"], [found["bytes"] / each for each in found["copy seconds"]]
    rows = {
        "checkpoint": f"{found['bytes'] / 1e9:.2f} GB in {found['shards']} shards",
        "largest tensor": f"{found['largest'] / 1e6:.0f} MB",
        "cut to": f"{found['cut bytes'] / 1e9:.2f} GB",
        "copying, before and after": " and ".join(
            f"{seconds} s ({each / 1e6:.0f} MB/s)" for seconds, each in zip(found["copy seconds"], copied, strict=True)
        ),
        "`fxprune apply`, the whole command": f"{found['cut seconds']} s ({rate / 1e6:.0f} MB/s of the source)",
        "share of the speed of copying": f"{rate / (sum(copied) / 2):.0%}",
        "peak resident memory": f"{found['peak bytes'] / 2**20:.0f} MiB (limit {found['peak limit'] / 2**20:.0f} MiB)",
        "killed by SIGKILL": f"with {found['finished when killed']} files finished",
        "run again": f"{found['resumed seconds']} s; finished files repeated: {'no' if found['not repeated'] else 'YES'}; "
        f"same bytes: {'yes' if found['same bytes'] else 'NO'}",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())]
    where = f"{found['machine']}; {', '.join(f'{name} {each}' for name, each in found['versions'].items())}"
    return "\n".join([*lines, "", f"{where}. {found['remark']}".strip()])


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made: 25 GB are needed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--remark", default="", help="about the machine, for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.layers)
    found |= {
        "machine": machine(),
        "versions": versions("torch", "transformers", "safetensors"),
        "remark": options.remark,
    }
    (options.out / "checkpoint.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "checkpoint.md").write_text(table(found) + "\n")
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
