"""The backends that fxprune comes with time fragments and whole candidates; how long that takes is not looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.backends.base import why_not_runnable
from fxprune.backends.registry import get_backend
from tests.latency.nets import Attention


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, within Inductor
@pytest.mark.parametrize(
    ("backend", "batch"),
    [
        ("eager", 1),
        ("eager", 2),
        pytest.param("onnxruntime", 2, marks=pytest.mark.slow),
        pytest.param("inductor", 2, marks=pytest.mark.slow),
    ],
)
def test_times_are_measured(backend: str, batch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reason = why_not_runnable(get_backend(backend))
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path))
    tokens = torch.randn(batch, 6, 32)
    net: nn.Module = Attention()
    found = fxprune.latency_model(net, tokens, backend=backend, align=4, fitted=2, held_out=1)

    assert not found.refused
    assert np.isfinite(found.factors).all()
    assert found.predict(dict.fromkeys(found.groups, 4)) > 0
    assert (found.held_out > 0).all()
    (file,) = (tmp_path / "latency").iterdir()
    assert backend in file.read_text()
