"""Slim models as files: `save`, `load`, `restore`."""

from fxprune.files.load import load
from fxprune.files.restore import restore
from fxprune.files.save import save

__all__ = ["load", "restore", "save"]
