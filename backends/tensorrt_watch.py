"""What TensorRT says while it works: its log, and how far a build is.

The builder calls back from native code, which a Python exception must not enter. So while a build runs, Ctrl-C sets a
flag instead of raising; the builder asks after every step whether to go on, stops, and the interrupt is raised once it
has returned.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fxprune.backends.tensorrt_package import Package
from fxprune.progress import showing

_LAYERS = re.compile(r"^(?:Layers:|Engine Layer Information:)")
_LAYER = re.compile(r"^(?:Name: |Layer\()", re.MULTILINE)


@dataclass(slots=True)
class Log:
    """What TensorRT reported: errors and warnings, each once and in order, and the number of layers it mentioned."""

    errors: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    layers: int | None = None

    def take(self, severity: str, message: str) -> None:
        """Keep one message of a severity such as `ERROR`."""
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors[message.strip()] = None
        elif severity == "WARNING":
            self.warnings[message.strip()] = None
        elif _LAYERS.match(message):
            self.layers = (self.layers or 0) + len(_LAYER.findall(message))

    def why(self) -> str:
        """The errors in one line."""
        return "; ".join(" ".join(error.split()) for error in self.errors) or "it gave no reason"


def make_logger(package: Package, log: Log) -> Any:
    """A logger of the package's own class that fills `log`; nothing is printed."""
    base: Any = package.module.ILogger

    class Logger(base):  # type: ignore[misc]  # a class of the package chosen at run time
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity.name, message)

    return Logger()


@contextmanager
def watching(package: Package, what: str) -> Iterator[Any]:
    """A progress monitor for one build, shown in our progress bar while the context lasts.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C was pressed meanwhile.
    """
    with ExitStack() as stack:
        cancelled = stack.enter_context(_interrupt_as_flag())
        yield _make_monitor(package, stack, what, cancelled)


def _make_monitor(package: Package, stack: ExitStack, what: str, cancelled: threading.Event) -> Any:
    """A monitor of the package's own class: a bar over the steps of the outermost phase that has several."""
    base: Any = package.module.IProgressMonitor
    bars: dict[str, Any] = {}

    class Monitor(base):  # type: ignore[misc]  # a class of the package chosen at run time
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if steps > 1 and name not in bars:
                bars[name] = (bar := showing(f"{what}: {name}", steps), bar.__enter__())
                stack.callback(self.phase_finish, name)

        def phase_finish(self, name: str) -> None:
            if name in bars:
                bars.pop(name)[0].__exit__(None, None, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name in bars:
                bars[name][1]()
            return not cancelled.is_set()

    return Monitor()


@contextmanager
def _interrupt_as_flag() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and does what it did before once the context ends.

    Nothing changes outside the main thread, which has the signals, and where Ctrl-C is ignored.
    """
    pressed = threading.Event()
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield pressed
        return
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, former)
        if pressed.is_set():
            former(signal.SIGINT, None)
