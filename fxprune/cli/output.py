"""What commands show on the terminal and leave in a folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fxprune.errors import InputError

if TYPE_CHECKING:
    from fxprune import SlimModule

__all__ = ["make_folder", "show", "write_slim"]


def show(result: object) -> None:
    """Print a result: fitted to the terminal where there is one and the result can be, else as its own text."""
    if sys.stdout.isatty() and hasattr(result, "__rich__"):
        Console().print(result)
    else:
        print(result)


def make_folder(folder: Path) -> None:
    """Make sure that there is a folder, before long work whose result would have nowhere to go.

    Raises:
        InputError: There cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to the folder {folder}: {error.strerror}.") from error


def write_slim(slim: SlimModule, folder: Path, *, onnx: bool) -> list[Path]:
    """Write the decision, the report and the weights of a slim module.

    Args:
        slim: What `fxprune.compile` returned.
        folder: An existing folder; files of the same names are replaced.
        onnx: Whether to export the module too.

    Returns:
        The files written: `plan.json`, `report.txt`, `report.json`, `weights.safetensors` and, if asked for,
        `model.onnx`.
    """
    from safetensors.torch import save_model

    import fxprune

    texts = {
        "plan.json": slim.plan.to_json(),
        "report.txt": str(slim.report),
        "report.json": slim.report.to_json(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")
    save_model(slim, str(folder / "weights.safetensors"))
    # safetensors writes files that only their owner can read.
    shutil.copymode(folder / "plan.json", folder / "weights.safetensors")
    written = [folder / name for name in (*texts, "weights.safetensors")]
    if onnx:
        written.append(fxprune.lower(slim, "onnx", folder / "model.onnx").path)
    return written
