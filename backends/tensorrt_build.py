"""From an ONNX file to a TensorRT engine: parse, configure, build.

Networks are strongly typed: every layer computes in the types that the ONNX file says
(`fxprune.backends.onnx_precision` writes them), and the builder chooses kernels, not precisions. What the parser
refuses is reported with the ONNX node, and the FX node, module and source line behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxprune.backends.base import TensorSpec
from fxprune.backends.onnx_origin import describe_origin
from fxprune.backends.tensorrt_package import Package
from fxprune.backends.tensorrt_profiles import Profile, shapes_in
from fxprune.backends.tensorrt_watch import Log, make_logger, watching
from fxprune.errors import BackendError

_LEVELS = range(6)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How the builder goes about it.

    Attributes:
        capability: compute capability to build for, such as `8.9`.
        tf32: let float32 products round their inputs to 10 bits of mantissa.
        workspace: most bytes of GPU memory that a layer may use beside its tensors; None for TensorRT's default.
        optimization_level: 0 (builds fast) to 5 (runs fast); None for TensorRT's default.
        timing_cache: file that keeps the times of kernels from one build to the next; made if it is not there.
    """

    capability: str
    tf32: bool = False
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BackendError: one is out of its range.
        """
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise BackendError(f"optimization_level={self.optimization_level!r} is none: pass 0 (fast build) to 5")
        if self.workspace is not None and not (isinstance(self.workspace, int) and self.workspace > 0):
            raise BackendError(
                f"workspace={self.workspace!r} is no number of bytes: pass a positive one, such as 2**30"
            )


@dataclass(frozen=True, slots=True)
class Built:
    """An engine's bytes, how many layers it has, and what TensorRT warned of."""

    engine: memoryview
    network_layers: int
    engine_layers: int | None
    warnings: tuple[str, ...]


def build_engine(
    package: Package,
    source: Path,
    inputs: Sequence[TensorSpec],
    profiles: Sequence[Profile],
    options: BuildOptions,
) -> Built:
    """Build an engine; Ctrl-C cancels it.

    Args:
        package: which TensorRT.
        source: the ONNX file.
        inputs: its inputs, with names for dynamic sizes.
        profiles: ranges of those.
        options: how to build.

    Raises:
        BackendError: TensorRT cannot parse or build the model, or an option needs the other package.
        KeyboardInterrupt: Ctrl-C was pressed meanwhile.
    """
    log, trt = Log(), package.module
    logger = make_logger(package, log)
    builder = _made(lambda: trt.Builder(logger), log, "cannot start its builder")
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, logger, source, log)
    config = builder.create_builder_config()
    _configure(package, config, options)
    _add_profiles(builder, config, inputs, profiles)
    cache = _open_cache(package, config, options.timing_cache)
    with watching(package, "TensorRT") as monitor:
        config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"{package.name} {package.version} cannot build an engine: {log.why()}")
    if cache is not None and options.timing_cache is not None:
        _keep_cache(config, options.timing_cache)
    return Built(memoryview(engine), network.num_layers, log.layers, tuple(log.warnings))


def _made(make: Any, log: Log, failure: str) -> Any:
    """What `make` returns; TensorRT's constructors raise TypeError where the native one gave nothing."""
    try:
        return make()
    except TypeError as error:
        raise BackendError(f"TensorRT {failure}: {log.why()}") from error


def _strongly_typed(trt: Any) -> int:
    """The flag; 0 where networks have become strongly typed without it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, logger: Any, source: Path, log: Log) -> None:
    """Read the ONNX file into the network."""
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(source)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = _explained(errors, source) or [log.why()]
    raise BackendError("\n".join(["TensorRT cannot parse the model:", *reasons]))


def _explained(errors: Sequence[Any], source: Path) -> list[str]:
    """What the parser refused, with the origin of each node."""
    import onnx

    try:
        nodes = list(onnx.load(str(source), load_external_data=False).graph.node)
    except Exception:  # protobuf's error has no public name; the parser has said that this is no model
        nodes = []
    lines = []
    for error in errors:
        operation = f" at operation {error.node_operator()}" if error.node_operator() else ""
        lines.append(f"{error.code().name}{operation}: {' '.join(error.desc().split())}")
        named = [node for node in nodes if error.node_name() and node.name == error.node_name()]
        place = error.node()
        found = named[0] if named else nodes[place] if 0 <= place < len(nodes) else None
        lines += [] if found is None else [describe_origin(found)]
    return lines


def _configure(package: Package, config: Any, options: BuildOptions) -> None:
    """Set everything but profiles and the timing cache."""
    trt = package.module
    if package.portable:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(package.capabilities()[options.capability], 0):
            raise BackendError(f"{package.name} refuses compute capability {options.capability}")
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine's layers can be inspected
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level


def _add_profiles(builder: Any, config: Any, inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        made = builder.create_optimization_profile()
        for spec in inputs:
            if spec.shape:
                made.set_shape(spec.name, *shapes_in(profile, spec))
        config.add_optimization_profile(made)


def _open_cache(package: Package, config: Any, path: Path | None) -> Any:
    """Have the builder use the timing cache at `path`."""
    if path is None:
        return None
    if package.portable:
        raise BackendError("timing_cache= is for the package tensorrt: tensorrt_rtx times nothing when it builds")
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BackendError(f"{path} is no timing cache of {package.name} {package.version} on this GPU: remove it")
    return cache


def _keep_cache(config: Any, path: Path) -> None:
    """Write the timing cache back, whole or not at all."""
    from fxprune.backends.atomic import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staged:
        staged.write_bytes(memoryview(config.get_timing_cache().serialize()))
