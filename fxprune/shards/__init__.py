"""Checkpoints on disk, cut by a plan, file by file."""

from fxprune.shards.apply import CutCheckpoint, apply_to_checkpoint

__all__ = ["CutCheckpoint", "apply_to_checkpoint"]
