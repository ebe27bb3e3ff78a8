"""The code in docs/minitron.md runs, and does what its comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "minitron.md"


@pytest.mark.slow
def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), found)
    assert found["slim"].plan.scorer == "minitron"
    assert len(found["shallow"].plan.dropped) == len(found["exact"].plan.dropped) == 1
    assert found["exact"].plan.widths["model.embed_tokens"] == (48, 64)
    assert found["searched"].plan.search == "grid"
