"""Dropped blocks: against hooks on the original module, against the reference interpreter, and what remains."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

import fxprune
from benchmarks.coverage_models import Example, UnavailableError, find, make
from fxprune.analysis import Analysis, analyze
from fxprune.blocks import Block
from fxprune.cut import Cut
from fxprune.depth import choose_blocks, without_blocks
from fxprune.errors import InputError
from fxprune.passes.bypass import verify_drop
from fxprune.passes.drop import drop_blocks
from fxprune.passes.slim import slim_graph
from fxprune.passes.verify import relative_error, verify
from fxprune.plan import Plan, slices_of
from fxprune.slim_module import SlimModule, assemble
from tests.randomgraphs import Draw, Seeded
from tests.reference import masked_outputs
from tests.semantics.plans import random_cut

MODELS = (
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "torchvision/swin_t",
    "timm/convnext_zepto_rms",
    "timm/mixer_s32_224",
    "timm/swin_tiny_patch4_window7_224",
    "timm/vit_tiny_patch16_224",
    "transformers/bart",
    "transformers/bert",
    "transformers/gpt2",
    "transformers/llama",
    "transformers/mamba2",
    "transformers/mixtral",
    "transformers/mobilebert",
    "transformers/swinv2",
)


def built(name: str) -> tuple[Example, Analysis]:
    try:
        example = make(find(name))
    except UnavailableError as error:
        pytest.skip(str(error))
    return example, analyze(example.model, example.inputs)


def emit(analysis: Analysis, cut: Cut) -> SlimModule:
    program, propagation = analysis.program, analysis.propagation
    return assemble(program, slim_graph(program, propagation, cut), Plan({}, {}, {}), None).eval()


def outputs(module: nn.Module, example: Example) -> list[Tensor]:
    with torch.no_grad():
        return [each for each in tree_leaves(example.call(module)) if isinstance(each, Tensor)]


def hand_through(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """A forward hook: the block's first input stands in for its (first) output."""
    stream = args[0] if args else kwargs["hidden_states"]
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def hooked(example: Example, blocks: Sequence[Block]) -> list[Tensor]:
    """What the original module computes if hooks replace the outputs of blocks; nothing of fxprune takes part."""
    model = copy.deepcopy(example.model)
    if getattr(getattr(model, "config", None), "use_cache", False) is True:
        model.config.use_cache = False  # type: ignore[union-attr]
    for block in blocks:
        model.get_submodule(block.name).register_forward_hook(hand_through, with_kwargs=True)
    return outputs(model, example)


def some(blocks: Sequence[Block], seed: int) -> list[Block]:
    """Between one block and all of them."""
    chosen = random.Random(seed)
    return chosen.sample(list(blocks), chosen.randint(1, len(blocks)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_against_hooks(name: str) -> None:
    """Random choices of blocks, and all of them."""
    example, analysis = built(name)
    for blocks in (some(analysis.blocks, 0), some(analysis.blocks, 1), analysis.blocks):
        program = drop_blocks(analysis.program, blocks)
        assert verify_drop(analysis.program, blocks, program) == 0.0
        slim = emit(without_blocks(analysis, blocks), Cut({}, {}))
        for a, b in zip(hooked(example, blocks), outputs(slim, example), strict=True):
            assert relative_error(a, b) < 1e-5
        kept, original = slim.state_dict(), example.model.state_dict()
        gone = [key for key in original if any(key.startswith(f"{block.name}.") for block in blocks)]
        assert set(gone).isdisjoint(kept)
        assert all(key in kept and torch.equal(kept[key], each) for key, each in original.items() if key not in gone)


def bypassed(analysis: Analysis, blocks: Sequence[Block]) -> fx.GraphModule:
    """The original graph with readers of each output rewired by hand, its dead operations left where they are."""
    module = copy.deepcopy(analysis.program.graph_module)
    nodes = {node.name: node for node in module.graph.nodes}
    for block in reversed(blocks):
        nodes[block.output.name].replace_all_uses_with(nodes[block.input.name])
    gone = {node.name for block in blocks for node in block.nodes}
    for node in reversed(module.graph.nodes):
        if node.name in gone:
            module.graph.erase_node(node)
    module.recompile()
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "transformers/bert", "transformers/llama", "timm/vit_tiny_patch16_224"]
)
def test_with_cuts_against_the_reference(name: str) -> None:
    """Blocks dropped and widths cut at random: what the reference makes of the bypassed graph under the same slices."""
    example, analysis = built(name)
    for seed in range(2):
        blocks = sorted(some(analysis.blocks, seed), key=lambda block: block.output)
        remaining = without_blocks(analysis, blocks)
        cut = random_cut(remaining.groups, Draw(Seeded(seed)))
        slim = emit(remaining, cut)
        verify(remaining.program, remaining.propagation, cut, slim)
        slices = slices_of(remaining.program, remaining.propagation, cut)
        program = remaining.program
        expected = masked_outputs(bypassed(analysis, blocks), slices, program.args, program.kwargs)
        for a, b in zip(expected, outputs(slim, example), strict=True):
            assert relative_error(a, b) < 1e-3


class Unit(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.units = nn.ModuleList(Unit() for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        return self.head(x)  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


IMAGES = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def test_compile(net: Net) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    slim = fxprune.compile(net, "50%", example_inputs=IMAGES, drop=["units.2", "units.0"], align=1)
    assert slim.plan.dropped == ("units.0", "units.2")
    assert fxprune.Plan.from_json(slim.plan.to_json()).dropped == slim.plan.dropped
    assert set(slim.plan.signature) == set(before)
    report = slim.report
    whole = fxprune.profile(net, IMAGES)
    flops = next(metric for metric in report.metrics if metric.name == "flops")
    assert flops.before == whole.flops
    assert flops.after <= 0.5 * flops.before
    assert [(each.name, each.kind, each.parameters) for each in report.dropped] == [
        ("units.0", "Unit", 1104),
        ("units.2", "Unit", 1104),
    ]
    assert "dropped whole: units.{0,2} (2 Unit, 2,208 parameters)" in str(report)
    assert "the dropped blocks bypassed and the cut parts silenced" in str(report)
    assert report.error is not None
    assert report.error < 1e-5
    assert not [key for key in slim.state_dict() if key.startswith(("units.0", "units.2"))]
    assert [path for path, _ in slim.named_modules() if path.count(".") == 1] == ["units.1", "units.3"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_depth_alone_can_meet_the_budget(net: Net) -> None:
    slim = fxprune.compile(net, "70%", example_inputs=IMAGES, drop=["units.[12]"], ignore=["units.1", "head"])
    assert slim.plan.dropped == ("units.1", "units.2")
    assert not slim.plan.kept
    with torch.no_grad():
        expected = net.head(net.units[3](net.units[0](net.stem(IMAGES))))
        assert torch.equal(slim(IMAGES), expected)


def test_nothing_dropped_is_the_identity(net: Net) -> None:
    analysis = analyze(net, IMAGES)
    assert drop_blocks(analysis.program, ()) is analysis.program
    assert without_blocks(analysis, ()) is analysis
    assert fxprune.compile(net, "100%", example_inputs=IMAGES).report.dropped == ()


def test_trains(net: Net) -> None:
    slim = fxprune.compile(net, "60%", example_inputs=IMAGES, drop=["units.3"]).train()
    optimizer = torch.optim.SGD(slim.parameters(), 0.1)
    losses = []
    for _ in range(5):
        loss = functional.cross_entropy(slim(IMAGES), torch.arange(6) % 3)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in slim.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_exports(net: Net, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    slim = fxprune.compile(net, "60%", example_inputs=IMAGES, drop=["units.1", "units.2"])
    fxprune.lower(slim, "onnx", tmp_path / "net.onnx")


def test_scores_of_the_whole_model_serve_again(net: Net) -> None:
    scores = fxprune.compile(net, "80%", example_inputs=IMAGES).scores
    again = fxprune.compile(net, "50%", example_inputs=IMAGES, scores=scores, drop=["units.3"])
    assert again.plan.dropped == ("units.3",)


def test_apply_shortens_the_list(net: Net) -> None:
    slim = fxprune.compile(net, "60%", example_inputs=IMAGES, drop=["units.1"])
    made = fxprune.apply(slim, net)
    assert len(list(made.units)) == len(list(net.units)) - 1
    torch.testing.assert_close(made.eval()(IMAGES), slim.eval()(IMAGES))


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (
            ["units.9"],
            r"drop='units.9' matches no block of Net; did you mean 'units\.\d'\? Blocks that can be dropped: units",
        ),
        (["head"], r"head \(Linear\) is no block: no other Linear stands beside it"),
        (["units"], r"units \(ModuleList\) is no block"),
        ([3], r"drop holds 3; pass names of blocks or patterns"),
    ],
)
def test_unusable_names(net: Net, drop: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fxprune.compile(net, "50%", example_inputs=IMAGES, drop=drop)


def test_unqualified_names_say_why() -> None:
    class Short(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.units[1](self.units[0](self.stem(x))))  # type: ignore[no-any-return]

    why = r"units\.3 \(Unit\) cannot be dropped: the captured forward does not run it. Blocks .*: units\.\{0,1\}"
    with pytest.raises(InputError, match=why):
        fxprune.compile(Short().eval(), "50%", example_inputs=IMAGES, drop=["units.3"])


def compare_with_hooks(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> SlimModule:
    """Drop, and compare with the original under hooks."""
    example = Example(model.eval(), (inputs,), None)
    analysis = analyze(model, inputs)
    blocks = choose_blocks(analysis, names)
    slim = emit(without_blocks(analysis, blocks), Cut({}, {}))
    for a, b in zip(hooked(example, blocks), outputs(slim, example), strict=True):
        assert relative_error(a, b) < 1e-6
    return slim


def test_a_write_behind_a_dropped_block_stays_there() -> None:
    """The activation in place would otherwise reach the stem's output, which the skip connection reads."""

    class Writes(Net):
        def forward(self, x: Tensor) -> Tensor:
            stem = self.stem(x)
            y = self.units[0](stem).relu_()
            return self.head(self.units[1](y) + stem)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Writes().eval()
    analysis = analyze(model, IMAGES)
    slim = emit(without_blocks(analysis, choose_blocks(analysis, ["units.0"])), Cut({}, {}))
    with torch.no_grad():
        stem = model.stem(IMAGES)
        assert torch.equal(slim(IMAGES), model.head(model.units[1](stem.relu()) + stem))


def test_a_view_behind_a_dropped_block() -> None:
    """The input lies in memory in another order than the output, which a view could be taken of."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Last() for _ in range(2))
            self.head = nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(1, 2)
            for block in self.blocks:
                x = block(x)
            return self.head(x.view(-1, 24))  # type: ignore[no-any-return]

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + x  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Views().eval(), torch.randn(3, 4, 6)
    analysis = analyze(model, x)
    remaining = without_blocks(analysis, analysis.blocks)
    assert len(analysis.blocks) == 2
    with torch.no_grad():
        expected = model.head(x.transpose(1, 2).reshape(-1, 24))
        assert torch.equal(emit(remaining, Cut({}, {}))(x), expected)
    assert verify_drop(analysis.program, analysis.blocks, remaining.program) == 0.0


def test_buffers_stay_as_they_are() -> None:
    """What forward counts in eval mode is counted on copies while the compiler checks its work."""

    class Counts(Net):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return super().forward(x) * self.calls

    model = Counts().eval()
    slim = fxprune.compile(model, "60%", example_inputs=IMAGES, drop=["units.1"])
    assert float(model.calls) == 0.0
    assert float(slim.state_dict()["calls"]) == 0.0


def test_tied_tensors_go_by_a_name_that_remains(net: Net) -> None:
    net.units[1].up.weight = net.units[0].up.weight  # type: ignore[union-attr]
    slim = compare_with_hooks(net, IMAGES, ["units.0"])
    assert "units.0.up.weight" not in slim.state_dict()
    assert "units.1.up.weight" in slim.state_dict()
    assert isinstance(slim.get_submodule("units.1.up"), nn.Linear)


def test_nested_blocks_go_with_the_outer_one() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.units = nn.ModuleList(Unit() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.units[1](self.units[0](x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), Stage(), Stage(), nn.Linear(16, 2))
    analysis = analyze(model.eval(), IMAGES)
    assert [block.name for block in choose_blocks(analysis, ["1*"])] == ["1"]
    compare_with_hooks(model, IMAGES, ["1*", "2.units.1"])
    assert verify_drop(analysis.program, analysis.blocks, drop_blocks(analysis.program, analysis.blocks)) == 0.0
