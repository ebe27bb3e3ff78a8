"""Calibration data: from what the user's iterable yields to what the captured graph takes.

A batch is arranged as the example inputs were: what was positional there is positional here, what was given by keyword
is taken by keyword. A dict holds keyword arguments; of a tuple or list the first element is the input; a tensor is the
input; `collect` says otherwise by returning one of these, or `(args, kwargs)`. Keys that `forward` does not take, and
labels, stay for the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.callbacks import noting
from fxprune.distributed import world
from fxprune.errors import InputError
from fxprune.inputs import device_of
from fxprune.program import Program
from fxprune.replay import Kept, Rewound

Collect = Callable[[Any], Any]
MOST_KEPT = 1024
"""Batches of a one-shot iterator that are kept in memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the model's device.

    Attributes:
        whole: what the user's iterable yielded, tensors moved to the device; the loss gets this.
        args: positional inputs, as many as the example inputs have.
        kwargs: keyword inputs, of the names that the example inputs have.
        number: its place in the data, from 1; 0 where it is not known.
    """

    whole: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    number: int = 0

    def run(self, module: nn.Module) -> Any:
        """The module's output for this batch."""
        return module(*self.args, **self.kwargs)


def reiterable(data: Iterable[Any] | None) -> Iterable[Any] | None:
    """Data that can be gone through several times, each time alike; of a one-shot iterator the first 1024 batches.

    Nothing is drawn before it is asked for.

    Raises:
        InputError: not an iterable of batches.
    """
    if data is None:
        return None
    if isinstance(data, Tensor | str | Mapping | nn.Module) or not isinstance(data, Iterable):
        msg = (
            f"data is a {type(data).__name__}; pass an iterable of batches, such as a DataLoader or a list: "
            "data=[images], data=[{'input_ids': ids}]"
        )
        raise InputError(msg)
    if isinstance(data, list | tuple | Rewound | Kept):
        return data
    return Kept(data, MOST_KEPT) if isinstance(data, Iterator) else Rewound(data)


def iterate_batches(
    data: Iterable[Any],
    program: Program,
    collect: Collect | None = None,
    device: torch.device | None = None,
    limit: int | None = None,
    *,
    share: bool = False,
    skip: int = 0,
) -> Iterator[Batch]:
    """Go through the data once.

    Args:
        data: the user's iterable.
        program: whose example inputs say how batches are to be arranged.
        collect: batch -> inputs, where a batch is not what `forward` takes.
        device: where tensors are moved to; None to leave them.
        limit: largest number of batches; None for all.
        share: only this rank's share of them, by position.
        skip: number of batches to leave out at the beginning.

    Raises:
        InputError: there is no batch, or one does not hold what the graph takes.
    """
    count, (rank, size) = 0, world() if share else (0, 1)
    for count, each in enumerate(islice(data, limit), start=1):
        if count <= skip or (count - 1 - skip) % size != rank:
            continue
        whole = each if device is None else tree_map(partial(_moved, device=device, number=count), _plain(each))
        batch = replace(arrange(whole, program, collect), number=count)
        _check_filled(batch, program)
        yield batch
    if count == 0:
        msg = "data holds no batch; a one-shot iterator that was gone through before is empty: pass a list or a loader"
        raise InputError(msg)


def _plain(whole: Any) -> Any:
    """A mapping of another class (a tokenizer's output, for example) as a dict, so that its tensors are found."""
    if isinstance(whole, Mapping) and not isinstance(whole, dict):
        return dict(whole)
    return whole


def _moved(leaf: Any, device: torch.device, number: int = 1) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_meta and device.type != "meta":
        msg = f"batch {number} of data is on the meta device, where tensors have no values; load it, or make it on the {device}"
        raise InputError(msg)
    return leaf.to(device, non_blocking=True)


def _check_filled(batch: Batch, program: Program) -> None:
    examples = [each for each in tree_leaves((program.args, dict(program.kwargs))) if isinstance(each, Tensor)]
    given = [each for each in tree_leaves((batch.args, batch.kwargs)) if isinstance(each, Tensor)]
    if given and not any(each.numel() for each in given) and any(each.numel() for each in examples):
        msg = f"batch {batch.number} of data is empty: it holds a tensor of shape {list(given[0].shape)}; leave it out"
        raise InputError(msg)


def arrange(whole: Any, program: Program, collect: Collect | None = None) -> Batch:
    """The inputs of one batch in the order of the example inputs.

    Raises:
        InputError: something is missing, or the batch holds an input that the example inputs lack.
    """
    args, kwargs = inputs_of(whole, collect)
    names = forward_names(program.root)
    if not kwargs and not program.kwargs and len(args) >= len(program.args):
        return Batch(whole, tuple(args[: len(program.args)]), {})
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    positional = names[: len(program.args)]
    wanted = [*positional, *program.kwargs]
    missing = [name for name in wanted if name not in given]
    if missing or len(positional) < len(program.args):
        msg = (
            f"a batch of data lacks {', '.join(missing) or 'positional inputs'}, which the example inputs hold; it "
            f"has {', '.join(given) or 'nothing'}. Pass collect=, a function from a batch to the inputs"
        )
        raise InputError(msg)
    extra = [name for name in given if name in names and name not in wanted and not is_label(name)]
    if extra:
        msg = (
            f"batches of data hold {', '.join(extra)}, which {program.root.__name__}.forward takes but the example "
            "inputs lack, so that the graph would ignore it. Add it to example_inputs, or leave it out by collect="
        )
        raise InputError(msg)
    return Batch(whole, tuple(given[name] for name in positional), {name: given[name] for name in program.kwargs})


def inputs_of(whole: Any, collect: Collect | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs that a batch stands for.

    Raises:
        InputError: the batch is nothing that inputs can be read off.
    """
    found = whole if collect is None else noting("collect", collect, whole)
    if isinstance(found, Tensor):
        return (found,), {}
    if isinstance(found, Mapping):
        return (), {str(name): value for name, value in found.items()}
    if isinstance(found, tuple | list) and found:
        if collect is None:
            if isinstance(found[0], Tensor | Mapping):
                return inputs_of(found[0])
            raise InputError(_unusable(found[0]))
        if len(found) == 2 and isinstance(found[0], tuple) and isinstance(found[1], dict):
            return found[0], found[1]
        return tuple(found), {}
    raise InputError(_unusable(found))


def _unusable(found: Any) -> str:
    return (
        f"a batch of data is a {type(found).__name__}, which holds no inputs: batches are tensors, tuples whose first "
        "element is the input, or dicts of keyword arguments. Pass collect=, a function from a batch to one of these"
    )


def example_from(data: Iterable[Any], model: nn.Module, collect: Collect | None = None) -> tuple[Any, str]:
    """Example inputs from the first batch, on the model's device, and a note that says so.

    They are a tuple, or a dict of what `forward` takes but the labels; one sample, if all tensors have one batch size.

    Raises:
        InputError: there is no batch, or it holds no inputs.
    """
    for whole in data:
        args, kwargs = inputs_of(whole, collect)
        names = forward_names(type(model))
        taken = {name: value for name, value in kwargs.items() if name in names and not is_label(name)}
        inputs = {**dict(zip(names, args, strict=False)), **taken} if kwargs else args
        return _one_sample(tree_map(partial(_moved, device=device_of(model)), inputs))
    msg = "data holds no batch"
    raise InputError(msg)


def _one_sample(inputs: Any) -> tuple[Any, str]:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in tensors}
    alone = len(sizes) == 1 and min(sizes) > 1
    if alone:
        inputs = tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, inputs)
    shapes = ", ".join("x".join(map(str, leaf[:1].shape if alone else leaf.shape)) for leaf in tensors)
    what = "one sample" if alone else "all"
    return inputs, f"example inputs inferred from {what} of the first batch of data: {shapes}; costs are those of it"


def forward_names(root: type) -> list[str]:
    """Names of the arguments of a class's `forward`, without `self`, `*args` and `**kwargs`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY)
    parameters = inspect.signature(root.forward).parameters.values()  # type: ignore[attr-defined]
    return [each.name for each in parameters if each.kind in kinds][1:]


def is_label(name: str) -> bool:
    """Whether an argument of that name is a target, as Transformers' Trainer tells them: *label*, start/end_positions."""
    return "label" in name or name in ("start_positions", "end_positions")
