"""How backends are found: built in, from plug-ins, clashing, broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from fxprune.backends import Backend, backend_names, get_backend, get_usable_backend, registry
from fxprune.backends.eager import EagerBackend
from fxprune.errors import BackendError, PluginError


class NotABackend:
    """Has none of the methods."""


class Unavailable(EagerBackend):
    """Lacks a package."""

    def available(self) -> str | None:
        return "pip install something"


def announce(monkeypatch: pytest.MonkeyPatch, **plugins: str) -> None:
    entries = tuple(EntryPoint(name, value, registry.GROUP) for name, value in plugins.items())
    monkeypatch.setattr(registry, "_plugins", lambda: entries)


def test_the_built_in_ones_are_backends() -> None:
    assert backend_names()[:5] == ("eager", "onnx", "onnxruntime", "inductor", "tensorrt")
    for name in backend_names()[:5]:
        found = get_backend(name)
        assert isinstance(found, Backend)
        assert found.name == name


def test_plugins_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, mine=f"{__name__}:Unavailable")
    assert "mine" in backend_names()
    with pytest.raises(BackendError, match="'mine' is not available: pip install something"):
        get_usable_backend("mine")
    with pytest.raises(BackendError, match=r"no backend 'openvino'; there are: eager; .*mine \(not available: pip"):
        get_usable_backend("openvino")


def test_two_owners_clash_for_that_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, eager=f"{__name__}:Unavailable")
    with pytest.raises(PluginError, match=r"'eager' is claimed by fxprune \(.*EagerBackend\) and .*Unavailable"):
        get_backend("eager")
    assert get_backend("onnx").name == "onnx"


def test_a_backend_announced_twice_alike_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, eager="fxprune.backends.eager:EagerBackend")
    assert get_backend("eager").name == "eager"


def test_broken_plugins_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, absent="no_such_module:Thing", wrong=f"{__name__}:NotABackend")
    with pytest.raises(PluginError, match=r"'absent' of .* cannot be loaded: No module named 'no_such_module'"):
        get_backend("absent")
    with pytest.raises(PluginError, match=r"NotABackend of .* is no backend"):
        get_backend("wrong")
