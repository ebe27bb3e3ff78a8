"""Round trips of real models through files, each step in a process of its own: `python -m tests.files.round_trips`.

For every model of `MODELS` (the coverage benchmark's zoo builds them): the file loaded where the model's source cannot be
imported, the file restored onto a model built anew, and the saved plan applied to one, all equal to the last bit to what
was saved (`tests.files.round_trip_steps`). Operations that Transformers or torchvision register are part of their library:
models with such are loaded once more where that can be imported, which the table says.

The table goes to tests/files/round_trips.md; patterns as arguments choose models, and print it instead.
"""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.files.round_trip_steps import LIBRARIES

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_suffix(".md")
TOGETHER = 6
"""Models to a process: importing the libraries takes longer than some models."""
MODELS = {
    "torchvision classification": "torchvision/ alexnet convnext_tiny densenet121 efficientnet_b0 mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 vit_b_32",
    "torchvision segmentation, video": "torchvision/ lraspp_mobilenet_v3_large mc3_18",
    "timm": "timm/ convnextv2_atto fasternet_t0 ghostnet_050 levit_128s mambaout_femto mixer_s32_224 mobilenetv4_conv_small "
    "repvgg_a0 resnest14d resnet10t resnetv2_18 skresnet18 starnet_s050 vit_tiny_patch16_224",
    "Transformers decoder": "transformers/ bloom falcon gemma2 gpt2 gpt_neox llama opt phi3 qwen3",
    "Transformers mixture of experts": "transformers/ deepseek_v3 gpt_oss mixtral qwen3_moe",
    "Transformers state space": "transformers/ jamba mamba",
    "Transformers encoder": "transformers/ albert bert deberta distilbert fnet funnel modernbert",
    "Transformers encoder-decoder": "transformers/ bart marian t5",
    "Transformers vision": "transformers/ convnext dinov2 resnet segformer siglip_vision_model swin videomae vit",
    "Transformers vision and text": "transformers/ clip siglip",
    "Transformers speech": "transformers/ audio-spectrogram-transformer hubert wav2vec2 whisper",
    "diffusers": "diffusers/ AutoencoderKL AutoencoderTiny DiTTransformer2DModel PixArtTransformer2DModel "
    "SD3Transformer2DModel UNet2DConditionModel UNet2DModel",
}


def names_of(listed: str) -> list[str]:
    """Full names in an entry of `MODELS`."""
    prefix, *names = listed.split()
    return [prefix + name for name in names]


def step(name: str, folder: Path, models: list[str], *, blocked: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """What a new process says of each model; a process that dies fails those it has not spoken of."""
    command = [sys.executable, "-m", "tests.files.round_trip_steps", name, str(folder), " ".join(blocked), *models]
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"model"')]
    died = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
    return {each: {"failed": died} for each in models} | {line["model"]: line for line in lines}


def trips(models: list[str]) -> dict[str, dict[str, Any]]:
    """All steps of some models: what each said, together."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = step("write", folder, models)
        for name, said in step("again", folder, [each for each in models if "failed" not in found[each]]).items():
            found[name] |= said
        left = [each for each in models if "failed" not in found[each]]
        loaded = step("load", folder, left, blocked=LIBRARIES) if left else {}
        missing = [each for each in left if "missing" in loaded[each]]
        needing = step("load", folder, missing) if missing else {}
        for name in left:
            found[name] |= {**loaded[name], **needing.get(name, {}), "needs": loaded[name].get("missing")}
    return found


def verdict(said: dict[str, Any]) -> str:
    """One model's line: "equal", or what is not."""
    if "failed" in said:
        return f"failed: {str(said['failed']).strip().splitlines()[-1]}"
    wrong = [each for each in ("restored", "applied", "loaded") if said.get(each) is False]
    wrong += [] if said.get("refused", True) else ["not refused again"]
    return f"differs: {', '.join(wrong)} {said.get('files')}" if wrong or "loaded" not in said else "equal"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row to a family, then what is not equal."""
    rows = ["| family | models | load | restore, apply | class cannot follow | needs its library's operations |"]
    rows += ["| --- | --- | --- | --- | --- | --- |"]
    total = Counter[str]()
    for family, listed in MODELS.items():
        own = [found[name] for name in names_of(listed) if name in found]
        count = Counter(
            models=len(own),
            load=sum(said.get("loaded") is True for said in own),
            own=sum(said.get("restored") is True and said.get("applied") is True for said in own),
            refused=sum(said.get("refused") is True for said in own),
            needs=sum(bool(said.get("needs")) for said in own),
        )
        total.update(count)
        rows += [_row(family, count)] if own else []
    others = [f"- {name}: {verdict(said)}" for name, said in found.items() if verdict(said) != "equal"]
    followed = [f"- {name}: {said['reason']}" for name, said in found.items() if said.get("applies") is False]
    return "\n".join(
        [*rows, _row("**all**", total), "", *(others or ["Nothing differs in a bit."]), "", *_told(followed)]
    )


def _row(family: str, count: Counter[str]) -> str:
    return (
        "| "
        + " | ".join([family, *(str(count[each]) for each in ("models", "load", "own", "refused", "needs"))])
        + " |"
    )


def _told(lines: list[str]) -> list[str]:
    return (
        ["Classes that cannot follow the cut, where `apply` and `restore` refuse in both processes:", "", *lines]
        if lines
        else []
    )


def heading() -> str:
    """What was run, with which versions."""
    from importlib.metadata import version

    libraries = ("torch", "torchvision", "timm", "transformers", "diffusers")
    versions = ", ".join(f"{each} {version(each)}" for each in libraries)
    return (
        "# Round trips through files\n\n`python -m tests.files.round_trips`: models at 60 % of their FLOPs, saved; loaded in a "
        "process without\ntheir source, restored and the plan applied in another one. Numbers are of models that are equal to "
        f"the last bit.\n\nPython {platform.python_version()}, {versions}.\n"
    )


def main() -> None:
    """Run, print, and write the table unless only some models were asked for."""
    patterns = sys.argv[1:]
    names = [name for listed in MODELS.values() for name in names_of(listed)]
    chosen = [name for name in names if not patterns or any(fnmatch.fnmatchcase(name, each) for each in patterns)]
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(chosen), TOGETHER):
        found |= trips(chosen[start : start + TOGETHER])
        for name in chosen[start : start + TOGETHER]:
            print(name, verdict(found[name]), flush=True)
    text = f"{heading()}\n{table(found).rstrip()}\n"
    if patterns:
        print(text)
    else:
        TABLE.write_text(text, encoding="utf-8")
    raise SystemExit(any(verdict(said) != "equal" for said in found.values()))


if __name__ == "__main__":
    main()
