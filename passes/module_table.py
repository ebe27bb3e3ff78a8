"""Which `torch.nn` module an operation can be raised to, and how its settings are read off the call's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from fxprune.program import Program

aten = torch.ops.aten
Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation with parameters.

    Attributes:
        path: the module that holds the parameters.
        arguments: the operation's arguments by the names of its schema, defaults filled in.
        tensors: its tensor arguments that are the module's own, by the names that the module gives them.
        rank: number of dimensions of the input.
        momentum: the original BatchNorm's momentum.
    """

    path: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    rank: int
    momentum: float | None

    @classmethod
    def of(cls, node: Node, program: Program, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Call | None:
        """The call, or None where a tensor is missing, computed, or held by another module under another name."""
        arguments = bind(node)
        path: str | None = None
        found: dict[str, Tensor] = {}
        for argument, name in names.items():
            value = arguments.get(argument)
            if value is None:
                continue
            if not isinstance(value, Node) or value.op != "get_attr" or value.target not in tensors:
                return None
            owner, _, own = program.canonical(str(value.target)).rpartition(".")
            if own != name or (path is not None and owner != path) or not owner:
                return None
            path, found[name] = owner, tensors[str(value.target)]
        if path is None:
            return None
        source = node.args[0] if isinstance(node.args[0], Node) else None
        origin = source.meta.get("origin") if source is not None else None
        value = origin.meta.get("val") if origin is not None else None
        rank = value.dim() if isinstance(value, Tensor) else 0
        return cls(path, arguments, found, rank, program.momentum.get(path, 0.1))


@dataclass(frozen=True, slots=True)
class Layer:
    """How one operation with parameters becomes a module.

    Attributes:
        kind: class name in `torch.nn`, from the call.
        tensors: the operation's tensor arguments -> their names in the module.
        settings: constructor arguments from the call, or None where no module says the same.
    """

    kind: Callable[[Call], str]
    tensors: Mapping[str, str]
    settings: Callable[[Call], Settings | None]


def bind(node: Node) -> dict[str, Any]:
    """Arguments of a call by the names of the operation's schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    bound.update(node.kwargs)
    return bound


_WEIGHT_AND_BIAS = {"weight": "weight", "bias": "bias"}


def _linear(call: Call) -> Settings | None:
    weight = call.tensors["weight"]
    if weight.dim() != 2:
        return None
    return {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": "bias" in call.tensors}


def _convolution(call: Call) -> Settings:
    weight, groups = call.tensors["weight"], call.arguments["groups"]
    return {
        "in_channels": weight.shape[1] * groups,
        "out_channels": weight.shape[0],
        "kernel_size": tuple(weight.shape[2:]),
        "stride": _tuple(call.arguments["stride"], weight),
        "padding": _tuple(call.arguments["padding"], weight),
        "dilation": _tuple(call.arguments["dilation"], weight),
        "groups": groups,
        "bias": "bias" in call.tensors,
    }


def _transposed(call: Call) -> Settings:
    weight, groups = call.tensors["weight"], call.arguments["groups"]
    return {
        "in_channels": weight.shape[0],
        "out_channels": weight.shape[1] * groups,
        "kernel_size": tuple(weight.shape[2:]),
        "stride": _tuple(call.arguments["stride"], weight),
        "padding": _tuple(call.arguments["padding"], weight),
        "output_padding": _tuple(call.arguments["output_padding"], weight),
        "groups": groups,
        "bias": "bias" in call.tensors,
        "dilation": _tuple(call.arguments["dilation"], weight),
    }


def _tuple(value: Any, weight: Tensor) -> tuple[int, ...] | str:
    if isinstance(value, str):
        return value
    given = [value] if isinstance(value, int) else list(value)
    return tuple(given * (weight.dim() - 2) if len(given) == 1 else given)


def _batch_norm(call: Call) -> Settings | None:
    if call.arguments["training"] or "running_mean" not in call.tensors or "running_var" not in call.tensors:
        return None
    if not 2 <= call.rank <= 5:
        return None
    return {
        "num_features": call.tensors["running_mean"].shape[0],
        "eps": call.arguments["eps"],
        "momentum": call.momentum,
        "affine": "weight" in call.tensors,
    }


def _layer_norm(call: Call) -> Settings | None:
    if "weight" not in call.tensors:
        return None
    return {
        "normalized_shape": tuple(call.arguments["normalized_shape"]),
        "eps": call.arguments["eps"],
        "bias": "bias" in call.tensors,
    }


def _rms_norm(call: Call) -> Settings | None:
    if "weight" not in call.tensors:
        return None
    return {"normalized_shape": tuple(call.arguments["normalized_shape"]), "eps": call.arguments["eps"]}


def _group_norm(call: Call) -> Settings | None:
    if "weight" not in call.tensors or "bias" not in call.tensors:
        return None
    return {
        "num_groups": call.arguments["num_groups"],
        "num_channels": call.tensors["weight"].shape[0],
        "eps": call.arguments["eps"],
    }


def _prelu(call: Call) -> Settings:
    return {"num_parameters": call.tensors["weight"].shape[0]}


def _named(kind: str) -> Callable[[Call], str]:
    return lambda _: kind


_BATCH_NORMS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
_STATISTICS = {**_WEIGHT_AND_BIAS, "running_mean": "running_mean", "running_var": "running_var"}

LAYERS: Mapping[Any, Layer] = {
    aten.linear.default: Layer(_named("Linear"), _WEIGHT_AND_BIAS, _linear),
    aten.conv1d.default: Layer(_named("Conv1d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv2d.default: Layer(_named("Conv2d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv3d.default: Layer(_named("Conv3d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv1d.padding: Layer(_named("Conv1d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv2d.padding: Layer(_named("Conv2d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv3d.padding: Layer(_named("Conv3d"), _WEIGHT_AND_BIAS, _convolution),
    aten.conv_transpose1d.default: Layer(_named("ConvTranspose1d"), _WEIGHT_AND_BIAS, _transposed),
    aten.conv_transpose2d.input: Layer(_named("ConvTranspose2d"), _WEIGHT_AND_BIAS, _transposed),
    aten.conv_transpose3d.input: Layer(_named("ConvTranspose3d"), _WEIGHT_AND_BIAS, _transposed),
    aten.batch_norm.default: Layer(lambda call: _BATCH_NORMS[call.rank], _STATISTICS, _batch_norm),
    aten.layer_norm.default: Layer(_named("LayerNorm"), _WEIGHT_AND_BIAS, _layer_norm),
    aten.rms_norm.default: Layer(_named("RMSNorm"), {"weight": "weight"}, _rms_norm),
    aten.group_norm.default: Layer(_named("GroupNorm"), _WEIGHT_AND_BIAS, _group_norm),
    aten.prelu.default: Layer(_named("PReLU"), {"weight": "weight"}, _prelu),
}
"""Operations with parameters. (Embedding stays an operation: its indices are not its first argument.)"""


def _only(*names: str) -> Callable[[Node], Settings]:
    """Settings that the operation's arguments of these names give; `inplace` tells whether it writes to its input."""

    def settings(node: Node) -> Settings:
        bound = bind(node)
        mutable = node.target._schema.is_mutable  # type: ignore[union-attr]
        given = {name: _plain(bound[name]) for name in names if name != "inplace"}
        return {**given, "inplace": mutable} if "inplace" in names else given

    return settings


def _plain(value: Any) -> Any:
    """Lists of the graph, which are of a class of their own, as tuples."""
    return tuple(value) if isinstance(value, list | tuple) else value


FUNCTIONS: Mapping[tuple[type, Any], Callable[[Node], Settings]] = {
    (nn.ReLU, aten.relu.default): _only("inplace"),
    (nn.ReLU, aten.relu_.default): _only("inplace"),
    (nn.ReLU6, aten.hardtanh.default): _only("inplace"),
    (nn.ReLU6, aten.hardtanh_.default): _only("inplace"),
    (nn.ReLU6, aten.relu6.default): _only("inplace"),
    (nn.ReLU6, aten.relu6_.default): _only("inplace"),
    (nn.SiLU, aten.silu.default): _only("inplace"),
    (nn.SiLU, aten.silu_.default): _only("inplace"),
    (nn.Mish, aten.mish.default): _only("inplace"),
    (nn.Mish, aten.mish_.default): _only("inplace"),
    (nn.GELU, aten.gelu.default): _only("approximate"),
    (nn.Hardswish, aten.hardswish.default): _only("inplace"),
    (nn.Hardswish, aten.hardswish_.default): _only("inplace"),
    (nn.Hardsigmoid, aten.hardsigmoid.default): _only("inplace"),
    (nn.Hardsigmoid, aten.hardsigmoid_.default): _only("inplace"),
    (nn.LeakyReLU, aten.leaky_relu.default): _only("negative_slope", "inplace"),
    (nn.LeakyReLU, aten.leaky_relu_.default): _only("negative_slope", "inplace"),
    (nn.ELU, aten.elu.default): _only("alpha", "inplace"),
    (nn.ELU, aten.elu_.default): _only("alpha", "inplace"),
    (nn.Sigmoid, aten.sigmoid.default): _only(),
    (nn.Tanh, aten.tanh.default): _only(),
    (nn.Dropout, aten.dropout.default): _only("p"),
    (nn.Dropout, aten.dropout_.default): _only("p"),
    (nn.Dropout1d, aten.feature_dropout.default): _only("p"),
    (nn.Dropout2d, aten.feature_dropout.default): _only("p"),
    (nn.Dropout3d, aten.feature_dropout.default): _only("p"),
    (nn.MaxPool1d, aten.max_pool1d.default): _only("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    (nn.MaxPool2d, aten.max_pool2d.default): _only("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    (nn.MaxPool3d, aten.max_pool3d.default): _only("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    (nn.AvgPool2d, aten.avg_pool2d.default): _only(
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    (nn.AdaptiveAvgPool1d, aten.adaptive_avg_pool1d.default): _only("output_size"),
    (nn.AdaptiveAvgPool2d, aten.adaptive_avg_pool2d.default): _only("output_size"),
    (nn.AdaptiveAvgPool3d, aten.adaptive_avg_pool3d.default): _only("output_size"),
}
"""Operations without parameters: (class of the module, operation) -> settings from the call."""
