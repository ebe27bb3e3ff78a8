"""The code in docs/backends.md runs, in order, as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

GUIDE = Path(__file__).parent.parent / "docs" / "backends.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = GUIDE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 4
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], str(GUIDE), "exec"), names)
    assert {file.name for file in tmp_path.iterdir()} == {"slim.onnx", "slim.engine"}
    assert "input: float32 [batch, 3, 16, 16]" in capsys.readouterr().out
