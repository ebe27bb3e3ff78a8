"""The code in docs/operations.md runs, in order, as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDE = Path(__file__).parent.parent / "docs" / "operations.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxprune.rules import unregister

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = GUIDE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 4
    names: dict[str, object] = {"__name__": "guide"}
    try:
        for block in blocks:
            lines = "\n" * text.count("\n", 0, block.start(1))
            exec(compile(lines + block[1], str(GUIDE), "exec"), names)
    finally:
        for name in ("scaled_product", "mean_in_groups"):
            operation = getattr(torch.ops.example, name, None)
            if operation is not None:
                unregister(operation.default)
