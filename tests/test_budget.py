"""What users write as a budget, and what they are told when it is no budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxprune.budget import Budget, format_amount, parse_budget
from fxprune.errors import BudgetError

ORIGINAL = {"flops": 3.6e9, "params": 25e6, "memory": 100e6}


@pytest.mark.parametrize(
    ("written", "flops"),
    [
        ("50%", 1.8e9),
        (" 50 % ", 1.8e9),
        (0.5, 1.8e9),
        ("0.5", 1.8e9),
        (1, 3.6e9),
        (1.0, 3.6e9),
        ("100%", 3.6e9),
        (1.8e9, 1.8e9),
        ("1.8e9", 1.8e9),
        ("1.8G", 1.8e9),
        ("1.8 GFLOPs", 1.8e9),
        ("1.8 gflop", 1.8e9),
        ("900 MFLOPs", 9e8),
        ("0.5 M", 5e5),
        (np.float32(0.5), 1.8e9),
        (np.int64(2_000_000), 2e6),
        (1e15, 1e15),
    ],
)
def test_one_value_limits_flops(written: Any, flops: float) -> None:
    assert parse_budget(written, ORIGINAL) == Budget({"flops": flops}, {"flops": written})


@pytest.mark.parametrize(
    ("metric", "written", "limit"),
    [
        ("params", "12M", 12e6),
        ("params", "12 M parameters", 12e6),
        ("params", "7B", 7e9),
        ("params", 12e6, 12e6),
        ("params", "20%", 5e6),
        ("memory", "40 MB", 40e6),
        ("memory", "40 MiB", 40 * 2**20),
        ("memory", "1.5 GB", 1.5e9),
        ("memory", "0.5 MB", 5e5),
        ("memory", "512 bytes", 512),
        ("memory", 0.25, 25e6),
    ],
)
def test_values_of_each_metric(metric: str, written: Any, limit: float) -> None:
    assert parse_budget({metric: written}, ORIGINAL).limits == {metric: limit}


def test_several_limits_keep_what_was_stated() -> None:
    stated: dict[str, str | float] = {"flops": "50%", "params": 12e6, "memory": "40 MB"}
    budget = parse_budget(stated, ORIGINAL)
    assert budget.limits == {"flops": 1.8e9, "params": 12e6, "memory": 40e6}
    assert budget.stated == stated


@pytest.mark.parametrize(
    "written",
    [
        0,
        -1,
        float("nan"),
        float("inf"),
        10**400,
        True,
        False,
        "abc",
        "",
        "%",
        "200%",
        "0%",
        "-5%",
        "nan%",
        "1e400",
        "5..5%",
    ],
)
@pytest.mark.parametrize("metric", ["flops", "params", "memory"])
def test_bad_values_say_what_was_given_and_what_to_write(metric: str, written: Any) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget({metric: written}, ORIGINAL)
    message = str(caught.value)
    assert message.startswith(
        f"The budget for {metric} is {str(written)[:3] if isinstance(written, int) else repr(written)}"
    )
    assert "write" in message
    assert '"50%", 0.5' in message
    assert len(message) < 200


@pytest.mark.parametrize("written", [None, {}, [0.5], (1,), object()])
def test_things_that_are_no_budget(written: Any) -> None:
    with pytest.raises(BudgetError, match='write "50%"'):
        parse_budget(written, ORIGINAL)


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ({"flop": 0.5}, "Did you mean 'flops'? Known here: flops, params, memory."),
        ({"FLOPs": 0.5}, "Did you mean 'flops'?"),
        ({"colour": 0.5}, "'colour', which is not a metric. Known here"),
        ({3: 0.5}, "limits 3, which is not a metric"),
        (
            {"latency": "3 ms"},
            "'latency', which cannot be limited here: it is measured, which works with `compile` alone",
        ),
        ({"throughput": 100}, "cannot be limited here"),
        ({"config": {"hidden_size": 3072}}, "work with `compile` alone"),
        ("40 MB", '{"memory": ...}'),
        ("3 ms", '{"latency": ...}'),
        ({"memory": "40 M"}, "has the unit 'M', which does not measure bytes: write"),
        ({"params": "40 MiB"}, '{"memory": ...}'),
    ],
)
def test_messages_point_to_the_right_key(written: Any, part: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(written, ORIGINAL)
    assert part in str(caught.value)


def test_a_metric_that_is_not_counted_here_is_unknown() -> None:
    with pytest.raises(BudgetError, match="Known here: flops"):
        parse_budget({"params": 0.5}, {"flops": 1e9})


@given(st.floats(min_value=0, max_value=1, exclude_min=True))
def test_a_fraction_never_exceeds_the_original(fraction: float) -> None:
    assert 0 <= parse_budget(fraction, ORIGINAL).limits["flops"] <= ORIGINAL["flops"]


@given(
    st.text(max_size=12) | st.floats() | st.integers() | st.none() | st.dictionaries(st.text(max_size=8), st.floats())
)
def test_anything_gives_a_budget_or_a_budget_error(written: Any) -> None:
    try:
        budget = parse_budget(written, ORIGINAL)
    except BudgetError:
        return
    assert all(0 <= limit < float("inf") for limit in budget.limits.values())


@pytest.mark.parametrize(
    ("metric", "amount", "text"),
    [
        ("flops", 1.8e9, "1.8 GFLOPs"),
        ("flops", 12, "12 FLOPs"),
        ("params", 12e6, "12 M parameters"),
        ("params", 10, "10 parameters"),
        ("memory", 40e6, "40 MB"),
        ("memory", 0, "0 B"),
        ("latency", 0.0031, "3.1 ms"),
    ],
)
def test_amounts_for_people(metric: str, amount: float, text: str) -> None:
    assert format_amount(metric, amount) == text
