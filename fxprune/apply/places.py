"""Where in the user's code an operation was called: the key by which calls and nodes of the graph find each other."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType, TracebackType

import torch
from torch.fx import Node

from fxprune.passes.raising import module_path

_TORCH = os.path.dirname(torch.__file__) + os.sep
MODULES = torch.nn.modules.module.__file__
"""The file whose functions call a module's forward."""
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_FRAME = re.compile(r'File "(?P<file>.*?)", line (?P<line>\d+)')


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the user's code, run by one module.

    Attributes:
        path: the module.
        file: the file of the innermost frame outside of torch; empty where there is none.
        line: its line.
    """

    path: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """File, line and its text."""
        import linecache

        code = linecache.getline(self.file, self.line).strip()
        return f'File "{self.file}", line {self.line}: {code}' if self.file else "(no source line)"


def current_place(path: str) -> Place:
    """The line that the caller's caller runs on behalf of."""
    return place_of_frame(path, current_frame())


def current_frame() -> FrameType | None:
    """The innermost frame of the user's code; to be looked at while it is alive."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def lines_of_frame(path: str, frame: FrameType | None) -> tuple[Place, ...]:
    """The lines of the user's code from a frame out to the forward of the module that runs.

    A graph may know an operation by the line of the forward alone.
    """
    return tuple(place_of_frame(path, each) for each in users_frames(frame)) or (Place(path),)


def users_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Frames of the user's code from a frame out to the forward of the module that runs."""
    while frame is not None and frame.f_code.co_filename != MODULES:
        if is_users(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def place_of_frame(path: str, frame: FrameType | None) -> Place:
    """The line that a frame is at."""
    return Place(path) if frame is None else Place(path, frame.f_code.co_filename, frame.f_lineno)


def place_of_node(node: Node) -> Place:
    """The line that a node was captured from."""
    path = module_path(node) or ""
    frames = [match for match in _FRAME.finditer(node.meta.get("stack_trace") or "") if is_users(match["file"])]
    return Place(path, frames[-1]["file"], int(frames[-1]["line"])) if frames else Place(path)


def place_of_error(path: str, traceback: TracebackType | None) -> Place:
    """The innermost line of the user's that an exception passed."""
    place = Place(path)
    while traceback is not None:
        if is_users(traceback.tb_frame.f_code.co_filename):
            place = Place(path, traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return place


@lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether a file is neither torch's nor fxprune's (its demonstration models are as a user's)."""
    if file.startswith(os.path.join(_OWN, "demo")):
        return True
    return not file.startswith((_TORCH, _OWN, "<"))
