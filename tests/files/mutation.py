"""Files that are damaged or hostile, in as many ways as there are: bytes, zip entries, JSON, tensor headers."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from typing import Any

JSON_MEMBERS = ("plan.json", "graph.json", "report.json")


class Bomb:
    """Says so if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def members(content: bytes) -> dict[str, bytes]:
    """What a file holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: list[tuple[str, bytes]] | dict[str, bytes], **changes: Any) -> bytes:
    """A zip of these entries, some fields of theirs changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            member = zipfile.ZipInfo(name)
            for field, value in changes.items():
                setattr(member, field, value)
            archive.writestr(member, content)
    return buffer.getvalue()


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def shift(rng: random.Random, content: bytes) -> bytes:
    """Bytes cut out, put in or repeated."""
    start, count = rng.randrange(len(content)), rng.choice((1, 2, 16, 1000))
    put = rng.choice((b"", rng.randbytes(count), content[start : start + count] * 2, b"\0" * count))
    return content[:start] + put + content[start + rng.choice((0, count)) :]


def damage_zip(rng: random.Random, content: bytes) -> bytes:
    """The directory's and the entries' own numbers: sizes, offsets, counts, flags."""
    made = bytearray(content)
    marks = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
    mark = rng.choice(marks)
    start = rng.choice([at for at in range(len(made)) if made[at : at + 4] == mark])
    at = start + 4 + rng.randrange(42 if mark == marks[0] else 26 if mark == marks[1] else 18)
    value = rng.choice((b"\xff", b"\xff\xff\xff\xff", b"\0\0", rng.randbytes(2)))
    made[at : at + len(value)] = value[: max(0, len(made) - at)]
    return bytes(made)


NAMES = (
    "../../evil.py",
    "/etc/passwd",
    "plan.json/..",
    "C:\\evil",
    "weights.pt",
    "data.pkl",
    "",
    "plan.json\0.txt",
    "é",
)


def swap_entries(rng: random.Random, content: bytes) -> bytes:
    """Entries missing, repeated, renamed, exchanged, replaced by pickles, compressed, or links."""
    entries = list(members(content).items())
    at = rng.randrange(len(entries))
    name, own = entries[at]
    changed: list[Callable[[], bytes]] = [
        lambda: packed([*entries[:at], *entries[at + 1 :]]),
        lambda: packed([*entries, (name, own)]),
        lambda: packed([*entries, (rng.choice(NAMES), b"x")]),
        lambda: packed([(rng.choice(NAMES) if each == name else each, own) for each, own in entries]),
        lambda: packed([(each, entries[at - 1][1] if each == name else own) for each, own in entries]),
        lambda: packed([(each, pickle.dumps(Bomb()) if each == name else own) for each, own in entries]),
        lambda: packed([(each, b"" if each == name else own) for each, own in entries]),
        lambda: packed([(each, b"0" * 3_000_000 if each == name else own) for each, own in entries]),
        lambda: packed(entries, compress_type=zipfile.ZIP_DEFLATED),
        lambda: packed(entries, compress_type=zipfile.ZIP_BZIP2),
        lambda: packed(entries, external_attr=0o120777 << 16),
        lambda: packed(entries, external_attr=0o010644 << 16),
    ]
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the repeated name
        return rng.choice(changed)()


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    1e308,
    "",
    "x" * 100_000,
    "__class__",
    "self",
    "x, y): import os; os.system('true') #",
    '"); import os; ("',
    "\n    import os\n    ",
    "os.system",
    "aten::from_file.default",
    "aten::set_.source_Tensor",
    "operator.attrgetter",
    "builtins.eval",
    "a" + ".b" * 3_000,
    "\ud800",
    "\uff3f\uff3fclass\uff3f\uff3f",
    [],
    {},
    [0] * 1_000,
    [[[[[[[[[[[[1]]]]]]]]]]]],
    {"node": 0},
    {"node": -1},
    {"node": 10**9},
    {"dtype": "__class__"},
    {"device": "cpu'); import os #"},
    {"tuple": [{"tuple": [{"tuple": []}]}]},
    {"slice": [1]},
    {"complex": []},
    {"output": ["os:system", [["a", None]]]},
    {"named": ["subprocess:Popen", [["args", None]]]},
    {"data": ["builtins:type", [], []]},
)


def change_json(rng: random.Random, content: bytes) -> bytes:
    """Something somewhere in a JSON member, the zip sound."""
    entries = members(content)
    name = rng.choice([each for each in JSON_MEMBERS if each in entries])
    data = json.loads(entries[name])
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        change_value(rng, data)
    entries[name] = json.dumps(data).encode("utf-8", "surrogatepass")
    return packed(entries)


def change_value(rng: random.Random, data: Any) -> None:
    """Walk to a random place, and replace, remove, repeat or exchange what is there."""
    holder = data
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key: Any = rng.choice(keys)
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.15:
            break
        holder = holder[key]
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(("unknown", "same_as", "kind", "settings", "kwargs", "order"))] = rng.choice(STRANGE)
    elif kind == 2:
        holder.insert(key, holder[key])
    else:
        holder[key] = rng.choice(STRANGE)


def change_plan(rng: random.Random, text: str) -> bytes:
    """Something somewhere in a plan by itself, in what it keeps more often than elsewhere."""
    data = json.loads(text)
    part = rng.choice((None, None, "kept", "slices", "widths", "dropped", "tied", "ignore"))
    change_value(rng, data[part] if part is not None and data[part] else data)
    return json.dumps(data).encode("utf-8", "surrogatepass")


def break_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON member that is none, is too deep, or says a key twice."""
    entries = members(content)
    name = rng.choice([each for each in JSON_MEMBERS if each in entries])
    own = entries[name]
    depth = rng.choice((65, 1_000, 200_000))
    entries[name] = rng.choice(
        (
            b"[" * depth + b"]" * depth,
            b'{"schema":' * depth + b"1" + b"}" * depth,
            own.replace(b"{", b'{"schema": 1, "schema": 1, ', 1),
            own.replace(b"1", b"NaN", 1),
            own.replace(b"0", b"9" * 6_000, 1),
            own + own,
            b"\xff\xfe" + own,
            own.decode().encode("utf-16"),
            own[: rng.randrange(len(own))],
            own.replace(b'"schema":', b'"schema": 99, "x":', 1),
        )
    )
    return packed(entries)


def change_tensors(rng: random.Random, content: bytes) -> bytes:
    """The header of a safetensors member, the zip sound."""
    entries = members(content)
    name = rng.choice([each for each in entries if each.endswith(".safetensors")])
    own = entries[name]
    length = int.from_bytes(own[:8], "little")
    header = json.loads(own[8 : 8 + length])
    if rng.random() < 0.3:
        size = rng.choice((0, 1, 2**63, 2**64 - 1, len(own), length + 1, length - 1))
        entries[name] = size.to_bytes(8, "little") + own[8:]
        return packed(entries)
    for _ in range(rng.choice((1, 2))):
        change_value(rng, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    entries[name] = len(text).to_bytes(8, "little") + text + own[8 + length :]
    return packed(entries)


RAW = (flip_bits, truncate, shift, damage_zip)
"""What happens to bytes: then a module that loads has to be the one that was saved."""
SOUND = (swap_entries, change_json, change_json, change_json, break_json, change_tensors)
"""What an attacker writes, checksums and all."""
