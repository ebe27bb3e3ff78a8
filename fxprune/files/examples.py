"""Example inputs as JSON, their tensors apart: {"structure": .., "leaves": [{"tensor": "0"}, 3, null, ..]}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.errors import CheckpointError
from fxprune.files.structure import decode_structure, encode_structure
from fxprune.files.tensors import DTYPES, Declared, declaration
from fxprune.files.values import decode_value, encode_value
from fxprune.inputs import Inputs
from fxprune.safe_json import array, fields, integer, one_of, text


def encode_examples(inputs: Inputs) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Positional and keyword inputs as JSON, and their tensors by name.

    Raises:
        CheckpointError: files cannot hold one.
    """
    leaves, spec = pytree.tree_flatten(inputs)
    tensors: dict[str, Tensor] = {}
    said: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            name = str(len(tensors))
            tensors[name] = leaf
            declared = declaration(f"example input {name}", leaf)
            dtype = str(declared.dtype).removeprefix("torch.")
            said.append({"tensor": name, "dtype": dtype, "shape": list(declared.shape)})
        else:
            said.append(encode_value(leaf, {}))
    return {"structure": encode_structure(spec), "leaves": said}, tensors


def declared_examples(value: object) -> list[Declared]:
    """The tensors that example inputs speak of.

    Raises:
        CheckpointError: the value describes no example inputs.
    """
    given = fields(value, "the example inputs", ("structure", "leaves"))
    leaves = array(given["leaves"], "the example inputs", most=10_000)
    found = [_declared(each) for each in leaves if isinstance(each, dict) and "tensor" in each]
    if len({each.name for each in found}) < len(found):
        raise CheckpointError("the example inputs have a tensor twice")
    return found


def _declared(value: dict[str, Any]) -> Declared:
    given = fields(value, "an example input", ("tensor", "dtype", "shape"))
    shape = array(given["shape"], "the shape of an example input", most=32)
    return Declared(
        text(given["tensor"], "the name of an example input", longest=10),
        DTYPES[one_of(given["dtype"], "the dtype of an example input", DTYPES)],
        tuple(integer(each, "the shape of an example input", least=0) for each in shape),
    )


def decode_examples(value: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> Inputs:
    """The inputs that were encoded, their tensors on a device; objects of classes as `Output`, so that none is made here.

    Raises:
        CheckpointError: they are no positional and keyword arguments.
    """
    leaves = [
        tensors[each["tensor"]].to(device)
        if isinstance(each, dict) and "tensor" in each
        else decode_value(each, "an example input", _no_node)
        for each in value["leaves"]
    ]
    spec = decode_structure(value["structure"], "the structure of the example inputs", lambda name: None)
    if spec.num_leaves != len(leaves):
        raise CheckpointError(f"there are {len(leaves)} example inputs for {spec.num_leaves} places")
    found = pytree.tree_unflatten(leaves, spec)
    if not (
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], tuple) and isinstance(found[1], dict)
    ):
        raise CheckpointError("the example inputs are no positional and keyword arguments")
    return found[0], found[1]


def _no_node(_: int) -> Any:
    raise CheckpointError("an example input is computed")
