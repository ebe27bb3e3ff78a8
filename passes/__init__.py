"""Scorers and graph passes."""
