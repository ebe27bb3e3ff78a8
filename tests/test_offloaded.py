"""Models that accelerate keeps on the CPU or on disk: scored as weights, refused with a way out where they cannot be taken."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fxprune
from tests.tiny_languages import IDS, llama

accelerate: Any = pytest.importorskip("accelerate")
DATA = [{"input_ids": IDS}]
SPREAD = {
    **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", "model.layers.0"), "cpu"),
    **dict.fromkeys(("model.layers.1", "model.layers.2"), "disk"),
}


def spread(how: str, folder: Path) -> Any:
    """The same model, its parameters elsewhere."""
    if how == "some layers on disk":
        return accelerate.dispatch_model(llama(3), SPREAD, main_device="cpu", offload_dir=folder, force_hooks=True)
    if how == "all on disk":
        return accelerate.disk_offload(llama(3), folder, execution_device="cpu")
    if how == "in memory":
        return accelerate.cpu_offload(llama(3), execution_device="cpu")
    llama(3).save_pretrained(folder / "saved")
    auto: Any = importlib.import_module("transformers").AutoModelForCausalLM
    return auto.from_pretrained(folder / "saved", device_map=SPREAD, offload_folder=folder / "offloaded").eval()


@pytest.mark.parametrize("how", ["some layers on disk", "all on disk", "in memory", "from_pretrained"])
def test_scores_are_those_of_the_model_that_is_whole(how: str, tmp_path: Path) -> None:
    model = spread(how, tmp_path)
    assert any(each.is_meta for each in model.parameters())
    with accelerate.init_empty_weights():
        shell = llama(3)
    options: dict[str, Any] = {"data": DATA, "progress": False}
    found = fxprune.score(shell, "minitron", weights=model, checkpoint=tmp_path / "score.ckpt", **options)
    expected = fxprune.score(llama(3), "minitron", **options)
    for name, importance in expected.importance.items():
        np.testing.assert_array_equal(found.importance[name], importance)
    assert any(each.is_meta for each in model.parameters())


def test_as_the_model_itself_it_is_refused(tmp_path: Path) -> None:
    model = spread("some layers on disk", tmp_path)
    for call in (lambda: fxprune.score(model, "minitron", data=DATA), lambda: fxprune.compile(model, "60%", data=DATA)):
        with pytest.raises(
            fxprune.CaptureError, match=r"offloaded by accelerate.*fxprune.score\(plain, \.\.\., weights=model\)"
        ):
            call()


def test_on_one_device_with_hooks_it_is_taken(tmp_path: Path) -> None:
    model = accelerate.dispatch_model(llama(2), {"": "cpu"}, main_device="cpu", force_hooks=True)
    slim = fxprune.compile(model, {"params": "70%"}, data=DATA, reconstruct=False, progress=False)
    plain = fxprune.compile(llama(2), {"params": "70%"}, data=DATA, reconstruct=False, progress=False)
    assert slim.plan.kept == plain.plan.kept
