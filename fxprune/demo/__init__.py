"""The demonstration that `fxprune demo` runs: train, prune, fine-tune, export and measure a small network."""

from fxprune.demo.run import Settings, run_demo

__all__ = ["Settings", "run_demo"]
