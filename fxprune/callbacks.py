"""What the user passes in and fxprune calls: functions, and data to be gone through.

An exception that one of them raises is the user's own and goes up as it is, Ctrl-C and `SystemExit` included, with a note
(PEP 678) of where it comes from. Nothing is called while something of the user's model is out of place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MARK = "fxprune_argument"


def noting(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call the function that was passed as an argument of that name.

    Raises:
        RuntimeError: it raised StopIteration, which would end the generator that called it without a word.
    """
    try:
        return function(*args)
    except StopIteration as error:
        raise _noted(RuntimeError("StopIteration"), name, f"the function that was passed as {name}=") from error
    except BaseException as error:
        _noted(error, name, f"the function that was passed as {name}=")
        raise


def noting_data(function: Callable[..., Any], *args: Any) -> Any:
    """Call something that goes through the user's data."""
    try:
        return function(*args)
    except BaseException as error:
        _noted(error, "data", "what was passed as data=, while it was gone through")
        raise


def _noted(error: BaseException, name: str, where: str) -> BaseException:
    error.add_note(f"raised by {where}")
    error.__dict__[_MARK] = name
    return error


def is_users(error: BaseException) -> bool:
    """Whether an error was raised by something that the user passed in."""
    return _MARK in error.__dict__
