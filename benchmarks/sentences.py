"""English sentences from the docstrings of installed packages: calibration text for which no download is needed.

A docstring is cut into paragraphs, a paragraph into sentences; what looks like code, tables or lists of parameters is left out.
The same installed versions give the same sentences in the same order: sorted by a hash of themselves, without duplicates.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

CALIBRATION = ("torch", "scipy", "sympy", "pandas", "sklearn", "matplotlib", "timm", "onnx", "networkx")
HELD_OUT = (
    "transformers",
    "numpy",
    "huggingface_hub",
    "hypothesis",
    "rich",
    "jinja2",
    "fsspec",
    "mpmath",
    "torchvision",
)
SHORTEST, LONGEST = 5, 40
"""Words of a sentence."""


def sentences(packages: Iterable[str], count: int) -> list[str]:
    """The first `count` sentences of these packages, those that are not installed left out."""
    found = {each for package in packages for text in docstrings(package) for each in split(text)}
    return sorted(found, key=lambda each: hashlib.sha256(each.encode()).digest())[:count]


def docstrings(package: str) -> Iterator[str]:
    """Docstrings of all modules of a package, read from its files; nothing of it is imported."""
    spec = importlib.util.find_spec(package)
    root = Path(spec.origin).parent if spec is not None and spec.origin else None
    for path in sorted(root.rglob("*.py")) if root is not None else ():
        if "test" in path.as_posix():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def split(text: str) -> Iterator[str]:
    """Sentences of plain words."""
    for paragraph in re.split(r"\n\s*\n", text):
        for each in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
            plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()\-]+[.!?]", each)
            if plain and SHORTEST <= len(each.split()) <= LONGEST:
                yield each
