"""Engine files: a TensorRT engine together with what has to be known before anybody looks at its bytes.

An engine is native code for one GPU and one version of TensorRT, and TensorRT trusts what it is given. So a file holds,
in this order: a line that names the format, the length of a header (8 bytes, little-endian), the header (JSON: what
`EngineInfo` says), and the engine, whose size and SHA-256 the header has. All of that is checked first. The digest finds
damage, not malice: an engine of somebody else is as trustworthy as its sender.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from fxprune.backends.base import TensorSpec
from fxprune.backends.tensorrt_profiles import Profile
from fxprune.errors import BackendError

MAGIC = b"fxprune engine 1\n"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 16 * 2**20


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is.

    Attributes:
        package: `tensorrt` or `tensorrt_rtx`.
        package_version: its version.
        compute_capability: of the GPU it was built for, such as `8.9`.
        precision: `fp32`, `tf32`, `fp16` or `bf16` if asked for, else None: types are the module's.
        opset: ONNX operator set that it was built from.
        inputs: what to feed, in order, with names for dynamic sizes.
        outputs: what comes back, in order.
        profiles: ranges of the dynamic sizes.
        places: name of an input -> its place in the module's arguments.
        network_layers: layers of the network as parsed.
        engine_layers: layers of the engine as built; None where TensorRT does not say.
        sha256: of the engine's bytes.
        size_bytes: of the engine alone.
        fxprune_version: that wrote it.
        plan_digest: digest of the slim module's plan; None for other modules.
    """

    package: str
    package_version: str
    compute_capability: str
    precision: str | None
    opset: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    places: Mapping[str, str]
    network_layers: int
    engine_layers: int | None
    sha256: str
    size_bytes: int
    fxprune_version: str
    plan_digest: str | None = None


def write_engine(path: Path, info: EngineInfo, engine: bytes | memoryview) -> None:
    """Write an engine with its header to `path`, which `fxprune.backends.atomic.replacing` gave."""
    header = json.dumps(asdict(info)).encode()
    with path.open("wb") as file:
        file.write(MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        file.write(engine)


def read_info(path: Path) -> EngineInfo:
    """The header of an engine file, without the engine.

    Raises:
        BackendError: there is no such file, or it is damaged or none of fxprune's.
    """
    return _read(path)[0]


def read_engine(path: Path) -> tuple[EngineInfo, bytes]:
    """Header and engine, checked against each other.

    Raises:
        BackendError: there is no such file, or it is damaged or none of fxprune's.
    """
    info, start = _read(path)
    with path.open("rb") as file:
        file.seek(start)
        engine = file.read()
    if len(engine) != info.size_bytes:
        raise BackendError(f"{path} is damaged: it holds {len(engine)} of {info.size_bytes} bytes. Build it again")
    if hashlib.sha256(engine).hexdigest() != info.sha256:
        raise BackendError(f"{path} is damaged: its engine is not the one that was written. Build it again")
    return info, engine


def refuse_foreign(path: Path, info: EngineInfo, *, version: str, capability: str | None) -> None:
    """Refuse an engine that this machine's TensorRT or GPU cannot run.

    Args:
        path: the file, for the message.
        info: its header.
        version: of the engine's package as it is installed here.
        capability: compute capability of the GPU here; None where there is none.

    Raises:
        BackendError: it was built with another version, or for another GPU, or there is no GPU.
    """
    what = f"{path} was built by {info.package} {info.package_version} for compute capability {info.compute_capability}"
    if info.package_version != version:
        raise BackendError(
            f"{what}; installed is {version}, which does not run it. Build it again, or install that one"
        )
    if capability is None:
        raise BackendError(f"{what}; there is no GPU here to run it on")
    if info.compute_capability != capability:
        raise BackendError(
            f"{what}; the GPU here has {capability}. Build it again with compute_capability={capability!r}"
        )


def _read(path: Path) -> tuple[EngineInfo, int]:
    """Header, and where the engine starts."""
    if not path.is_file():
        raise BackendError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BackendError(f"{path} is no engine that fxprune.lower wrote: fxprune opens only those")
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = file.read(length) if length <= _LONGEST_HEADER else b""
    if not header or len(header) != length:
        raise BackendError(f"{path} is damaged: its header ends early. Build it again")
    try:
        return _parsed(json.loads(header)), len(MAGIC) + _LENGTH_BYTES + length
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(f"the header of {path} is damaged ({error}). Build it again") from error


def _parsed(data: Any) -> EngineInfo:
    """The header's JSON as what it says; unknown and missing fields are refused."""
    if data.keys() != {each.name for each in fields(EngineInfo)}:
        odd = data.keys() ^ {each.name for each in fields(EngineInfo)}
        raise ValueError(f"fields {', '.join(sorted(odd))}")
    specs = {name: tuple(map(_spec, data[name])) for name in ("inputs", "outputs")}
    profiles = tuple({name: _range(sizes) for name, sizes in each.items()} for each in data["profiles"])
    return EngineInfo(**{**data, **specs, "profiles": profiles})


def _spec(data: Any) -> TensorSpec:
    if not isinstance(getattr(torch, str(data["dtype"]), None), torch.dtype):
        raise ValueError(f"dtype {data['dtype']!r}")  # noqa: TRY004 - a wrong value, whatever it names in torch
    return TensorSpec(data["name"], data["dtype"], tuple(data["shape"]))


def _range(sizes: Any) -> tuple[int, int, int]:
    low, best, high = (int(size) for size in sizes)
    return low, best, high
