"""The modules of a slim module as JSON: paths, training flags, and of `torch.nn` modules what builds them.

    {"path": "layer1.0.conv1", "training": true, "kind": "Conv2d", "settings": {"in_channels": 32, ...}}
    {"path": "layer1", "training": true}                  a plain container
    {"path": "head", "same_as": "stem"}                   another name of a module before it

Kinds are those that the rewrite raises operations to (`fxprune.passes.module_table`), with the settings it gives them.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxprune.errors import CheckpointError
from fxprune.files.names import is_path
from fxprune.files.names import path as checked_path
from fxprune.files.values import decode_value, encode_value
from fxprune.passes.raising import ModuleSpec
from fxprune.safe_json import array, fields, flag, mapping, one_of, shown
from fxprune.slim_module import build_meta

_CONVOLUTION = "in_channels out_channels kernel_size stride padding dilation groups bias"
_MAX_POOL = "kernel_size stride padding dilation ceil_mode"
_SETTINGS: Mapping[str, str] = {
    "Linear": "in_features out_features bias",
    **{f"Conv{rank}d": _CONVOLUTION for rank in (1, 2, 3)},
    **{f"ConvTranspose{rank}d": f"{_CONVOLUTION} output_padding" for rank in (1, 2, 3)},
    **{f"BatchNorm{rank}d": "num_features eps momentum affine" for rank in (1, 2, 3)},
    "LayerNorm": "normalized_shape eps bias",
    "RMSNorm": "normalized_shape eps",
    "GroupNorm": "num_groups num_channels eps",
    "PReLU": "num_parameters",
    **dict.fromkeys(("ReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "Hardsigmoid"), "inplace"),
    "GELU": "approximate",
    "LeakyReLU": "negative_slope inplace",
    "ELU": "alpha inplace",
    **dict.fromkeys(("Sigmoid", "Tanh"), ""),
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), "p"),
    **{f"MaxPool{rank}d": _MAX_POOL for rank in (1, 2, 3)},
    "AvgPool2d": "kernel_size stride padding ceil_mode count_include_pad divisor_override",
    **{f"AdaptiveAvgPool{rank}d": "output_size" for rank in (1, 2, 3)},
}
KINDS: Mapping[str, frozenset[str]] = {kind: frozenset(names.split()) for kind, names in _SETTINGS.items()}
"""Classes of `torch.nn` and the arguments of their constructors that files may give."""
MOST = 1_000_000
"""Modules, tensors or nodes that a file may have."""


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One module of a tree.

    Attributes:
        path: its name; empty for the whole.
        training: whether it is in training mode.
        spec: what builds it; None for a container.
        same_as: path of the module that it is, where it has another name.
    """

    path: str
    training: bool
    spec: ModuleSpec | None
    same_as: str | None


def encode_modules(root: nn.Module, specs: Mapping[str, ModuleSpec]) -> list[dict[str, Any]]:
    """All modules under a root that is a slim module, as JSON.

    Raises:
        CheckpointError: one is not what the rewrite made.
    """
    first: dict[int, str] = {}
    found: list[dict[str, Any]] = []
    for path, module in root.named_modules(remove_duplicate=False):
        if path and not is_path(path):
            raise CheckpointError(f"the module {path!r} has a name that files cannot hold")
        if first.setdefault(id(module), path) != path:
            found.append({"path": path, "same_as": first[id(module)]})
        else:
            found.append({"path": path, "training": module.training, **_kind(path, module, specs.get(path))})
    return found


def _kind(path: str, module: nn.Module, spec: ModuleSpec | None) -> dict[str, Any]:
    expected = nn.Module if spec is None else getattr(nn, spec.kind)
    if path and type(module) is not expected:
        msg = (
            f"the slim module's {path} is a {type(module).__name__}, not the {expected.__name__} that it was made with; "
            "files hold what fxprune emits: save before you replace modules (with adapters, parametrisations, "
            "quantised or compiled ones), or undo that first"
        )
        raise CheckpointError(msg)
    if spec is None:
        return {}
    if frozenset(spec.settings) != KINDS.get(spec.kind):
        raise CheckpointError(f"{path} is a {spec.kind} of settings that files do not have: {', '.join(spec.settings)}")
    settings = {name: encode_value(_current(module, name, value), {}) for name, value in spec.settings.items()}
    return {"kind": spec.kind, "settings": settings}


def _current(module: nn.Module, name: str, value: Any) -> Any:
    """A setting as the module has it now: a user may have changed a dropout's probability or a norm's momentum."""
    now = getattr(module, name, value)
    return value if isinstance(now, Tensor) or name == "bias" else now


def decode_modules(value: object) -> list[ModuleEntry]:
    """The modules that were encoded, the root first and parents before children.

    Raises:
        CheckpointError: they are none.
    """
    entries = [_decode(each) for each in array(value, "the modules", most=MOST)]
    if not entries or entries[0].path or entries[0].spec or entries[0].same_as is not None:
        raise CheckpointError("the modules do not begin with the root")
    known, closed = {""}, set[str]()
    for entry in entries[1:]:
        if entry.path in known or entry.path.rpartition(".")[0] not in known or _is_inside(entry.path, closed):
            raise CheckpointError(f"the module {shown(entry.path)} is there twice, or not below its parent")
        if entry.same_as is not None:
            if entry.same_as not in known or _is_inside(entry.path, {entry.same_as}):
                raise CheckpointError(
                    f"the module {shown(entry.path)} is to be {shown(entry.same_as)}, which cannot be"
                )
            closed.add(entry.same_as)  # a module that has another name is complete, so that none contains itself
        known.add(entry.path)
    return entries


def _is_inside(path: str, others: Collection[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:count]) in others for count in range(1, len(parts))) if others else False


def _decode(value: object) -> ModuleEntry:
    given = mapping(value, "a module")
    path = given.get("path")
    path = path if path == "" else checked_path(path, "the path of a module")
    assert isinstance(path, str)
    told = f"the module {shown(path)}"
    if "same_as" in given:
        fields(given, told, ("path", "same_as"))
        return ModuleEntry(path, False, None, checked_path(given["same_as"], told))
    fields(given, told, ("path", "training"), ("kind", "settings"))
    return ModuleEntry(path, flag(given["training"], told), _spec(given, told), None)


def _spec(given: Mapping[str, Any], told: str) -> ModuleSpec | None:
    if "kind" not in given:
        return None
    kind = one_of(given["kind"], f"the kind of {told}", KINDS)
    settings = fields(given.get("settings"), f"the settings of {told}", KINDS[kind])
    return ModuleSpec(kind, {name: _setting(each, f"{name} of {told}") for name, each in settings.items()})


def _setting(value: object, what: str) -> Any:
    """A number, text or flag, or a few numbers."""
    found = decode_value(value, what, _no_node)
    parts = found if isinstance(found, tuple) else (found,)
    if len(parts) > 8 or not all(part is None or isinstance(part, bool | int | float | str) for part in parts):
        raise CheckpointError(f"{what} is no setting of a module")
    return found


def _no_node(_: int) -> Any:
    raise CheckpointError("a setting of a module is computed")


def build_tree(entries: Iterable[ModuleEntry]) -> nn.Module:
    """Modules at their paths, without memory behind their tensors.

    Raises:
        CheckpointError: one cannot be built, or its name is taken.
    """
    root = nn.Module()
    for entry, parent, name in _below_root(entries):
        try:
            made = root.get_submodule(entry.same_as) if entry.same_as is not None else _built(entry)
            root.get_submodule(parent).add_module(name, made)
        except (TypeError, ValueError, RuntimeError, ArithmeticError, KeyError, AttributeError) as error:
            raise CheckpointError(f"the module {entry.path} cannot be built: {error}") from error
    return root


def _below_root(entries: Iterable[ModuleEntry]) -> Iterator[tuple[ModuleEntry, str, str]]:
    """Entries with parent and name, without those that come with the module that they are inside of."""
    aliases = set[str]()
    for entry in entries:
        parent, _, name = entry.path.rpartition(".")
        if entry.same_as is not None or parent in aliases:
            aliases.add(entry.path)
        if entry.path and parent not in aliases:
            yield entry, parent, name


def _built(entry: ModuleEntry) -> nn.Module:
    if entry.spec is None:
        return nn.Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes of zero
        return build_meta(entry.spec)
