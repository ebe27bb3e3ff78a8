from __future__ import annotations

import pytest

from fxprune.cli.options import parse_budget_options
from fxprune.errors import InputError


def test_one_budget_needs_no_metric() -> None:
    assert parse_budget_options(["50%"]) == "50%"


def test_several_budgets_are_joined() -> None:
    assert parse_budget_options(["flops=50%", "memory=40 MB"]) == {"flops": "50%", "memory": "40 MB"}


@pytest.mark.parametrize("texts", [["50%", "40%"], ["flops=50%", "40%"], ["flops=50%", "flops=40%"]])
def test_ambiguous_budgets_are_explained(texts: list[str]) -> None:
    with pytest.raises(InputError, match="each once"):
        parse_budget_options(texts)
