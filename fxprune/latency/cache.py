"""Times that were measured once, on disk: a file for each backend, its options, device and versions.

It lies in the user's cache folder (`FXPRUNE_CACHE` names another): $XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on
macOS, %LOCALAPPDATA% on Windows. A key is the digest of a fragment's signature and its sizes, so that alike fragments of
different models share a time. Files are written whole or not at all; one that is damaged, or entries that are no times, are
left out with a warning, and measured again. What cannot be written is remembered for as long as the process lives.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxprune.backends.atomic import replacing
from fxprune.errors import BackendError, FxpruneError
from fxprune.safe_json import parse

SCHEMA = 3
LONGEST = 2**26
"""Bytes that a file of times may have."""


@dataclass(slots=True)
class Times:
    """Seconds by key, in memory and, with a path, on disk.

    Attributes:
        path: the file; None for memory alone.
        environment: what the times hold for.
        known: key -> seconds.
    """

    path: Path | None
    environment: Mapping[str, str]
    known: dict[str, float] = field(default_factory=dict)

    def put(self, found: Mapping[str, float]) -> None:
        """Remember, on the disk once this returns; what another process wrote meanwhile stays."""
        self.known.update(found)
        if self.path is None or not found:
            return
        everything = {**_read(self.path, self.environment), **self.known}
        text = json.dumps({"schema": SCHEMA, "environment": dict(self.environment), "seconds": everything}, indent=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as path:
                path.write_text(text)
        except (OSError, BackendError) as error:
            warnings.warn(f"measured times cannot be kept in {self.path}: {error}", stacklevel=2)
            self.path = None


def open_times(environment: Mapping[str, str], *, folder: Path | None = None, keep: bool = True) -> Times:
    """The times that are known for an environment."""
    if not keep:
        return Times(None, environment)
    path = (cache_folder() if folder is None else folder) / "latency" / f"{digest(environment)}.json"
    return Times(path, environment, _read(path, environment))


def cache_folder() -> Path:
    """Where fxprune keeps what it can find out again."""
    named = os.environ.get("FXPRUNE_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fxprune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fxprune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxprune"


def digest(what: Any) -> str:
    """A short name for what JSON can say."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(path: Path, environment: Mapping[str, str]) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > LONGEST:
            raise BackendError("it is too large")
        data = parse(path.read_bytes(), "the file", longest=LONGEST)
        if data["schema"] != SCHEMA or data["environment"] != dict(environment):
            raise BackendError("it is of another version or another machine")
        entries = dict(data["seconds"])
    except (OSError, FxpruneError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"times in {path} are not used, and measured again: {error}", stacklevel=3)
        return {}
    good = {key: float(each) for key, each in entries.items() if _is_time(each)}
    if len(good) < len(entries):
        warnings.warn(f"{len(entries) - len(good)} entries of {path} are no times, and measured again", stacklevel=3)
    return good


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
