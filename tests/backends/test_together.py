"""Several modules prepared at a time are what each would be by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxprune.backends.base import own_clock_of
from fxprune.backends.measure import thread_clock, wall_clock
from fxprune.backends.onnx_together import export_together
from fxprune.backends.onnxruntime import OnnxRuntimeBackend
from fxprune.backends.together import prepared_all
from fxprune.errors import BackendError
from fxprune.inputs import Inputs

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ONNX = OnnxRuntimeBackend()


class Both(nn.Module):
    """Positional and keyword inputs, two outputs, one of which does not depend on all inputs; writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Any]:
        hidden = self.linear(x).relu_()
        return {"scaled": hidden * scale, "rest": (x + 1,)}


class Untranslatable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.special.bessel_j0(x)
        return found


def several() -> tuple[list[nn.Module], list[Inputs]]:
    """Modules, two of which are equal, and inputs, two of which are the same tensor."""
    torch.manual_seed(0)
    x, images = torch.randn(3, 6), torch.randn(2, 3, 8, 8)
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    linear = nn.Linear(6, 5)
    modules = [conv, Both().eval(), linear, linear, nn.Identity()]
    return modules, [((images,), {}), ((x,), {"scale": torch.tensor(2.0)}), ((x,), {}), ((x,), {}), ((x,), {})]


def check(modules: Sequence[nn.Module], inputs: Sequence[Inputs], found: Sequence[Any]) -> None:
    assert len(found) == len(modules)
    for module, (args, kwargs), runner in zip(modules, inputs, found, strict=True):
        expected = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
        torch.testing.assert_close(runner.run(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)


def test_modules_are_exported_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, inputs = several()
    modules, inputs = modules[:4], inputs[:4]
    exports = counted(monkeypatch)
    with torch.no_grad(), prepared_all(ONNX, modules, example_inputs=inputs, verify=False, threads=1) as found:
        check(modules, inputs, found)
    assert exports == [1]


def test_what_cannot_be_taken_apart_is_exported_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, inputs = several()
    modules.append(Untranslatable().eval())
    inputs.append(((torch.randn(4),), {}))
    with torch.no_grad(), prepared_all(ONNX, modules, example_inputs=inputs, verify=False, threads=1) as found:
        *runners, refused = found
        check(modules[:-1], inputs[:-1], runners)
    assert isinstance(refused, BackendError)
    assert "bessel" in str(refused)


def test_what_is_to_be_verified_is_exported_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, inputs = several()
    exports = counted(monkeypatch)
    with torch.no_grad(), prepared_all(ONNX, modules[:3], example_inputs=inputs[:3], threads=1) as found:
        check(modules[:3], inputs[:3], found)
    assert not exports


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that several modules are exported in one go."""
    exports: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        exports.append(1)
        return export_together(*args, **options)

    monkeypatch.setattr("fxprune.backends.onnx_together.export_together", counting)
    return exports


def test_modules_stay_in_the_mode_that_they_were_in() -> None:
    modules, inputs = several()
    modules[0].train()
    with prepared_all(ONNX, modules[:2], example_inputs=inputs[:2], verify=False) as found:
        expected = modules[0].eval()(*inputs[0][0])
        modules[0].train()
        torch.testing.assert_close(found[0].run(*inputs[0][0])[0], expected, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
        assert modules[0].training


def test_a_thread_s_own_time_leaves_out_waiting() -> None:
    def waiting() -> None:
        time.sleep(0.05)

    assert thread_clock(waiting) < 0.03 < wall_clock(waiting)
    assert thread_clock(lambda: sum(range(100_000))) > 0


def test_a_session_with_one_thread_is_timed_by_its_own_time() -> None:
    modules, inputs = several()
    for threads, clock in ((1, thread_clock), (2, wall_clock)):
        with ONNX.prepared(modules[2], example_inputs=inputs[2], verify=False, threads=threads) as runner:
            assert own_clock_of(runner) is clock
            assert runner.clock is wall_clock
