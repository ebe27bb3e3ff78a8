"""Tensors by name as safetensors: eight bytes of length, a JSON header, and the numbers, little-endian, one after the other.

Written piece by piece straight into the member of a zip, so that saving needs no second copy of a model, and read likewise,
each tensor into memory of its own. The format is https://github.com/huggingface/safetensors; its library reads what is
written here. It takes a whole file or a whole text of bytes, neither of which a member is, hence these few lines.

Reading checks the header against the member's size before anything is allocated: known types, offsets in order from 0 to the
end without gap or overlap, each as long as its shape says. Types that the format does not know (`complex128`) are bytes
there, and what they mean is said beside it (`Declared`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

from fxprune.errors import CheckpointError
from fxprune.files.archive import PIECE, Sink
from fxprune.safe_json import array, fields, integer, mapping, one_of, parse, text

TYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex64: "C64",
}
"""Types as safetensors calls them."""
OTHERS = (torch.complex32, torch.complex128, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
"""Types that it does not know: their bytes, with a last dimension of the item's size."""
DTYPES: Mapping[str, torch.dtype] = {str(each).removeprefix("torch."): each for each in (*TYPES, *OTHERS)}
"""Types by the names that PyTorch has for them."""

_BY_NAME = {name: dtype for dtype, name in TYPES.items()}
_LONGEST_HEADER = 2**27
_MOST_DIMENSIONS = 32


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor of which there is a name, a type and a shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def stored(self) -> tuple[str, list[int]]:
        """Type and shape in the file."""
        if self.dtype in TYPES:
            return TYPES[self.dtype], list(self.shape)
        return "U8", [*self.shape, self.dtype.itemsize]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def declaration(name: str, tensor: Tensor) -> Declared:
    """What is to be said of a tensor.

    Raises:
        CheckpointError: no file can hold it.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in {*TYPES, *OTHERS}:
        msg = f"{name} is a tensor of {tensor.dtype}, {tensor.layout}; files hold dense tensors of standard types"
        raise CheckpointError(msg)
    if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        msg = f"{name} is a {type(tensor).__name__}; convert it to an ordinary tensor before saving"
        raise CheckpointError(msg)
    if tensor.is_meta:
        raise CheckpointError(f"{name} is on the meta device, so that there is nothing to save")
    return Declared(name, tensor.dtype, tuple(tensor.shape))


def write_tensors(sink: Sink, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a header and the tensors after it."""
    declared = [declaration(name, tensor) for name, tensor in tensors.items()]
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for each in declared:
        dtype, shape = each.stored
        header[each.name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + each.size]}
        end += each.size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    sink.write(len(head).to_bytes(8, "little") + head)
    for tensor in tensors.values():
        for piece in _pieces(tensor):
            sink.write(piece)


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor in row-major order."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
    content = memoryview(flat.numpy())  # type: ignore[arg-type]
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself: its tensors in the order of their bytes, and texts beside them."""

    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    metadata: Mapping[str, str]


def read_header(file: IO[bytes], size: int, what: str) -> Header:
    """The header, checked against the size of the whole; leaves the file at the first tensor's first byte.

    Raises:
        CheckpointError: something in it is wrong.
    """
    length = int.from_bytes(_exactly(file, 8, what), "little") if size >= 8 else 0
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        raise CheckpointError(f"{what} says that its header has {length:,} bytes; the whole has {size:,}")
    content = b"".join(_exactly(file, count, what) for count in _counts(length))
    entries = mapping(parse(content, f"the header of {what}", longest=_LONGEST_HEADER), f"the header of {what}")
    metadata = mapping(entries.pop("__metadata__", {}), f"the metadata of {what}")
    for each in metadata.values():
        text(each, f"the metadata of {what}", longest=_LONGEST_HEADER)
    return Header(_in_order(entries, size - 8 - length, what), metadata)


def _in_order(entries: Mapping[str, object], size: int, what: str) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    found = []
    for name, entry in entries.items():
        told = f"{name[:200]!r} in {what}"
        given = fields(entry, told, ("dtype", "shape", "data_offsets"))
        dtype = one_of(given["dtype"], f"the dtype of {told}", _BY_NAME)
        sizes = array(given["shape"], f"the shape of {told}", most=_MOST_DIMENSIONS)
        shape = tuple(integer(each, f"the shape of {told}", least=0) for each in sizes)
        start, end = (
            integer(each, f"the offsets of {told}", least=0, most=size)
            for each in pair(given["data_offsets"], f"the offsets of {told}")
        )
        if end - start != math.prod(shape) * _BY_NAME[dtype].itemsize:
            raise CheckpointError(f"{told} has {end - start:,} bytes for {dtype} {list(shape)}")
        found.append((start, end, (name, dtype, shape)))
    found.sort(key=lambda each: each[:2])
    _check_cover([each[:2] for each in found], size, what)
    return tuple(each[2] for each in found)


def pair(value: object, what: str) -> list[object]:
    """A list of two."""
    found = array(value, what, most=2)
    if len(found) != 2:
        raise CheckpointError(f"{what} are not two")
    return found


def _check_cover(ranges: Iterable[tuple[int, int]], size: int, what: str) -> None:
    """From 0 to the end, each where the one before it ends."""
    reached = 0
    for start, end in ranges:
        if start != reached:
            raise CheckpointError(f"the tensors in {what} overlap, or leave bytes between them, at byte {reached:,}")
        reached = end
    if reached != size:
        raise CheckpointError(f"{what} has {size:,} bytes of numbers; its tensors have {reached:,}")


def read_tensors(file: IO[bytes], size: int, declared: Iterable[Declared], what: str) -> dict[str, Tensor]:
    """Exactly the tensors that are declared, on the CPU.

    Args:
        file: at its begin.
        size: bytes of the whole.
        declared: what there has to be, in any order.
        what: what the file is called in errors.

    Raises:
        CheckpointError: one is missing, extra, or of another type or shape, or the header is wrong.
    """
    wanted = {each.name: each for each in declared}
    header = read_header(file, size, what)
    for name, dtype, shape in header.tensors:
        if name not in wanted:
            raise CheckpointError(f"{what} has the unexpected tensor {name[:200]!r}")
        if (dtype, list(shape)) != wanted[name].stored:
            expected, sizes = wanted[name].stored
            raise CheckpointError(f"{name} is {dtype} {list(shape)} in {what}, expected {expected} {sizes}")
    missing = wanted.keys() - {name for name, _, _ in header.tensors}
    if missing:
        raise CheckpointError(f"{what} lacks the tensor {min(missing)!r}")
    found = {name: _read(file, wanted[name], what) for name, _, _ in header.tensors}
    if file.read(1):  # reaching the end is what verifies the member's checksum
        raise CheckpointError(f"{what} goes on after its last tensor")
    return found


def _read(file: IO[bytes], declared: Declared, what: str) -> Tensor:
    made = torch.empty(declared.size, dtype=torch.uint8, device="cpu")
    content, start = memoryview(made.numpy()), 0  # type: ignore[arg-type]
    for count in _counts(declared.size):
        content[start : start + count] = _exactly(file, count, what)
        start += count
    if declared.dtype is torch.bool and bool((made > 1).any()):
        raise CheckpointError(f"{declared.name} in {what} has bytes that are neither true nor false")
    return made.view(declared.dtype).reshape(declared.shape)


def _counts(size: int) -> Iterator[int]:
    """A size in pieces that can be read at once."""
    for start in range(0, size, PIECE):
        yield min(PIECE, size - start)


def _exactly(file: IO[bytes], count: int, what: str) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise CheckpointError(f"{what} ends too early")
    return found
