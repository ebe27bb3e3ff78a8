"""`apply`: the user's own class, slimmed.

The copy's tensors are slim, and so its Python has to be: `view(b, n, self.num_heads, self.head_dim)` must find the new
numbers. Which attributes hold them is found by provenance, without a list of names:

1. capture, analyse and cut the model as the plan says: the graph form, and for every operation its module, its line,
   and the sizes among its arguments before and after;
2. run the original with every whole number that its modules hold tagged with where it is from (`tagged`, `observe`);
3. match calls with the graph's operations by module, line and numbers: each tagged number now has to be what the graph
   has (`demands`); solve for the attributes (`solve`);
4. patch a copy, run it, and compare with the graph form; where it fails, try alternatives (`search`);
5. where no attribute can say a size, rewrite the call (`last_resort`, `follow`, `followed`);
6. agree, or raise `CannotApply` with module, attribute and line (`explain`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from fxprune.analysis import Analysis, analyze_program, holds
from fxprune.apply.attention import adapt_attention
from fxprune.apply.attributes import slim_attributes
from fxprune.apply.batches import with_another_batch
from fxprune.apply.belonging import check_groups, check_signature, check_slices
from fxprune.apply.blueprint import blueprint_of
from fxprune.apply.config import update_config
from fxprune.apply.demands import find_demands
from fxprune.apply.draft import Draft
from fxprune.apply.explain import cannot_apply
from fxprune.apply.last_resort import last_resort
from fxprune.apply.matching import match_calls
from fxprune.apply.observe import Observation, observe
from fxprune.apply.places import Place, place_of_node
from fxprune.apply.search import Patches, Search, install
from fxprune.apply.shorten import Moves, shorten
from fxprune.apply.sizes import find_sizes
from fxprune.apply.slots import find_slots
from fxprune.apply.solve import solve
from fxprune.apply.trial import Trial, error_of, run_plainly
from fxprune.caches import empty_caches
from fxprune.capture import capture, computed_tensors
from fxprune.capture_errors import first_line
from fxprune.errors import CannotApply, CheckpointError, InputError
from fxprune.evaluating import evaluating
from fxprune.exclusive import EXCLUSIVE
from fxprune.inputs import Inputs
from fxprune.passes.slim import slim_graph
from fxprune.plan import Plan, slices_of
from fxprune.program import Program
from fxprune.random_state import kept_random_state
from fxprune.slim_module import SlimModule, assemble

Module = TypeVar("Module", bound=nn.Module)


def apply(
    slim_or_plan: SlimModule | Plan, model: Module, *, example_inputs: Any = None, config: bool | None = None
) -> Module:
    """The user's own class, slimmed: a copy of `model` whose parameters, buffers and size attributes are cut.

    Args:
        slim_or_plan: a slim module (the copy gets its weights), or a plan (the copy gets `model`'s own, sliced).
        model: an instance of the class that was compiled, of the original sizes. It is copied, never changed, and the
            copy shares no memory with it or with the slim module.
        example_inputs: what to check the copy on; None for those that the slim module was compiled with, or for
            those that can be inferred from the model.
        config: of Transformers models: True to raise where the configuration cannot describe the slim model, so that what
            is returned is sure to survive `save_pretrained` and `from_pretrained`; None to warn; False to leave it.

    Where the class derives a size in a way that no attribute can say (`B, N, C = x.shape`, then `reshape(B, N, C)`), the
    module that does gets a subclass of its class, of the same name, in whose text that one argument is an attribute:
    `reshape(B, N, self.slim_reshape_89)`. `fxprune.rewritten(copy)` shows every such edit as a diff.

    Dropped blocks leave the lists that held them (`nn.ModuleList`, `nn.Sequential`), and what follows moves up: `layers.5`
    is `layers.4` then, in the state dict too.

    Returns:
        The copy: same class (or such a subclass), training flags, hooks, `requires_grad`, tied weights and state dict
        keys. On the example inputs it computes what the graph form computes. Of Transformers models the configuration
        is updated where it can describe the slim model; a warning says where it cannot.

    Raises:
        CheckpointError: the plan is of another model.
        CannotApply: the model's own Python cannot follow the cut (names module, attribute and line), or, with
            `config=True`, its configuration cannot.
        InputError: `slim_or_plan` is neither, or example inputs are missing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxprune
        >>> from fxprune.apply import apply
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> slim = fxprune.compile(model, "50%", example_inputs=torch.randn(2, 8))
        >>> apply(slim, model)[0]
        Linear(in_features=8, out_features=32, bias=True)
    """
    plan = _plan_of(slim_or_plan)
    check_signature(plan, model)
    with EXCLUSIVE:
        subject, moves = shorten(model, plan.dropped) if plan.dropped else (model, Moves((), {}))
        plan = moves.plan(plan) if plan.dropped else plan
        if isinstance(slim_or_plan, SlimModule) and example_inputs is None:
            args, kwargs = slim_or_plan.example_inputs
            program = _capture(subject, args, kwargs)
        else:
            program = capture(subject, example_inputs)
        ignore = [
            pattern for pattern in plan.ignore if not moves.dropped or any(holds(pattern, x) for x in program.tensors)
        ]
        analysis = analyze_program(program, ignore=ignore)
        made: Module = _Application(plan, subject, analysis, slim_or_plan, moves).run(config)
    return made


def _plan_of(slim_or_plan: object) -> Plan:
    if isinstance(slim_or_plan, SlimModule):
        return slim_or_plan.plan
    if isinstance(slim_or_plan, Plan):
        return slim_or_plan
    kind = type(slim_or_plan).__name__
    msg = f"apply takes a SlimModule or a Plan first, then the model: apply(slim, model); got a {kind}"
    raise InputError(msg)


def _capture(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    if args and kwargs:
        msg = "the slim module was compiled with positional and keyword inputs at once; pass example_inputs"
        raise InputError(msg)
    return capture(model, args or dict(kwargs))


class _Application:
    """One application under way: what all its steps need."""

    def __init__(
        self, plan: Plan, model: nn.Module, analysis: Analysis, source: SlimModule | Plan, moves: Moves
    ) -> None:
        self.plan, self.model, self.analysis, self.source, self.moves = plan, model, analysis, source, moves
        self.program = analysis.program
        check_groups(plan, analysis.groups)
        self.cut = analysis.cut({name: np.asarray(kept) for name, kept in plan.kept.items()})
        check_slices(plan, slices_of(self.program, analysis.propagation, self.cut))
        emitted = slim_graph(self.program, analysis.propagation, self.cut)
        self.sizes = find_sizes(emitted.graph, analysis.propagation, self.cut, self.program.module_aliases)
        self.rescaled = _rescaled(emitted.graph)
        self.constants = [
            (tensor, emitted.constants[name])
            for name, tensor in self.program.constants.items()
            if name in emitted.constants
        ]
        self.slim = source if isinstance(source, SlimModule) else assemble(self.program, emitted, plan, None)

    def run(self, config: bool | None) -> Any:
        """The checked copy, its configuration rewritten if wanted (True: or else an error)."""
        base = self._copy()
        adapted = adapt_attention(self.model, base, slices_of(self.program, self.analysis.propagation, self.cut))
        inputs: Inputs = tree_unflatten(list(self.program.traced), self.program.in_spec)
        seen = observe(self.model, inputs)
        matching = match_calls(seen.calls, self.sizes)
        demands = [each for each in find_demands(seen.calls, matching) if each.place.path not in adapted]
        originals = find_slots(self.model)
        patches = solve(demands, originals, self.sizes)
        inputs = tree_map(self._moved, inputs)
        expected = self._expected(self._flat())
        rescaled = [place for place in self.rescaled if place.path not in adapted]
        search = Search(self.model, base, inputs, expected, seen, matching, demands, rescaled)
        found, trial = search.run(patches)
        drafts: Mapping[str, Draft] = {}
        if not trial.agrees:
            found, drafts = last_resort(search, patches, found, trial)
        install(self.model, base, found)
        for path, draft in drafts.items():
            draft.install(base.get_submodule(path))
        self._check(base, expected, inputs, search, found)
        another = with_another_batch(self.program, self._flat()) if drafts else None
        if another is not None:
            larger: Inputs = tree_unflatten(another, self.program.in_spec)
            self._check(base, self._expected(another), larger, search, found)
        if config is not False:
            self._configure(base, inputs, found, required=config is True)
        from fxprune.files.making import remember_making  # which imports this

        remember_making(base, self.slim)
        return base

    def _configure(self, base: nn.Module, inputs: Inputs, used: Patches, *, required: bool) -> None:
        """Rewrite the configuration of a Transformers model; raise or warn where that cannot be."""
        if required and blueprint_of(self.model) is None:
            msg = (
                f"config=True: {type(self.model).__name__} is no Transformers model, it has no configuration to rewrite"
            )
            raise CannotApply(msg)
        obstacle = update_config(self.model, base, inputs, used)
        if obstacle is not None and required:
            raise CannotApply(str(obstacle))
        if obstacle is not None:
            warnings.warn(str(obstacle), stacklevel=4)

    def _copy(self) -> nn.Module:
        """A deep copy of the model with slim tensors in the place of its own; tied ones stay one."""
        memo: dict[int, Any] = {id(each): each.detach() for each in computed_tensors(self.model)}
        tensors = self._tensors()
        for name, tensor in self.program.tensors.items():
            if id(tensor) not in memo:
                memo[id(tensor)] = self._own(tensor, tensors[self.program.canonical(name)])
        memo.update((key, tensor) for key, tensor in slim_attributes(self.model, self.constants, self._moved).items())
        made = copy.deepcopy(self.model, memo)
        empty_caches(made)
        return made

    def _tensors(self) -> dict[str, Tensor]:
        slim = self.slim
        found = {
            **dict(slim.named_parameters(remove_duplicate=False)),
            **dict(slim.named_buffers(remove_duplicate=False)),
        }
        return self.moves.keys(found) if isinstance(self.source, SlimModule) else found

    def _own(self, original: Tensor, slim: Tensor) -> Tensor:
        made = slim.detach().clone()
        return nn.Parameter(made, original.requires_grad) if isinstance(original, nn.Parameter) else made

    def _check(self, base: nn.Module, expected: list[Any], inputs: Inputs, search: Search, found: Patches) -> None:
        """Compare the finished copy with the graph form."""
        error = error_of(expected, run_plainly(base, inputs))
        if not error <= 1.0:
            raise cannot_apply(search, found, Trial(Observation(), error))

    def _flat(self) -> list[Any]:
        return [self._moved(each) for each in self.program.traced]

    def _expected(self, flat: list[Any]) -> list[Any]:
        """What the graph form computes.

        Raises:
            CheckpointError: it cannot be run, as no graph that fxprune has emitted.
        """
        with evaluating(self.slim), torch.no_grad(), kept_random_state():
            interpreter = Interpreter(self.slim)
            interpreter.extra_traceback = False  # which reads sources to log where it failed
            try:
                return tree_leaves(interpreter.run(*flat, enable_io_processing=False))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {first_line(error)}"
                msg = f"the slim module's graph cannot be run ({what}); its file is not intact"
                raise CheckpointError(msg) from error

    def _moved(self, value: Any) -> Any:
        """An input as the slim module's tensors are, which may have been moved since they were cut."""
        first = next(iter(self.slim.parameters()), None)
        if not isinstance(value, Tensor) or first is None:
            return value
        before = next(iter(self.program.tensors.values()))
        converted = value.is_floating_point() and before.dtype != first.dtype and value.dtype == before.dtype
        return value.to(first.device, first.dtype if converted else value.dtype)


def _rescaled(graph: Graph) -> list[Place]:
    """Where an attention kernel would take another scale than the original's."""
    return [
        place_of_node(node.meta["origin"])
        for node in graph.nodes
        if "origin" in node.meta and node.kwargs.get("scale") != node.meta["origin"].kwargs.get("scale")
    ]
