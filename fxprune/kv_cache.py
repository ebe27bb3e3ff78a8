"""The key/value cache of a language model in budgets of memory: what it holds of each value, in bytes.

A model that generates keeps the keys and values of all tokens so far. With `kv_cache=KVCache(batch, length)` the metric
`memory` is what serving then needs, weights and cache, instead of weights and activations:

    memory = sum of bytes of weights + sum over layers l of bytes(keys_l) + bytes(values_l)
    bytes(x_l) = batch * stored_l * (key/value heads_l * width of a head_l) * bytes of an element

What a layer stores is asked of the model's own class: it runs once on fake tensors, which hold nothing, with that batch and
length and with its cache, so that sliding windows, shared heads and types count as they are. Which values of the graph these
are is found in the graph: the keys and values that attention reads, followed back through reshapes and repetitions to where
they are smallest, which is before heads are repeated for grouped queries. Their sizes are monomials in the widths of groups, and
so is the cache's. Both have to agree layer by layer, or nothing is counted and an error says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node

from fxprune.budget import format_amount
from fxprune.capture import structural_copy
from fxprune.capture_errors import first_line
from fxprune.costs.columns import Columns
from fxprune.costs.sizes import Sizes
from fxprune.errors import InputError
from fxprune.language import is_causal_language_model
from fxprune.passes.taps import live_nodes
from fxprune.program import Program
from fxprune.rules import Role, find_rule

aten = torch.ops.aten

_MOVES = {
    *(aten.reshape.default, aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.transpose.int),
    *(aten.permute.default, aten.clone.default, aten.contiguous.default, aten.repeat.default, aten.slice.Tensor),
    *(aten.repeat_interleave.self_int, aten.alias.default, aten.detach.default, aten.to.dtype, aten.flatten.using_ints),
    *(aten.broadcast_to.default, aten.mT.default, aten.numpy_T.default, aten.unflatten.int),
}
"""Operations that only move or repeat elements."""


@dataclass(frozen=True, slots=True)
class KVCache:
    """A key/value cache that is to fit into a budget of `memory`.

    Attributes:
        batch: number of sequences.
        length: tokens of each, prompt and generated ones together.

    Example:
        >>> print(KVCache(batch=8, length=4096))
        8 x 4096 tokens
    """

    batch: int
    length: int

    def __post_init__(self) -> None:
        """Refuse what is no number of sequences or tokens."""
        for name, value in (("batch", self.batch), ("length", self.length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"kv_cache has {name}={value!r}; pass whole numbers from 1 on, fxprune.KVCache(batch=8, length=4096)"
                raise InputError(msg)

    def __str__(self) -> str:
        """For notes: batch and length."""
        return f"{self.batch} x {self.length} tokens"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a cache holds of the keys, or of the values, of one layer.

    Attributes:
        bytes: all of it.
        per_token: elements for each token.
    """

    bytes: int
    per_token: int


def with_kv_cache(model: nn.Module, program: Program, kv_cache: KVCache | None) -> Program:
    """The program, with what a cache of that size holds of its values; `build_costs` counts it.

    Args:
        model: the captured model, with weights or on the meta device.
        program: its capture.
        kv_cache: batch and length; None counts no cache.

    Raises:
        InputError: the model is no causal language model of Transformers, keeps something else than keys and values, or
            it cannot be told which values of its graph they are.
    """
    if kv_cache is None:
        return program
    if not isinstance(kv_cache, KVCache):
        msg = f"kv_cache is a {type(kv_cache).__name__}; pass fxprune.KVCache(batch=8, length=4096)"
        raise InputError(msg)
    stored = stored_by_class(model, kv_cache)
    found = list(dict.fromkeys(_cached_pairs(program)))
    per_token = [tuple(_per_token(program, node) for node in pair) for pair in found]
    expected = [tuple(each.per_token for each in pair) for pair in stored]
    if per_token != expected:
        raise _untold(model, per_token, expected)
    cached = {
        node.name: each.bytes
        for pair, own in zip(found, stored, strict=True)
        for node, each in zip(pair, own, strict=True)
    }
    total = sum(each.bytes for own in stored for each in own)
    note = f"memory is that of weights and a key/value cache of {kv_cache}, {format_amount('memory', total)} originally"
    return replace(program, cached=cached, notes=(*program.notes, note))


def _untold(model: nn.Module, found: Sequence[object], expected: Sequence[object]) -> InputError:
    at = next((at for at, (own, other) in enumerate(zip(found, expected, strict=False)) if own != other), None)
    what = f"{len(found)} layers with attention in the graph, {len(expected)} in the cache" if at is None else ""
    what = what or f"layer {at} has {found[at]} elements of keys and values for a token, and its cache {expected[at]}"  # type: ignore[index]
    return InputError(
        f"kv_cache: it cannot be told which values of {type(model).__name__} are cached: {what}. Leave kv_cache= out, and take "
        "what the cache needs off the budget of memory"
    )


def stored_by_class(model: nn.Module, kv_cache: KVCache) -> list[tuple[Stored, Stored]]:
    """What the model's own cache holds of keys and of values, layer by layer.

    Raises:
        InputError: there is no such cache.
    """
    name = type(model).__name__
    if not is_causal_language_model(model):
        msg = f"kv_cache: {name} is no causal language model of Transformers, and has no key/value cache; leave it out"
        raise InputError(msg)
    try:
        cache = _filled(model, kv_cache)
    except Exception as error:
        msg = (
            f"kv_cache: {name} does not run with a cache on fake tensors ({type(error).__name__}: {first_line(error)}); "
            "leave kv_cache= out, and take what the cache needs off the budget of memory"
        )
        raise InputError(msg) from error
    layers = [(getattr(each, "keys", None), getattr(each, "values", None)) for each in getattr(cache, "layers", ())]
    pairs = [(keys, values) for keys, values in layers if isinstance(keys, Tensor) and isinstance(values, Tensor)]
    if not pairs or len(pairs) < len(layers):
        kept = f"{len(layers) - len(pairs)} of its layers keep something else" if pairs else "it keeps none"
        msg = f"kv_cache: {name} does not keep keys and values alone ({kept}); leave kv_cache= out"
        raise InputError(msg)
    return [(_stored(keys, kv_cache), _stored(values, kv_cache)) for keys, values in pairs]


def _stored(tensor: Tensor, kv_cache: KVCache) -> Stored:
    """Of a tensor [batch, heads, stored tokens, width of a head]."""
    return Stored(tensor.numel() * tensor.dtype.itemsize, tensor.numel() // (kv_cache.batch * tensor.shape[-2]))


def _filled(model: nn.Module, kv_cache: KVCache) -> Any:
    """The cache after a forward pass over that many tokens, of fake tensors."""
    with FakeTensorMode() as mode, torch.no_grad():
        held = {id(each): each for each in (*model.parameters(), *model.buffers())}
        fakes = {key: torch.empty(each.shape, dtype=each.dtype, device="cpu") for key, each in held.items()}
        shell = structural_copy(model, fakes).eval()
        if callable(choose := getattr(shell, "set_experts_implementation", None)):
            choose("batched_mm")  # that of experts by default takes bfloat16 alone where tensors are fake
        tokens = torch.zeros(kv_cache.batch, kv_cache.length, dtype=torch.long, device="cpu")
        assert mode is not None
        return shell(input_ids=tokens, use_cache=True).get("past_key_values")


def _cached_pairs(program: Program) -> Iterator[tuple[Node, Node]]:
    """Keys and values of every attention, in order of execution, as they are before heads are repeated."""
    sizes = Sizes(program, Columns(()))
    live = live_nodes(program)
    for node in program.nodes:
        read = _read(node, live)
        if read is not None:
            yield _smallest(read[0], sizes), _smallest(read[1], sizes)


def _read(node: Node, live: set[Node]) -> tuple[Node, Node] | None:
    """Keys and values that attention reads: as one operation, or as two products around a softmax."""
    if node.target is aten.scaled_dot_product_attention.default:
        keys, values = node.args[1:3]
        assert isinstance(keys, Node)
        assert isinstance(values, Node)
        return keys, values
    if node.target not in (aten.softmax.int, aten._softmax.default):
        return None
    before = _next_products([node], live, back=True)
    after = _next_products([node], live, back=False)
    if len(before) != 1 or len(after) != 1:
        return None
    return before[0].all_input_nodes[-1], after[0].all_input_nodes[-1]


def _next_products(start: list[Node], live: set[Node], *, back: bool) -> list[Node]:
    """Products of two activations that are met first on the way up or down; those with weights end the way."""
    found, todo, seen = list[Node](), start, set(start)
    while todo:
        node = todo.pop()
        for each in [each for each in node.all_input_nodes if each in live] if back else node.users:
            if each in seen:
                continue
            seen.add(each)
            rule = find_rule(each.target) if each.op == "call_function" else None
            if rule is None or rule.role is not Role.CONTRACTION:
                todo.append(each)
            elif len([own for own in each.all_input_nodes if own in live]) > 1:
                found.append(each)
    return found


def _smallest(node: Node, sizes: Sizes) -> Node:
    """The smallest value that a value is moved or repeated from, itself included; the latest of equals."""
    found = node
    while node.op == "call_function" and node.target in _MOVES:
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
        found = node if _elements(node, sizes) < _elements(found, sizes) else found
    return found


def _elements(node: Node, sizes: Sizes) -> int:
    """Number of elements at the example inputs."""
    return prod(sizes.real(size) for size in node.meta["val"].shape)


def _per_token(program: Program, node: Node) -> int:
    """Elements of a value for each token of the example inputs."""
    sizes = Sizes(program, Columns(()))
    tokens = next((each for each in program.nodes if each.op == "placeholder"), None)
    assert tokens is not None
    return _elements(node, sizes) // _elements(tokens, sizes)
