"""Options of backends on the command line: those that most want by name, every other one as `--option NAME=VALUE`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fxprune.backends import get_backend
from fxprune.cli.models import parse_arguments
from fxprune.errors import InputError

__all__ = ["add_lowering_options", "backend_options", "lowering_arguments"]

_OURS = ("self", "module", "path", "example_inputs", "timing")


def add_lowering_options(group: argparse._ArgumentGroup) -> None:
    """Say how a backend writes its artifact."""
    group.add_argument("--precision", metavar="NAME", help="fp32, tf32, fp16 or bf16 (tensorrt)")
    group.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="of the GPU to build for, such as 8.9 (tensorrt; default: the one here)",
    )
    group.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="NAME=MIN,OPT,MAX",
        help="range of a dynamic size, such as batch=1,8,64, once for each (tensorrt)",
    )
    group.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operator set")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="any other option of the backend"
    )


def lowering_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the backend's `lower` that `add_lowering_options` describes, those that were given.

    Raises:
        InputError: the backend has no such option.
    """
    named = {
        "precision": options.precision,
        "compute_capability": options.compute_capability,
        "profiles": parse_profile(options.profile),
        "opset": options.opset,
    }
    given = {name: value for name, value in named.items() if value is not None}
    given |= parse_arguments(options.option)
    _check(options.backend, get_backend(options.backend).lower, given)
    return given


def backend_options(texts: Sequence[str]) -> dict[str, dict[str, object]]:
    """Options for measuring by backend, from texts such as `inductor.mode=max-autotune`.

    Raises:
        InputError: a text is none such, or a backend has no such option.
    """
    found: dict[str, dict[str, object]] = {}
    for text in texts:
        backend, dot, rest = text.partition(".")
        if not dot or "=" not in rest:
            raise InputError(f"--option {text!r} names no backend's option: write it as inductor.mode=max-autotune")
        found.setdefault(backend, {}).update(parse_arguments([rest]))
    for backend, given in found.items():
        _check(backend, get_backend(backend).prepared, given)
    return found


def parse_profile(texts: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Ranges by the name of a dynamic size; None for none.

    Raises:
        InputError: a text is no range.

    Example:
        >>> parse_profile(["batch=1,8,64"])
        {'batch': (1, 8, 64)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        numbers = sizes.split(",")
        if not name or len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
            raise InputError(f"--profile {text!r} is no range: write it as batch=1,8,64 (smallest, optimal, largest)")
        found[name] = tuple(map(int, numbers))
    return found or None


def _check(backend: str, method: Callable[..., Any], given: Mapping[str, object]) -> None:
    """Refuse options that the backend's method does not name, unless it takes any."""
    parameters = dict(inspect.signature(method).parameters)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        parameters |= inspect.signature(get_backend(backend).lower).parameters
    known = [name for name in parameters if name not in (*_OURS, "options")]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"backend {backend!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
