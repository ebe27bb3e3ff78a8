"""Coverage-guided fuzzing of `load`: `python -m tests.files.fuzz -max_total_time=600`; needs `pip install atheris`.

The fuzzer's bytes are one member of an otherwise sound file, or the whole file; the first byte says which. It begins with the
members of real files. Anything but a module or a `CheckpointError` is a crash, which libFuzzer writes down.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["fxprune.files", "fxprune.safe_json", "fxprune.plain", "fxprune.plan"]):
    import fxprune
    from fxprune import CheckpointError
    from tests.files.mutation import members, packed
    from tests.files.nets import compiled

NAMES = ("plan.json", "graph.json", "report.json", "weights.safetensors", "scores.safetensors", "inputs.safetensors")
FOLDER = Path(tempfile.mkdtemp())


def seeds(folder: Path) -> dict[str, bytes]:
    """Write the first inputs; the members of a sound file that the others replace one of."""
    folder.mkdir()
    found: dict[str, bytes] = {}
    for name in ("sequential", "tied", "nested"):
        fxprune.save(compiled(name)[0], FOLDER / "seed.fxprune")
        content = (FOLDER / "seed.fxprune").read_bytes()
        found = members(content)
        for number, member in enumerate(NAMES):
            (folder / f"{name}-{member}").write_bytes(bytes([number]) + found[member])
        (folder / name).write_bytes(bytes([len(NAMES)]) + content)
    return found


SOUND = seeds(FOLDER / "corpus")


def attack(data: bytes) -> None:
    """Load what the bytes are."""
    number, content = data[0] if data else 0, data[1:]
    path = FOLDER / "slim.fxprune"
    path.write_bytes(packed({**SOUND, NAMES[number]: content}) if number < len(NAMES) else content)
    with contextlib.suppress(CheckpointError):
        fxprune.load(path)


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-max_len=100000", str(FOLDER / "corpus")], attack)
    atheris.Fuzz()
