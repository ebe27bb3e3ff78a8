"""Ranges of dynamic sizes: for which shapes an engine is built, and for which it is fastest.

An engine has one or several *optimisation profiles*; each gives every dynamic size a smallest, an optimal and a largest
value. Sizes are named (`batch`), so a profile is a mapping from names to three numbers, and the shapes of all inputs
follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from fxprune.backends.base import TensorSpec
from fxprune.errors import BackendError

Range: TypeAlias = tuple[int, int, int]
Profile: TypeAlias = Mapping[str, Range]
Shapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def choose_profiles(
    inputs: Sequence[TensorSpec],
    example_shapes: Mapping[str, Sequence[int]],
    wanted: Profile | Sequence[Profile] | None,
) -> tuple[Profile, ...]:
    """Profiles for an engine: those wanted, else one from 1 to the sizes of the example, at which it is optimal.

    Args:
        inputs: the inputs, with names for dynamic sizes.
        example_shapes: shape of the example of each input.
        wanted: name of a dynamic size -> (smallest, optimal, largest), or several such mappings.

    Raises:
        BackendError: a range is none, or names a size that is not dynamic, or a dynamic size has none.

    Example:
        >>> choose_profiles([TensorSpec("x", "float32", ("batch", 3))], {"x": (8, 3)}, None)
        ({'batch': (1, 8, 8)},)
    """
    example = {
        size: example_shapes[spec.name][dim]
        for spec in inputs
        for dim, size in enumerate(spec.shape)
        if isinstance(size, str)
    }
    if wanted is None:
        return ({name: (1, size, size) for name, size in example.items()},) if example else ()
    profiles = [wanted] if isinstance(wanted, Mapping) else list(wanted)
    return tuple(_checked(profile, list(example)) for profile in profiles)


def shapes_in(profile: Profile, spec: TensorSpec) -> Shapes:
    """The smallest, optimal and largest shape of an input."""
    smallest, optimal, largest = (
        tuple(profile[size][which] if isinstance(size, str) else size for size in spec.shape) for which in range(3)
    )
    return smallest, optimal, largest


def fitting_profile(
    profiles: Sequence[Profile], inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]
) -> int:
    """Index of the first profile that takes inputs of these shapes; 0 where there are no dynamic sizes.

    Raises:
        BackendError: none does; the message says what the engine was built for.
    """
    for index, profile in enumerate(profiles or [{}]):
        if all(_fits(shapes[spec.name], spec, profile) for spec in inputs):
            return index
    given = ", ".join(f"{spec.name} {list(shapes[spec.name])}" for spec in inputs)
    built = "; ".join(map(str, inputs))
    ranges = " or ".join(describe(profile) for profile in profiles)
    raise BackendError(
        f"inputs of shape {given} do not fit the engine: it takes {built}"
        + (f" with {ranges}. Build it with other profiles=" if ranges else "")
    )


def describe(profile: Profile) -> str:
    """`batch from 1 to 8`."""
    return " and ".join(f"{name} from {low} to {high}" for name, (low, _, high) in profile.items())


def _fits(shape: Sequence[int], spec: TensorSpec, profile: Profile) -> bool:
    if len(shape) != len(spec.shape):
        return False
    smallest, _, largest = shapes_in(profile, spec)
    same = {
        size: shape[dim] for dim, size in enumerate(spec.shape) if isinstance(size, str)
    }  # one name, one size: all its places have to agree
    agree = all(shape[dim] == same[size] for dim, size in enumerate(spec.shape) if isinstance(size, str))
    return agree and all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))


def _checked(profile: Profile, names: Sequence[str]) -> Profile:
    """A profile of the user's in our form, if it says each dynamic size."""
    if set(profile) != set(names):
        known = ", ".join(names) or "none (export with dynamic_batch=True)"
        raise BackendError(f"profiles= has ranges for {', '.join(profile) or 'nothing'}; the dynamic sizes are {known}")
    checked: dict[str, Range] = {}
    for name, sizes in profile.items():
        if (
            len(sizes) != 3
            or not all(isinstance(size, int) for size in sizes)
            or not 0 < sizes[0] <= sizes[1] <= sizes[2]
        ):
            raise BackendError(
                f"profiles= gives {name!r} the range {sizes!r}: pass (smallest, optimal, largest), such as (1, 8, 64)"
            )
        checked[name] = (sizes[0], sizes[1], sizes[2])
    return checked
