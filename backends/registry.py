"""How a backend is found by its name.

Those that come with fxprune are listed here; others announce themselves with the entry point group `fxprune.backends`,
whose entries name a class without constructor arguments (or an instance). Nothing is imported before it is asked for.
Two owners of one name are an error, but only for whoever asks for that name: a plug-in can neither replace a built-in
backend unnoticed nor break the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fxprune.backends.base import Backend
from fxprune.errors import BackendError, PluginError

GROUP = "fxprune.backends"
BUILT_IN = (
    EntryPoint("eager", "fxprune.backends.eager:EagerBackend", GROUP),
    EntryPoint("onnx", "fxprune.backends.onnx:OnnxBackend", GROUP),
    EntryPoint("onnxruntime", "fxprune.backends.onnxruntime:OnnxRuntimeBackend", GROUP),
    EntryPoint("inductor", "fxprune.backends.inductor:InductorBackend", GROUP),
    EntryPoint("tensorrt", "fxprune.backends.tensorrt:TensorRtBackend", GROUP),
)


def backend_names() -> tuple[str, ...]:
    """Names of all backends, those that come with fxprune first."""
    return tuple(dict.fromkeys(entry.name for entry in (*BUILT_IN, *_plugins())))


def get_backend(name: str) -> Backend:
    """The backend called `name`, usable or not.

    Raises:
        BackendError: there is none; the message lists what there is.
        PluginError: it has two owners, cannot be imported, or is no backend.
    """
    owners = {entry.value: entry for entry in (*BUILT_IN, *_plugins()) if entry.name == name}
    if not owners:
        raise BackendError(f"there is no backend {name!r}; there are: {describe_backends()}")
    if len(owners) > 1:
        claims = " and ".join(f"{_owner(entry)} ({entry.value})" for entry in owners.values())
        raise PluginError(f"backend {name!r} is claimed by {claims}: uninstall or rename one of them")
    return _load(next(iter(owners.values())))


def get_usable_backend(name: str) -> Backend:
    """The backend called `name`, if it can be used here.

    Raises:
        BackendError: there is none, or it lacks a package: the message says what to install.
        PluginError: as for `get_backend`.
    """
    backend = get_backend(name)
    reason = backend.available()
    if reason is not None:
        raise BackendError(f"backend {name!r} is not available: {reason}")
    return backend


def describe_backends() -> str:
    """One line: all backends' names, with what to install where something is missing."""
    return "; ".join(_describe(name) for name in backend_names())


def require(package: str, *, install: str) -> Any:
    """Import `package`, which fxprune can do without.

    Raises:
        BackendError: it cannot be imported; `install` is what the message says to do.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise BackendError(f"the package {package!r} cannot be imported: {install}") from error


def missing(packages: Sequence[str], *, install: str) -> str | None:
    """None if all `packages` can be imported, else one line that names the first that cannot and says `install`."""
    for package in packages:
        try:
            import_module(package)
        except ImportError:
            return f"the package {package!r} cannot be imported: {install}"
    return None


def _describe(name: str) -> str:
    """A backend's name, and why it is not usable if so."""
    try:
        reason = get_backend(name).available()
    except PluginError as error:
        reason = str(error)
    return name if reason is None else f"{name} (not available: {reason})"


def _plugins() -> tuple[EntryPoint, ...]:
    """What installed distributions announce."""
    return tuple(entry_points(group=GROUP))


def _owner(entry: EntryPoint) -> str:
    """Name of the distribution that announces `entry`."""
    return "fxprune" if entry in BUILT_IN or entry.dist is None else entry.dist.name


def _load(entry: EntryPoint) -> Backend:
    """Import what `entry` names and check that it is a backend."""
    try:
        found = entry.load()
        backend = found() if isinstance(found, type) else found
    except Exception as error:
        raise PluginError(f"backend {entry.name!r} of {_owner(entry)} cannot be loaded: {error}") from error
    if not isinstance(backend, Backend):
        raise PluginError(
            f"{entry.value} of {_owner(entry)} is no backend: it needs name, available, lower, load, prepared and "
            "measure (fxprune.backends.Backend)"
        )
    return backend
