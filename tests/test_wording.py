"""The code of slim modules computes what their graphs say, and can be handled like any module's."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, symbolic_trace
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_flatten, tree_leaves

import fxprune
from fxprune.wording import reword
from tests.files.nets import NETS, compiled

aten = torch.ops.aten


class Blocks(nn.Module):
    """Two blocks in a list, of modules in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(8, 32), "inner": nn.Sequential(nn.ReLU(), nn.Linear(32, 8))})
            for _ in range(2)
        )

    def forward(self, input: Tensor, shift: Tensor) -> dict[str, Tensor]:
        x = input
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + block["inner"](block["up"](x)) + shift
        return {"x": x, "half": x * 0.5}


def slim_blocks() -> fxprune.SlimModule:
    torch.manual_seed(0)
    return fxprune.compile(Blocks().eval(), "60%", example_inputs=(torch.randn(2, 8), torch.randn(8)))


def given(slim: fxprune.SlimModule, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), inputs) if isinstance(inputs, dict) else (inputs, {})


def verbatim(slim: fxprune.SlimModule) -> GraphModule:
    """A copy with the code that `torch.fx` writes."""
    plain = copy.deepcopy(slim)
    GraphModule.recompile(plain)
    return plain


def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], list[Tensor], Any]:
    """Outputs, gradients, and how the outputs are nested, of a call that draws the same random numbers each time."""
    torch.manual_seed(1)
    module.zero_grad()
    leaves, structure = tree_flatten(module(*args, **kwargs))
    sum(each.float().sum() for each in leaves if isinstance(each, Tensor) and each.is_floating_point()).backward()  # type: ignore[union-attr]
    return leaves, [each.grad for each in module.parameters() if each.grad is not None], structure


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_those_of_the_graph(name: str, training: bool) -> None:
    slim, _, inputs = compiled(name)
    slim = copy.deepcopy(slim).train(training)
    args, kwargs = given(slim, inputs)
    other = verbatim(slim)
    assert other.code != slim.code
    own, plain = run(slim, args, kwargs), run(other, args, kwargs)
    assert own[2] == plain[2]
    for mine, theirs in zip((*own[0], *own[1]), (*plain[0], *plain[1]), strict=True):
        assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs


@pytest.mark.parametrize("name", NETS)
def test_the_code_speaks_of_few_overloads_and_the_graph_of_nothing_else(name: str) -> None:
    slim, _, inputs = compiled(name)
    calls = [node for node in slim.graph.nodes if node.op == "call_function"]
    assert not any(node.op == "call_method" for node in slim.graph.nodes)
    assert all(isinstance(node.target, OpOverload) or node.target.__module__ in {"_operator", "math"} for node in calls)
    assert slim.code.count("torch.ops.aten") < 1 + sum(isinstance(node.target, OpOverload) for node in calls)
    assert "__call__" not in slim.code
    assert not re.search(r"self\.\w+\.", slim.code)
    args, kwargs = given(slim, inputs)
    torch.testing.assert_close(
        tree_leaves(Interpreter(slim).run(*tree_leaves((args, kwargs)), enable_io_processing=False)),
        tree_leaves(slim(*args, **kwargs)),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", NETS)
def test_pytorchs_compiler_takes_the_code_whole(name: str) -> None:
    slim, _, inputs = compiled(name)
    args, kwargs = given(slim, inputs)
    torch._dynamo.reset()
    found = torch.compile(slim, fullgraph=True, backend="eager")(*args, **kwargs)
    torch.testing.assert_close(tree_leaves(found), tree_leaves(slim(*args, **kwargs)), rtol=0, atol=0)


def test_lines_of_the_code_are_for_nodes_of_the_graph() -> None:
    slim = slim_blocks()
    names, lines = [node.name for node in slim.graph.nodes], slim.code.splitlines()
    assert slim._lineno_map is not None
    written = {at: lines[line + slim._prologue_start - 1] for line, at in slim._lineno_map.items() if at is not None}
    for at, node in enumerate(slim.graph.nodes):
        if node.op in ("call_module", "call_function"):
            assert written[at].strip().startswith(f"{names[at]} = ")


def test_a_module_that_is_replaced_is_found() -> None:
    slim, args = slim_blocks(), (torch.randn(3, 8), torch.randn(8))
    before = slim(*args)["x"]
    slim.get_submodule("blocks.1").up = nn.Sequential(slim.get_submodule("blocks.1.up"), nn.Tanh())
    assert not torch.equal(slim(*args)["x"], before)
    seen: list[str] = []
    slim.get_submodule("blocks.0.up").register_forward_hook(lambda *_: seen.append("up"))
    slim(*args)
    assert seen == ["up"]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def test_parametrised_tensors_are_computed() -> None:
    """Of a module that is called and of one whose tensor the graph reads."""
    slim, _, inputs = compiled("tied")
    slim = copy.deepcopy(slim)
    before = slim(*inputs)
    for path in ("head", "first.0"):
        changed = copy.deepcopy(slim)
        parametrize.register_parametrization(changed.get_submodule(path), "weight", Doubled())
        assert not torch.equal(changed(*inputs), before)


def test_tensors_can_be_given_for_one_call() -> None:
    slim, _, inputs = compiled("tied")
    double = {name: 2 * each for name, each in slim.named_parameters()}
    other = copy.deepcopy(slim)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert torch.equal(torch.func.functional_call(slim, double, inputs), other(*inputs))


def test_arguments_go_by_their_names_and_a_missing_one_is_told() -> None:
    slim, x, shift = slim_blocks(), torch.randn(2, 8), torch.randn(8)
    found = slim(x, shift)
    assert torch.equal(slim(shift=shift, input=x)["x"], found["x"])
    with pytest.raises(TypeError, match="shift"):
        slim(x)


class Named(nn.Module):
    """Arguments whose names `torch.fx` changes into each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, input: Tensor, input_1: Tensor) -> list[Tensor]:
        return [self.down(torch.relu(self.up(input))) - input_1]


def test_names_of_arguments_do_not_clash() -> None:
    torch.manual_seed(0)
    model, args = Named().eval(), (torch.randn(2, 8), torch.randn(2, 8))
    slim = fxprune.compile(model, "100%", example_inputs=args)
    assert torch.equal(slim(*args)[0], model(*args)[0])


class Scaled(nn.Module):
    """An argument that is called like what the code calls the modules, with a parameter that is looked up before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.ParameterList([torch.randn(8)])
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, in_root: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(in_root))) * self.scale[0]
        return out


def test_names_of_arguments_do_not_clash_with_those_of_the_code() -> None:
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(2, 8)
    slim = fxprune.compile(model, "100%", example_inputs=x)
    assert torch.equal(slim(in_root=x), model(x))


def test_inputs_that_are_nested_stay_nested() -> None:
    slim, _, inputs = compiled("nested")
    assert "tree_flatten_spec" in slim.code
    assert "tree_flatten_spec" not in compiled("convolutions")[0].code
    with pytest.raises((KeyError, RuntimeError)):
        slim(**{**inputs, "parts": {"a": torch.randn(2, 6, 8)}})


def test_an_edited_graph_is_written_anew_and_keeps_what_edits_its_code() -> None:
    slim, args = slim_blocks(), (torch.randn(3, 8), torch.randn(8))
    before = slim(*args)["half"]
    half = next(node for node in slim.graph.nodes if node.target == aten.mul.Tensor)
    half.args = (half.args[0], 0.25)
    slim.recompile()
    assert torch.equal(slim(*args)["half"], before / 2)
    slim.graph.on_generate_code(lambda _: lambda body: ["assert self is not None\n", *body])
    slim.recompile()
    assert "assert self is not None" in slim.code
    slim(*args)


def test_rewording_leaves_the_graph_alone() -> None:
    slim = slim_blocks()
    before = str(slim.graph), slim.graph._codegen._body_transformer
    wording = reword(slim.graph)
    assert (str(slim.graph), slim.graph._codegen._body_transformer) == before
    assert len(wording.origins) == len(wording.graph.nodes)


def test_copies_pickles_and_traces_compute_the_same() -> None:
    slim, args = slim_blocks(), (torch.randn(3, 8), torch.randn(8))
    code = slim.code
    read = pickle.loads(pickle.dumps(slim))
    assert slim.code == code
    assert copy.deepcopy(slim).code == code
    overloads = [node.target for node in slim.graph.nodes if node.op == "call_function"]
    assert [node.target for node in read.graph.nodes if node.op == "call_function"] == overloads
    exported = torch.export.export(slim, args, strict=False).module()
    for other in (read, copy.deepcopy(slim), symbolic_trace(slim), exported):
        assert torch.equal(other(*args)["x"], slim(*args)["x"])


class Positioned(nn.Module):
    """Positions counted from a size, and a conversion of numbers and memory format at once."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        image = torch.relu(self.up(x)).reshape(count, 2, 4, 4).to(torch.float64, memory_format=torch.channels_last)
        out: Tensor = self.down(image.reshape(count, 32).float()) + torch.arange(count)[:, None]
        return out


def test_sizes_and_memory_formats_can_be_traced() -> None:
    torch.manual_seed(0)
    model, x = Positioned().eval(), torch.randn(2, 8)
    slim = fxprune.compile(model, "100%", example_inputs=x)
    assert torch.equal(slim(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, and baked sizes are told of
        traced = torch.jit.trace(slim, (x,))
    assert torch.equal(traced(x), model(x))


def test_export_records_the_graphs_overloads() -> None:
    slim, args = slim_blocks(), (torch.randn(3, 8), torch.randn(8))
    modules = (slim, verbatim(slim))
    graphs = [torch.export.export(each, args, strict=False).graph_module.graph for each in modules]
    targets = [[node.target for node in graph.nodes if node.op == "call_function"] for graph in graphs]
    assert targets[0] == targets[1]
