"""Text for a small language model, without downloads: the Python source of installed packages, as tokens of its own vocabulary.

Files are held out by a hash of their text (one in 50), so that no line of a training file is a line of a held-out one by
copying: files with equal text count once. A byte-level BPE vocabulary (`tokenizers`) is trained on part of the training
files. The same installed versions give the same tokens.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "timm",
    "scipy",
    "sympy",
    "sklearn",
    "numpy",
    "networkx",
    "onnx",
    "matplotlib",
    "pandas",
    "torchvision",
    "huggingface_hub",
    "mpmath",
    "hypothesis",
    "pydantic",
    "rich",
    "jax",
    "cupy",
    "botorch",
    "gpytorch",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "torch_geometric",
    "sentence_transformers",
    "triton",
    "accelerate",
)
HELD_OUT = 50
"""One file in so many is held out."""

SHORTEST, LONGEST = 200, 400_000
"""Bytes of a file."""

BPE_BYTES = 20_000_000
END = "<|end|>"


@dataclass(frozen=True, slots=True)
class Text:
    """Token streams, files one after the other, each ended by the token 0.

    Attributes:
        train: token numbers `[tokens]`, uint16.
        held: those of held-out files.
        bytes_per_token: of the held-out text, to turn losses into bits per byte.
    """

    train: np.ndarray[Any, np.dtype[np.uint16]]
    held: np.ndarray[Any, np.dtype[np.uint16]]
    bytes_per_token: float


def read(limit: int, vocabulary: int, packages: Iterable[str] = PACKAGES) -> Text:
    """Tokenize at most `limit` bytes of source."""
    train, held = split(sources(packages), limit)
    tokenizer = train_tokenizer(train, vocabulary)
    streams = [encode(tokenizer, part) for part in (train, held)]
    size = sum(len(each.encode()) for each in held)
    return Text(streams[0], streams[1], size / max(len(streams[1]), 1))


def kept(file: Path, make: Callable[[], Text]) -> Text:
    """The text in a file, made and written there if there is none."""
    if not file.exists():
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".new").open("wb") as out:
            np.savez(out, train=made.train, held=made.held, bytes_per_token=made.bytes_per_token)
        file.with_suffix(".new").replace(file)
    with np.load(file) as found:
        return Text(found["train"], found["held"], float(found["bytes_per_token"]))


def sources(packages: Iterable[str]) -> Iterator[tuple[bytes, str]]:
    """(hash, text) of every Python file that is neither very short nor very long, each text once."""
    seen: set[bytes] = set()
    for package in packages:
        for path in files(package):
            text = path.read_text(encoding="utf-8", errors="ignore")
            digest = hashlib.sha256(text.encode()).digest()
            if SHORTEST <= len(text) <= LONGEST and digest not in seen:
                seen.add(digest)
                yield digest, text


def files(package: str) -> list[Path]:
    """The package's Python files, none where it is not installed; nothing of it is imported."""
    spec = importlib.util.find_spec(package)
    return sorted(Path(spec.origin).parent.rglob("*.py")) if spec is not None and spec.origin else []


def split(found: Iterable[tuple[bytes, str]], limit: int) -> tuple[list[str], list[str]]:
    """Training and held-out texts in the order of their hashes, up to a number of bytes."""
    train: list[str] = []
    held: list[str] = []
    size = 0
    for digest, text in sorted(found):
        if size > limit:
            break
        size += len(text)
        part = held if int.from_bytes(digest[-4:], "big") % HELD_OUT == 0 else train
        part.append(text)
    return train, held


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """A byte-level BPE vocabulary; token 0 ends a file."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    size, part = 0, []
    for text in texts:
        part.append(text)
        size += len(text)
        if size > BPE_BYTES:
            break
    tokenizer.train_from_iterator(part, vocab_size=vocabulary, special_tokens=[END], show_progress=False)
    return tokenizer


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """All texts as one stream."""
    made = [np.array([*each.ids, 0], dtype=np.uint16) for each in tokenizer.encode_batch(texts)]
    return np.concatenate(made) if made else np.zeros(0, np.uint16)


def windows(stream: np.ndarray[Any, np.dtype[np.uint16]], length: int, count: int, seed: int) -> Tensor:
    """Random pieces of a stream, `[count, length]`, int64."""
    starts = np.random.default_rng(seed).integers(0, len(stream) - length, count)
    return torch.from_numpy(np.stack([stream[at : at + length] for at in starts]).astype(np.int64))
