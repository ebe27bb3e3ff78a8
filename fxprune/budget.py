"""Budgets: what a user writes, turned into absolute limits.

A budget is one value (a limit on FLOPs) or a mapping from metric to value. A value is

- a fraction of the original: `"50%"`, or a number in (0, 1], so that 1 and 1.0 both mean all of it;
- an absolute amount: a number above 1, or a string with a unit (`"1.8 GFLOPs"`, `"12M"` parameters, `"40 MB"`, `"3 ms"`).

A unit makes a value absolute whatever its size. Memory units follow the standard: MB is 10^6 bytes, MiB is 2^20. An
absolute limit above the original is met from the start; a fraction above 100 % is taken for a mistake.

Example:
    >>> parse_budget({"flops": "50%", "memory": "40 MB"}, {"flops": 3.6e9, "memory": 60e6}).limits
    {'flops': 1800000000.0, 'memory': 40000000.0}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from reprlib import repr as short

from fxprune.errors import BudgetError

_COUNT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_DECIMAL_BYTES = {prefix + "b": scale for prefix, scale in _COUNT.items()}
_BINARY_BYTES = {prefix + "ib": 1024.0**power for power, prefix in enumerate("kmgtp", start=1)}


def _counted(*names: str) -> dict[str, float]:
    """Scales of `K`, `M`, ... alone and before each of the names."""
    return _COUNT | {prefix + name: scale for prefix, scale in _COUNT.items() for name in names}


_UNITS: Mapping[str, Mapping[str, float]] = {
    "flops": _counted("flop", "flops"),
    "params": _counted("param", "params", "parameters") | {"b": 1e9},
    "memory": {"": 1.0, "byte": 1.0, "bytes": 1.0} | _DECIMAL_BYTES | _BINARY_BYTES,
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "second": 1.0, "seconds": 1.0},
    "throughput": {"": 1.0, "/s": 1.0, "items/s": 1.0, "samples/s": 1.0, "images/s": 1.0, "k/s": 1e3, "fps": 1.0},
}
_EXAMPLES = {
    "flops": '"50%", 0.5, 1.8e9 or "1.8 GFLOPs"',
    "params": '"50%", 0.5, 12e6 or "12M"',
    "memory": '"50%", 0.5, "40 MB" or "40 MiB"',
    "latency": '"50%", 0.5 or "3 ms"',
    "throughput": '"200%" or "1500/s"',
}
_DISPLAY = {
    "flops": "FLOPs",
    "params": "parameters",
    "memory": "bytes",
    "latency": "time",
    "throughput": "items a second",
}
_UNSUPPORTED = {
    "latency": "it is measured, which works with `compile` alone",
    "throughput": "it is measured, which works with `compile` alone",
    "config": "exact target widths work with `compile` alone, which reads them before this",
}
_SHAPE = 'write "50%", 0.5, 1.8e9 or {"flops": "50%", "params": 12e6, "memory": "40 MB"}'
_NUMBER = re.compile(r"\s*([-+]?(?:[\d._]+(?:e[-+]?\d+)?|inf(?:inity)?|nan))\s*(.*?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits that all have to hold.

    Attributes:
        limits: metric (`flops`, `params`, `memory`, `latency` in seconds) to the largest allowed absolute amount.
        stated: the same metrics as the user wrote them, for reports, `throughput` as what limits latency, and exact
            widths (`config`) where there are some.
    """

    limits: Mapping[str, float]
    stated: Mapping[str, str | float]

    def __post_init__(self) -> None:
        """Check that both views speak of the same metrics and that every limit is a usable number."""
        stated = {"latency" if metric == "throughput" else metric for metric in self.stated}
        assert self.limits.keys() == stated - {"config"}
        assert all(math.isfinite(limit) and limit >= 0 for limit in self.limits.values())


def parse_budget(budget: str | float | Mapping[str, str | float], original: Mapping[str, float]) -> Budget:
    """Turn what the user wrote into absolute limits.

    Args:
        budget: one value, which limits FLOPs, or a mapping from metric to value; see the module's docstring.
        original: the unpruned model's amount of every metric that can be limited.

    Returns:
        The limits in absolute numbers beside the values as stated.

    Raises:
        BudgetError: the budget is empty, names an unknown or unsupported metric, or holds a value that is no positive
            amount or exceeds 100 %.
    """
    stated = _as_mapping(budget)
    for key in stated:
        _check_key(key, original)
    limits = {key: _limit(key, value, original[key]) for key, value in stated.items()}
    return Budget(limits, {key: value if isinstance(value, str) else float(value) for key, value in stated.items()})


def format_amount(metric: str, amount: float) -> str:
    """Write an absolute amount for people: `1.8 GFLOPs`, `12 M parameters`, `40 MB`."""
    exponent = 0 if amount < 1 else min(int(math.log10(amount) / 3), 5)
    digits = f"{amount / 1000.0**exponent:.4g}"
    if metric == "latency":
        return f"{amount * 1e3:.4g} ms"
    if metric == "memory":
        return f"{digits} {['B', 'KB', 'MB', 'GB', 'TB', 'PB'][exponent]}"
    prefix = "KMGTP"[exponent - 1] if exponent else ""
    if metric == "flops":
        return f"{digits} {prefix}FLOPs"
    return f"{digits} {prefix} {metric}".replace("  ", " ").replace("params", "parameters")


def _as_mapping(budget: object) -> dict[str, str | float]:
    if isinstance(budget, Mapping):
        if not budget:
            raise BudgetError(f"The budget is an empty mapping, so nothing is limited: {_SHAPE}.")
        return dict(budget)
    if isinstance(budget, str | Real):
        return {"flops": budget}  # type: ignore[dict-item]  # numbers of other libraries (NumPy's) are Real but not float
    raise BudgetError(f"The budget is {short(budget)}, which is neither a value nor a mapping: {_SHAPE}.")


def _check_key(key: object, original: Mapping[str, float]) -> None:
    known = [metric for metric in _UNITS if metric in original]
    if key in known:
        return
    if key in _UNSUPPORTED:
        reason = _UNSUPPORTED[str(key)]
        raise BudgetError(f"The budget limits {key!r}, which cannot be limited here: {reason}. Use {', '.join(known)}.")
    close = get_close_matches(str(key).lower(), [*known, *_UNSUPPORTED], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BudgetError(f"The budget limits {key!r}, which is not a metric.{hint} Known here: {', '.join(known)}.")


def _limit(metric: str, value: object, original: float) -> float:
    amount, is_share = amount_of(metric, value)
    return amount * original if is_share else amount


def amount_of(metric: str, value: object) -> tuple[float, bool]:
    """What one value of a budget says: an amount, and whether it is a share of the original's.

    Raises:
        BudgetError: it is no positive finite amount of that metric, or a share above 100 % of what is to be at most that.
    """
    number, unit = _split(metric, value)
    if not math.isfinite(number):
        raise _bad(metric, value, "is not a finite amount")
    if number <= 0:
        raise _bad(metric, value, "is not above zero")
    if unit == "%" and number > 100 and metric != "throughput":
        raise _bad(metric, value, "is more than the original model has (100 %)")
    if unit == "%":
        return number / 100, True
    if unit is None and number <= 1 and metric != "throughput":
        return number, True
    amount = number * _scale(metric, value, unit or "")
    if not math.isfinite(amount):
        raise _bad(metric, value, "is not a finite amount")
    return amount, False


def _split(metric: str, value: object) -> tuple[float, str | None]:
    """Number and unit; the unit is None for a bare number."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise _bad(metric, value, "is not an amount")
    if not isinstance(value, str):
        return _as_float(value), None
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise _bad(metric, value, "is not an amount")
    try:
        number = float(match[1])
    except ValueError:
        raise _bad(metric, value, "is not an amount") from None
    return number, match[2] or None


def _as_float(value: Real) -> float:
    """Infinity, which the caller refuses, for an integer too large for a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _scale(metric: str, value: object, unit: str) -> float:
    scale = _UNITS[metric].get(unit.replace(" ", "").lower())
    if scale is None and not unit:
        raise _bad(metric, value, "has no unit")
    if scale is None:
        raise _bad(metric, value, f"has the unit {unit!r}, which does not measure {_DISPLAY[metric]}{_unit_hint(unit)}")
    return scale


def _unit_hint(unit: str) -> str:
    """Point from a unit of another metric to that metric's key."""
    lowered = unit.replace(" ", "").lower()
    owner = next((metric for metric, units in _UNITS.items() if lowered in units.keys() - _COUNT.keys()), None)
    return f' (limit it as {{"{owner}": ...}})' if owner else ""


def _bad(metric: str, value: object, reason: str) -> BudgetError:
    return BudgetError(f"The budget for {metric} is {short(value)}, which {reason}: write {_EXAMPLES[metric]}.")
