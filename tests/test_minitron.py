"""Minitron's importances against a plain computation with hooks on the model's own modules."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import fxprune
from fxprune.passes.minitron import Minitron
from fxprune.scorer import Context, fitting_scorer
from tests.tiny_languages import IDS, PADDED, gpt2, llama

BATCH = {"input_ids": IDS, "attention_mask": PADDED}
PREFIX = "model.layers.1."


@functools.cache
def analysed(make: Callable[[], Any]) -> tuple[Any, fxprune.Analysis]:
    """A model and its analysis, made once."""
    model = make()
    return model, fxprune.analyze(model, BATCH)


def two_layers() -> Any:
    return llama(2)


def half() -> Any:
    return llama(1).bfloat16()


def scores_of(
    make: Callable[[], Any], data: Sequence[dict[str, Tensor]], scorer: Minitron | None = None
) -> fxprune.Scores:
    model, analysis = analysed(make)
    return (scorer or Minitron()).score(Context(model, analysis, list(data), progress=False))


def watched(model: nn.Module, inputs: dict[str, Tensor], inside: Sequence[str], outside: Sequence[str]) -> Any:
    """What modules of these names read, or put out: path -> float64 [samples, positions, features]."""
    found: dict[str, Tensor] = {}
    handles = []
    for path, module in model.named_modules():
        if path.endswith(tuple(inside)):
            handles.append(
                module.register_forward_pre_hook(lambda _, args, p=path: found.update({p: args[0].double()}))
            )
        if path.endswith(tuple(outside)):
            handles.append(module.register_forward_hook(lambda _m, _a, out, p=path: found.update({p: out.double()})))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def aggregated(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each sample, root of the mean square over samples."""
    means = torch.stack([row[kept].mean(0) for row, kept in zip(values, mask.bool(), strict=True)])
    return means.square().mean(0).sqrt()


def close(found: Any, expected: Tensor, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected.square().numpy(), rtol=tolerance)


@pytest.mark.parametrize("mask", [torch.ones_like(PADDED), PADDED])
def test_a_llama(mask: Tensor) -> None:
    model, inputs = analysed(two_layers)[0], {"input_ids": IDS, "attention_mask": mask}
    found = scores_of(two_layers, [inputs])
    seen = watched(model, inputs, ["o_proj", "down_proj"], ["norm"])
    neurons = seen[PREFIX + "mlp.down_proj"].abs()
    close(found.importance[PREFIX + "mlp.gate_proj"], aggregated(neurons, mask))
    heads = seen[PREFIX + "self_attn.o_proj"].unflatten(-1, (2, 4, 8))
    close(found.importance[PREFIX + "self_attn.q_proj:features#2"], aggregated(heads.norm(dim=-1), mask))
    close(found.importance[PREFIX + "self_attn.q_proj:features#1"], aggregated(heads.norm(dim=(-2, -1)), mask))
    norms = [aggregated(each.abs(), mask) for path, each in seen.items() if path.endswith("norm")]
    assert len(norms) == 5
    close(found.importance["model.embed_tokens"], torch.stack(norms).sum(0))
    assert found.whole == {
        "model.layers.0.self_attn.q_proj:features#3",
        "model.layers.0.self_attn.v_proj",
        PREFIX + "self_attn.v_proj",
    }


def test_the_influence_of_blocks() -> None:
    model = analysed(two_layers)[0]
    found = scores_of(two_layers, [BATCH])
    with torch.no_grad():
        streams = model(**BATCH, output_hidden_states=True).hidden_states
    first = torch.nn.functional.cosine_similarity(streams[0].double(), streams[1].double(), dim=-1)[PADDED.bool()]
    assert found.blocks["model.layers.0"] == pytest.approx(float(1 - first.mean()), rel=1e-6)
    assert list(found.blocks) == ["model.layers.0", "model.layers.1"]


def test_transposed_weights_and_fused_projections() -> None:
    """GPT-2 flattens batch and positions in front of each layer."""
    model = analysed(gpt2)[0]
    found = scores_of(gpt2, [BATCH])
    seen = watched(model, BATCH, ["attn.c_proj", "mlp.c_proj"], ["ln_1", "ln_2", "ln_f"])
    close(found.importance["transformer.h.1.mlp.c_proj"], aggregated(seen["transformer.h.1.mlp.c_proj"].abs(), PADDED))
    heads = seen["transformer.h.1.attn.c_proj"].unflatten(-1, (4, 8)).norm(dim=-1)
    close(found.importance["transformer.h.1.attn.c_proj:heads"], aggregated(heads, PADDED))
    norms = [aggregated(each.abs(), PADDED) for path, each in seen.items() if "ln_" in path]
    close(found.importance["transformer.h.0.attn.c_attn:features"], torch.stack(norms).sum(0))


def olmo2() -> Any:
    module: Any = transformers
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = module.Olmo2Config(vocab_size=64, num_hidden_layers=1, pad_token_id=0, eos_token_id=1, **sizes)
    return module.Olmo2ForCausalLM(config).eval()


def test_heads_count_by_their_output_where_queries_are_normalised() -> None:
    found = scores_of(olmo2, [BATCH])
    path = "model.layers.0.self_attn."
    heads = watched(analysed(olmo2)[0], BATCH, ["o_proj"], [])[path + "o_proj"].unflatten(-1, (2, 4, 8))
    close(found.importance[path + "q_proj:features#2"], aggregated(heads.norm(dim=-1), PADDED))


def test_half_precision_is_accumulated_in_double() -> None:
    found = scores_of(half, [BATCH])
    neurons = watched(analysed(half)[0], BATCH, ["down_proj"], [])["model.layers.0.mlp.down_proj"].abs()
    close(found.importance["model.layers.0.mlp.gate_proj"], aggregated(neurons, PADDED))


def test_batches_do_not_matter() -> None:
    ids = torch.arange(72).reshape(6, 12) * 5 % 64
    mask = (torch.arange(12) >= torch.arange(6)[:, None]).long()
    whole = scores_of(two_layers, [{"input_ids": ids, "attention_mask": mask}])
    parts = [{"input_ids": ids[at], "attention_mask": mask[at]} for at in (slice(0, 1), slice(1, 4), slice(4, 6))]
    split = scores_of(two_layers, parts)
    assert whole.importance.keys() == split.importance.keys()
    for name, expected in whole.importance.items():
        np.testing.assert_allclose(split.importance[name], expected, rtol=1e-5, atol=1e-12)
    assert split.blocks == pytest.approx(whole.blocks, rel=1e-6)


def test_other_aggregations() -> None:
    model = analysed(two_layers)[0]
    found = scores_of(two_layers, [BATCH], Minitron(sequence="l2", batch="mean"))
    neurons = watched(model, BATCH, ["down_proj"], [])["model.layers.0.mlp.down_proj"]
    norms = torch.stack([row[kept].norm(dim=0) for row, kept in zip(neurons, PADDED.bool(), strict=True)])
    close(found.importance["model.layers.0.mlp.gate_proj"], norms.mean(0))


def test_blocks_by_what_is_lost_without_them() -> None:
    model = analysed(two_layers)[0]
    found = scores_of(two_layers, [BATCH], Minitron(depth="loss"))
    first = fxprune.compile(
        model, {"params": 1.0}, example_inputs=BATCH, drop=["model.layers.0"], scorer="magnitude", verify=False
    )
    with torch.no_grad():
        logits = first(**BATCH)["logits"][:, :-1]
    kept = (PADDED[:, 1:] > 0).flatten()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1)[kept].double(), IDS[:, 1:].flatten()[kept])
    assert found.blocks["model.layers.0"] == pytest.approx(float(loss.exp()), rel=1e-4)


def test_options_that_say_nothing_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="sequence and batch in"):
        Minitron(sequence="median")


def test_a_language_model_with_data_is_scored_so_unasked() -> None:
    given: dict[str, Any] = defaultdict(lambda: None, data=[BATCH], loss=len)
    assert fitting_scorer({**given, "model": analysed(two_layers)[0]}) == "minitron"
    assert fitting_scorer({**given, "model": nn.Linear(2, 2)}) == "gradnas"
    assert fitting_scorer({**given, "model": analysed(two_layers)[0], "score": len}) == "fastnas"


def test_one_width_per_kind_and_heads_whole_by_default() -> None:
    slim = fxprune.compile(analysed(two_layers)[0], {"params": "70%"}, data=[BATCH])
    assert (slim.plan.scorer, slim.plan.search) == ("minitron", "uniform")
    widths = slim.plan.widths
    assert widths["model.layers.0.mlp.gate_proj"] == widths["model.layers.1.mlp.gate_proj"]
    assert widths["model.embed_tokens"][0] < 64
    assert all(widths[name][0] == widths[name][1] for name in slim.scores.whole)  # type: ignore[union-attr]
    params = next(metric for metric in slim.report.metrics if metric.name == "params")
    assert params.after <= 0.7 * params.before


def test_convolutions_are_looked_at_by_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    images = torch.randn(2, 3, 8, 8)
    found = Minitron().score(Context(model, fxprune.analyze(model, images), [images], progress=False))
    with torch.no_grad():
        means = model[1](model[0](images)).double().abs().mean((2, 3))
    close(found.importance["0"], means.square().mean(0).sqrt())


def test_scores_come_back_from_a_file(tmp_path: Any) -> None:
    scores = scores_of(two_layers, [BATCH])
    scores.save(tmp_path / "scores")
    back = fxprune.Scores.load(tmp_path / "scores")
    assert (back.whole, back.blocks, back.search) == (scores.whole, scores.blocks, "uniform")
