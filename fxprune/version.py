"""The version of fxprune, stated once."""

__version__ = "0.1.0"
