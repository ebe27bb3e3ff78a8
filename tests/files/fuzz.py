"""Coverage-guided fuzzing of `load`: `python -m tests.files.fuzz -max_total_time=600`; needs `pip install atheris`.

The fuzzer's bytes are one member of an otherwise sound file, or the whole file; the first byte says which. It begins with the
members of real files. What is JSON is changed as JSON most of the time, so that what is behind the parser is reached: coverage
says which changes are gone on from. Anything but a module or a `CheckpointError` is a crash, which libFuzzer writes down.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path

NAMES = ("plan.json", "graph.json", "report.json", "weights.safetensors", "scores.safetensors", "inputs.safetensors")


def main() -> None:
    """Instrument fxprune while it is imported, write the first inputs, fuzz."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(include=["fxprune.files", "fxprune.safe_json", "fxprune.plain", "fxprune.plan"]):
        import fxprune
        from tests.files.mutation import packed

    folder = Path(tempfile.mkdtemp())
    sound, path = seeds(folder / "corpus"), folder / "slim.fxprune"

    def attack(data: bytes) -> None:
        number, content = data[0] if data else 0, data[1:]
        path.write_bytes(packed({**sound, NAMES[number]: content}) if number < len(NAMES) else content)
        with contextlib.suppress(fxprune.CheckpointError):
            fxprune.load(path)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        made = changed(data, random.Random(seed))
        return made if made is not None and len(made) <= longest else atheris.Mutate(data, longest)

    options = ["-max_len=100000", "-len_control=0", str(folder / "corpus")]
    atheris.Setup([*sys.argv, *options], attack, custom_mutator=mutate)
    atheris.Fuzz()


def changed(data: bytes, rng: random.Random) -> bytes | None:
    """Something in a member that is JSON, or in a header, replaced, removed, repeated or exchanged; None to change bytes."""
    from tests.files.mutation import change_value

    if not data or data[0] >= len(NAMES) or rng.random() < 0.2:
        return None
    text, rest = data[1:], b""
    if NAMES[data[0]].endswith(".safetensors"):
        end = 9 + int.from_bytes(data[1:9], "little")
        text, rest = data[9:end], data[end:]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict | list):
        return None
    change_value(rng, value)
    made = json.dumps(value).encode("utf-8", "surrogatepass")
    return (
        data[:1] + (len(made).to_bytes(8, "little") if NAMES[data[0]].endswith(".safetensors") else b"") + made + rest
    )


def seeds(folder: Path) -> dict[str, bytes]:
    """Write the first inputs; the members of a sound file that the others replace one of."""
    import fxprune
    from tests.files.mutation import members
    from tests.files.nets import compiled

    folder.mkdir()
    found: dict[str, bytes] = {}
    for name in ("sequential", "tied", "nested"):
        fxprune.save(compiled(name)[0], folder.parent / "seed.fxprune")
        content = (folder.parent / "seed.fxprune").read_bytes()
        found = members(content)
        for number, member in enumerate(NAMES):
            (folder / f"{name}-{member}").write_bytes(bytes([number]) + found[member])
        (folder / name).write_bytes(bytes([len(NAMES)]) + content)
    return found


if __name__ == "__main__":
    main()
