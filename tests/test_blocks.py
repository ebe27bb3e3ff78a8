"""Which blocks are found: in libraries' models, in small modules made for one property each, and why others are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage_models import UnavailableError, find, make
from fxprune.analysis import Analysis, analyze
from fxprune.blocks import Survey, find_blocks, survey_blocks
from fxprune.patterns import fold_names


def surveyed(name: str) -> Survey:
    """Blocks of a model of the zoo."""
    try:
        example = make(find(name))
    except UnavailableError as error:
        pytest.skip(str(error))
    return analyze(example.model, example.inputs).survey


FOUND = {
    "torchvision/resnet18": (["layer1.0", "layer{1..4}.1"], False),
    "torchvision/mobilenet_v3_small": (["features.{3,5,6,8,10,11}"], None),
    "torchvision/vit_b_16": (["encoder.layers.encoder_layer_{0..11}"], True),
    "torchvision/swin_t": (["features.{1,3,5,7}.{0,1}", "features.5.{2..5}"], True),
    "torchvision/convnext_tiny": (["features.{1,3,5,7}.{0..2}", "features.5.{3..8}"], True),
    "timm/vit_tiny_patch16_224": (["blocks.{0..11}"], True),
    "timm/swin_tiny_patch4_window7_224": (["layers.{0..3}.blocks.{0,1}", "layers.2.blocks.{2..5}"], True),
    "timm/mixer_s32_224": (["blocks.{0..7}"], True),
    "transformers/bert": (["bert.encoder.layer.{0,1}"], False),
    "transformers/deberta": (["deberta.encoder.layer.{0,1}"], False),
    "transformers/gpt2": (["transformer.h.{0,1}"], True),
    "transformers/llama": (["model.layers.{0,1}"], True),
    "transformers/mixtral": (["model.layers.{0,1}"], True),
    "transformers/mamba": (["backbone.layers.{0,1}"], True),
    "transformers/vit": (["vit.layers.{0,1}"], True),
    "timm/densenet121": ([], None),
    "torchvision/shufflenet_v2_x0_5": ([], None),
}


def names(patterns: list[str]) -> set[str]:
    """What folded names stand for."""
    found = set()
    for pattern in patterns:
        expanded = [""]
        for at, part in enumerate(pattern.replace("}", "{").split("{")):
            expanded = [each + text for each in expanded for text in (_numbers(part) if at % 2 else [part])]
        found.update(expanded)
    return found


def _numbers(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    return [str(each) for each in range(int(first), int(last) + 1)] if dots else text.split(",")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOUND)
def test_blocks_of_models(name: str) -> None:
    survey = surveyed(name)
    expected, identity = FOUND[name]
    assert {block.name for block in survey.blocks} == names(expected)
    if identity is not None:
        assert {block.identity for block in survey.blocks} <= {identity}


@pytest.mark.filterwarnings("ignore")
def test_reasons_in_models() -> None:
    resnet = {each.name: each.reason for each in surveyed("torchvision/resnet18").refusals}
    assert fold_names(resnet) == ["layer{2..4}.0"]
    assert set(resnet.values()) == {"what leaves it has another shape or type than what enters"}
    densenet = {each.name: each.reason for each in surveyed("timm/densenet121").refusals}
    assert densenet["features.denseblock1.denselayer2"] == "no residual add runs in it"


@pytest.mark.filterwarnings("ignore")
def test_position_bias_of_t5() -> None:
    """The first block computes it for all others; encoder states and masks enter the others without harm."""
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=32, d_model=16, d_ff=32, d_kv=8, num_layers=3, num_heads=2, use_cache=False, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.decoder.config.use_cache = False
    tokens = torch.arange(12).reshape(2, 6)
    survey = analyze(model, {"input_ids": tokens, "decoder_input_ids": tokens + 5}).survey
    assert {block.name for block in survey.blocks} == names(["encoder.block.{1,2}", "decoder.block.{1,2}"])
    assert all(block.identity for block in survey.blocks)
    reasons = {each.name: each.reason for each in survey.refusals}
    for name in ("encoder.block.0", "decoder.block.0"):
        assert reasons[name].startswith("beside the residual stream, what is made of its weights is used outside it")


class Unit(nn.Module):
    """A block whose forward is `how(unit, x)`."""

    def __init__(self, how: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)


class Tower(nn.Module):
    """Three units of one kind and a head."""

    def __init__(self, how: Callable[[Any, Tensor], Any], run: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.units = nn.ModuleList(Unit(how) for _ in range(3))
        self.run = run
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.run is not None:
            return self.head(self.run(self, x))  # type: ignore[no-any-return]
        for unit in self.units:
            x = unit(x)
        return self.head(x)  # type: ignore[no-any-return]


def analysed(how: Callable[[Any, Tensor], Any], run: Callable[[Any, Tensor], Tensor] | None = None) -> Analysis:
    torch.manual_seed(0)
    return analyze(Tower(how, run).eval(), torch.randn(2, 4, 8))


def in_place(unit: Any, x: Tensor) -> Tensor:
    x += unit.fc(x)
    return x


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def round_trip(unit: Any, x: Tensor) -> Tensor:
    y = x.reshape(-1, 8).t()
    return (y + unit.fc(y.t()).t()).t().reshape(x.shape)  # type: ignore[no-any-return]


def swapped(unit: Any, x: Tensor) -> Tensor:
    """Split in another way than it is put together: same shape, other order."""
    y = (x + unit.fc(x)).reshape(-1, 2, 4)
    return y.transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


FORMS: dict[str, tuple[Callable[[Any, Tensor], Any], bool]] = {
    "pre-norm": (lambda unit, x: x + unit.fc(unit.norm(x)), True),
    "branch first": (lambda unit, x: unit.fc(x) + x, True),
    "minus": (lambda unit, x: x - unit.fc(x), True),
    "branch scaled": (lambda unit, x: torch.add(x, unit.fc(x), alpha=0.5), True),
    "in place": (in_place, True),
    "cast and detached": (lambda unit, x: x.double().float().contiguous() + unit.fc(x.detach()), True),
    "another layout and back": (round_trip, True),
    "two branches": (lambda unit, x: (lambda y: y + unit.fc(unit.norm(y)))(x + unit.fc(x)), True),
    "broadcast branch": (lambda unit, x: x + unit.fc(x.mean(1, keepdim=True)), True),
    "branch without weights": (lambda unit, x: x + x.cumsum(1) + unit.fc(x), True),
    "post-norm": (lambda unit, x: unit.norm(x + unit.fc(x)), False),
    "post-norm of parts": (lambda unit, x: rms(x + unit.fc(x)) * unit.norm.weight, False),
    "activation behind": (lambda unit, x: (x + unit.fc(x)).relu(), False),
    "stream scaled": (lambda unit, x: 0.5 * x + unit.fc(x), False),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    how, identity = FORMS[form]
    blocks = analysed(how).blocks
    assert [block.name for block in blocks] == ["units.0", "units.1", "units.2"]
    assert all(block.identity is identity for block in blocks)
    assert all((block.family, block.kind, block.inside) == ("units", "Unit", None) for block in blocks)
    norm = 16 if form in {"pre-norm", "two branches", "post-norm"} else 8 if form == "post-norm of parts" else 0
    assert all(block.parameters == 72 + norm for block in blocks)


NO_PATH = "no path from what enters to what leaves passes by its weights through a residual add"
REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "no add": (lambda unit, x: unit.fc(x).relu(), "no residual add runs in it"),
    "adds something else": (lambda unit, x: unit.fc(x) + unit.norm(unit.fc(x)), NO_PATH),
    "a bias is no branch": (lambda unit, x: (x + unit.fc.bias).relu() - x.mean(-1, keepdim=True), NO_PATH),
    "gated": (lambda unit, x: x * unit.fc(x).sigmoid() + unit.fc(x), NO_PATH),
    "stream subtracted": (lambda unit, x: unit.fc(x) - x, NO_PATH),
    "another order": (swapped, NO_PATH),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused_forms(form: str) -> None:
    how, reason = REFUSED[form]
    analysis = analysed(how)
    assert not analysis.blocks
    reasons = {each.name: each.reason for each in analysis.survey.refusals}
    assert reasons == dict.fromkeys(("units.0", "units.1", "units.2"), reason)


def pre_norm(unit: Any, x: Tensor) -> Tensor:
    return x + unit.fc(unit.norm(x))  # type: ignore[no-any-return]


def write_then_read(tower: Any, x: Tensor) -> Tensor:
    """What the first unit gets is read at the end once more, through a view made before."""
    half = x[..., :4]
    y = tower.units[2](tower.units[1](tower.units[0](x)))
    return y * torch.cat([half, half], -1)  # type: ignore[no-any-return]


def test_a_stream_written_in_place_and_read_later() -> None:
    survey = analysed(in_place, write_then_read).survey
    assert not survey.blocks
    assert all(each.reason.startswith("it writes in place to a value from outside it") for each in survey.refusals)
    assert [block.name for block in analysed(pre_norm, write_then_read).blocks] == ["units.0", "units.1", "units.2"]


def cached(unit: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    key = unit.fc(x)
    return x + key, key


def use_cache(tower: Any, x: Tensor) -> Tensor:
    x, key = tower.units[0](x)
    x, _ = tower.units[1](x)
    return tower.units[2](x)[0] * key  # type: ignore[no-any-return]


def test_what_leaves_beside_the_stream() -> None:
    survey = analysed(cached, use_cache).survey
    assert [block.name for block in survey.blocks] == ["units.1", "units.2"]
    (refusal,) = (each for each in survey.refusals if each.name == "units.0")
    assert refusal.reason == "beside the residual stream, what is made of its weights is used outside it (linear_1)"
    assert [node.name for node in refusal.nodes] == ["linear_1"]


def test_collected_streams_do_not_stand_in_the_way() -> None:
    """As `output_hidden_states` does: the stream itself may be read by anybody."""

    def collect(tower: Any, x: Tensor) -> Tensor:
        streams = [x]
        for unit in tower.units:
            streams.append(unit(streams[-1]))
        return torch.stack(streams).sum(0)

    assert len(analysed(pre_norm, collect).blocks) == 3


def test_shared_modules() -> None:
    tower = Tower(pre_norm)
    tower.units[2] = tower.units[0]
    survey = analyze(tower.eval(), torch.randn(2, 4, 8)).survey
    assert [block.name for block in survey.blocks] == ["units.1"]
    assert {each.name: each.reason for each in survey.refusals} == {
        "units.0": "it is found under several names (units.2 is units.0)",
        "units.2": "it is found under several names (units.2 is units.0)",
    }


class Stage(nn.Module):
    """Two units; `own` adds its input once more around them."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(Unit(pre_norm) for _ in range(2))
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.units[1](self.units[0](x))
        return x + y if self.own else y


@pytest.mark.parametrize("own", [True, False])
def test_stages(own: bool) -> None:
    """A stage that only chains blocks is none; one with a residual add of its own is, and holds them."""
    survey = analyze(nn.Sequential(Stage(own), Stage(own), nn.Linear(8, 2)).eval(), torch.randn(2, 4, 8)).survey
    found = {block.name: block.inside for block in survey.blocks}
    units = {f"{stage}.units.{unit}": str(stage) if own else None for stage in range(2) for unit in range(2)}
    assert found == ({"0": None, "1": None} if own else {}) | units
    if not own:
        assert {each.reason for each in survey.refusals} == {"its residual adds all lie in blocks inside it"}


def test_linear_in_the_size_of_the_graph() -> None:
    """A tower of 400 blocks, some 3,200 nodes."""
    model = nn.Sequential(*(Unit(pre_norm) for _ in range(400)), nn.Linear(8, 2)).eval()
    analysis = analyze(model, torch.randn(2, 4, 8))
    times = []
    for _ in range(3):
        start = time.process_time()
        found = find_blocks(analysis.program, analysis.propagation)
        times.append(time.process_time() - start)
    assert len(analysis.program.nodes) > 2500
    assert len(found) == 400
    assert min(times) < 0.3
    assert survey_blocks(analysis.program, analysis.propagation).blocks == found
