"""The entry to the search: pose the problem, deal with the easy ends, and run one method by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from fxprune.errors import InputError
from fxprune.search.choices import Choices, Ints
from fxprune.search.kinds import solve_kinds
from fxprune.search.knapsack import solve_knapsack
from fxprune.search.problem import Costs, Problem, pose, require_feasible
from fxprune.search.threshold import solve_threshold
from fxprune.search.ties import Tie, tie
from fxprune.search.uniform import solve_uniform

METHODS: Mapping[str, Callable[[Problem], Ints]] = {
    "knapsack": solve_knapsack,
    "threshold": solve_threshold,
    "uniform": solve_uniform,
}


def search(
    costs: Costs,
    limits: Mapping[str, float],
    choices: Sequence[Choices],
    method: str = "knapsack",
    ties: Sequence[Tie] = (),
    *,
    joint: bool = False,
) -> dict[str, int]:
    """Choose a width for every group so that all limits hold and little is lost.

    Deterministic: the same arguments give the same widths. No width is ever chosen that breaks a limit by the costs
    given, however slightly.

    Args:
        costs: cost of any widths; a narrower group must never cost more.
        limits: metric to largest allowed amount.
        choices: candidate widths and losses, one per group of `costs`, in the same order.
        method: `knapsack` (least sum of losses), `threshold` (one bound on every loss) or `uniform` (one keep-ratio).
        ties: groups whose widths keep their proportions; their choices are of one length.
        joint: for `uniform`: whether losses of different groups compare, so that the widths of what is tied are chosen to
            lose least together; otherwise all keep one ratio, or what comes near to it and spends the budget (`search.kinds`).

    Returns:
        Group name to width; the original sizes where they already meet the limits.

    Raises:
        InfeasibleBudget: the narrowest candidates do not meet a limit.
        InputError: there is no such method.
    """
    solve = _method(method)
    if method == "uniform" and (joint or any(len(tie.groups) > 1 for tie in ties)):
        solve = solve_knapsack if joint else solve_kinds
    tied, merged = tie(costs, choices, ties)
    problem = pose(tied if ties else costs, limits, merged)
    levels = problem.full
    if limits and not problem.feasible(levels[None])[0]:
        require_feasible(problem)
        levels = solve(problem)
        # Above 2^53 a sum may depend on the size of the batch that it was evaluated in, by rounding.
        assert (problem.usage(levels[None])[0] <= problem.limits * (1 + 1e-12)).all(), f"{method} broke a limit"
    return dict(zip(costs.groups, tied.expand(problem.widths_at(levels)[None])[0].tolist(), strict=True))


def _method(name: object) -> Callable[[Problem], Ints]:
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if name == "grid" or not isinstance(name, str):
        raise InputError(f"search={name!r} works with `compile` alone. Write one of: {', '.join(METHODS)}.")
    close = get_close_matches(str(name), METHODS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(f"There is no search method {name!r}.{hint} Write one of: {', '.join(METHODS)}.")
