"""What `apply` rewrites where patched attributes are not enough, and that a model so rewritten is as any other."""

from __future__ import annotations

import copy
import inspect
import io
import linecache
import pickle
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import CannotApply, CheckpointError
from fxprune.apply import apply, rewritten
from tests.apply import followed_toys as toys
from tests.apply.helpers import equal_plan, same

TOKENS = torch.randn(2, 5, 24)


def follow(middle: nn.Module, width: int = 24) -> tuple[Any, fxprune.SlimModule, nn.Module]:
    """A model around a module, cut so that the inner widths part from the outer ones; checked for other batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, width), middle, nn.Linear(width, 3)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.mul_(3.0 if "weight" in name else 1.0)
    slim = fxprune.compile(model, "50%", example_inputs=TOKENS, align=1)
    made = apply(slim, model)
    assert isinstance(made[1], type(middle))
    assert type(made[1]).__qualname__ == type(middle).__qualname__
    for batch in (1, 2, 7):
        same(made, slim, torch.randn(batch, 5, 24))
    return made, slim, model


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (toys.OuterWidth, ["reshape(B, N, 3, self.num_heads, self.slim_reshape_", "reshape(B, N, self.slim_reshape_"]),
        (toys.Free, ["self.slim_attend(x", "self.slim_merge(qkv(x)", "def attend(self, x"]),
        (toys.Base, ["self.slim_unflatten_", "reshape(b, n, self.slim_reshape_"]),
        (toys.Chain, ["self.slim_mix(x", "reshape(b, n, self.slim_reshape_"]),
        (toys.Decorated, ["reshape(B, N, self.slim_reshape_"]),
        (toys.closed(0.5), ["reshape(b, n, self.slim_reshape_"]),
    ],
)
def test_sizes_taken_from_the_input_are_replaced(kind: type[nn.Module], lines: list[str]) -> None:
    made, _, model = follow(kind())
    difference = rewritten(made)["1"]
    added = [line for line in difference.splitlines() if line.startswith("+")]
    for line in lines:
        assert any(line in each for each in added), difference
    assert list(rewritten(made)) == ["1"]
    assert rewritten(model) == {}
    assert type(model[1]) is kind  # type: ignore[index]


def test_parts_of_a_chunk_become_unequal() -> None:
    torch.manual_seed(0)
    model, inputs = toys.Chunked(), torch.randn(3, 8)
    plan = equal_plan(model, inputs, [10, 5])
    made: Any = apply(plan, model, example_inputs=inputs)
    assert "self.first(x).relu().split(self.slim_chunk_" in rewritten(made)[""]
    assert sorted(value for name, value in vars(made).items() if name.startswith("slim_")) in ([(10, 5)], [(5, 10)])
    assert made.left.in_features + made.right.in_features == made.first.out_features == 15


def test_one_attribute_for_queries_and_values_parts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.OneForBoth(), nn.Linear(24, 3))
    values = [group for group in fxprune.analyze(model, TOKENS).groups if group.kind == "value dimensions"]
    plan = equal_plan(model, TOKENS, [2], values)
    made: Any = apply(plan, model, example_inputs=TOKENS)
    assert "self.v(x).view((*shape[:-1], self.slim_view_" in rewritten(made)["1"]
    assert made[1].head_dim == 4
    assert made[1].v.out_features == 12


def test_a_helper_that_needs_another_number_in_each_call_gets_copies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Helped(), nn.Linear(24, 3))
    values = [group for group in fxprune.analyze(model, TOKENS).groups if "dimensions" in group.kind]
    made: Any = apply(equal_plan(model, TOKENS, [3, 2], values), model, example_inputs=TOKENS)
    assert sorted(value for name, value in vars(made[1]).items() if name.startswith("slim_")) == [2]
    assert "self._split(self.k(x)), self.slim_split_" in rewritten(made)["1"]


def test_a_comparison_beyond_a_rewritten_call_is_patched() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(8, 16), toys.Guarded(), nn.Linear(16, 4)), torch.randn(3, 8)
    groups = [group for group in fxprune.analyze(model, inputs).groups if group.size == 16]
    made: Any = apply(equal_plan(model, inputs, [10, 12, 7, 9], groups), model, example_inputs=inputs)
    assert made[1].width == made[1].second.in_features != 16
    assert "torch.split(self.first(x).relu(), [self.slim_split_" in rewritten(made)["1"]


def test_tensors_that_are_plain_attributes_are_cut() -> None:
    torch.manual_seed(0)
    model, inputs = toys.Positions(), torch.randn(2, 5, 8)
    made: Any = apply(equal_plan(model, inputs, [10]), model, example_inputs=inputs)
    assert made.positions.shape == (5, 10)
    assert torch.equal(made.positions, model.positions[:, :10])
    assert torch.equal(made.unrelated, model.unrelated)
    assert rewritten(made) == {}


def test_scales_stay_the_originals() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), toys.Scaled(), nn.Linear(24, 3)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4.0 if "weight" in name else 1.0)
    dims = [group for group in fxprune.analyze(model, TOKENS).groups if group.size == 8]
    made: Any = apply(equal_plan(model, TOKENS, [4] * len(dims), dims), model, example_inputs=TOKENS)
    scales = [value for name, value in vars(made[1]).items() if name.startswith("slim_scale")]
    assert len(scales) == 3
    assert set(scales) == {8**-0.5, 8**0.5}
    assert "scaled_dot_product_attention(q, k, v, scale=self.slim_scale_" in rewritten(made)["1"]


def test_other_modules_are_not_affected() -> None:
    made, _, _ = follow(toys.Free())
    before = toys.attend(TOKENS, nn.Linear(24, 72), 6)
    assert before.shape == (2, 5, 24)
    assert not hasattr(toys.Free, "slim_attend")
    torch.manual_seed(0)
    other = toys.Free()
    assert other(TOKENS).shape == TOKENS.shape
    assert type(made[1]) is not toys.Free


def test_copies_and_pickles() -> None:
    made, slim, _ = follow(toys.Free())
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), _saved(made)):
        same(again, slim, TOKENS)
        assert type(again[1]) is type(made[1])
        assert rewritten(again) == rewritten(made)
    assert b"slim_reshape" in pickle.dumps(made)


def _saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_pickle_is_refused_where_the_source_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = follow(toys.OuterWidth())
    data = pickle.dumps(made)
    from fxprune.apply.followed import make_class

    make_class.cache_clear()
    monkeypatch.setattr(toys.OuterWidth, "forward", toys.Base.forward)
    with pytest.raises(CheckpointError, match=r"source of OuterWidth\.forward is another"):
        pickle.loads(data)


def test_training_state_export_and_compilation() -> None:
    made, slim, _ = follow(toys.OuterWidth())
    exported = torch.export.export(made.eval(), (TOKENS,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    larger = torch.randn(5, 5, 24)
    torch.testing.assert_close(exported.module()(larger), made(larger))
    compiled: Any = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(larger), made(larger))
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    before = copy.deepcopy(made.state_dict())
    made(TOKENS).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items() if "weight" in name)
    made.load_state_dict(before)
    same(made, slim, TOKENS)


def test_a_followed_model_is_compiled_and_applied_again() -> None:
    made, _, _ = follow(toys.OuterWidth())
    slim = fxprune.compile(made, "70%", example_inputs=TOKENS, align=1)
    again: Any = apply(slim, made)
    same(again, slim, TOKENS)
    assert again[1].qkv.in_features < made[1].qkv.in_features
    same(pickle.loads(pickle.dumps(again)), slim, TOKENS)


def test_tracebacks_show_the_rewritten_line() -> None:
    made, _, _ = follow(toys.OuterWidth())
    made[1].out = nn.Linear(5, 5)
    with pytest.raises(RuntimeError) as error:
        made(TOKENS)
    code = type(made[1]).forward.__code__
    numbers = [entry.lineno + 1 for entry in error.traceback if entry.frame.code.raw is code]
    assert [linecache.getline(code.co_filename, number).strip() for number in numbers] == [
        next(line for line in inspect.getsource(type(made[1]).forward).splitlines() if "self.out(" in line).strip()
    ]
    assert "self.slim_reshape_" in linecache.getline(code.co_filename, numbers[0])


def test_a_source_that_is_not_at_hand_is_refused() -> None:
    text = """
def forward(self, x):
    b, n, c = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
    return self.out((q @ k.transpose(-2, -1)).softmax(dim=-1).matmul(v).transpose(1, 2).reshape(b, n, c))
"""
    namespace: dict[str, Any] = {}
    exec(compile(text, "/nowhere/generated.py", "exec"), namespace)
    kind = types.new_class("Generated", (toys.Attention,), {}, lambda own: own.update(forward=namespace["forward"]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), kind(), nn.Linear(24, 3)).eval()
    slim = fxprune.compile(model, "50%", example_inputs=TOKENS, align=1)
    with pytest.raises(CannotApply, match="not rewritten: the source of forward is not at hand"):
        apply(slim, model)


def test_one_line_that_needs_two_numbers_is_refused() -> None:
    model, inputs = toys.Twice(), torch.randn(3, 8)
    with pytest.raises(CannotApply, match="needs 10 as well as 20"):
        apply(equal_plan(model, inputs, [10, 20]), model, example_inputs=inputs)


def test_what_a_tensor_decides_stays_as_it_is_written() -> None:
    """Sizes of batch and sequence are not replaced: other ones work afterwards."""
    made, slim, _ = follow(toys.OuterWidth())
    longer: Tensor = torch.randn(3, 9, 24)
    assert made(longer).shape == (3, 9, 3)
    same(made, slim, TOKENS)
