"""Options for scorers that look at data, scores as files, and sweeps, on the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import fxprune
from fxprune.cli import main
from tests.cli import toy_models  # before the commands: a first import draws random weights

assert toy_models.READY
TOY = "tests.cli.toy_models:network"
TASK = [f"--{name}=tests.cli.toy_models:{attribute}" for name, attribute in (("data", "batches"), ("score", "score"))]


def run(*arguments: str) -> None:
    assert main([*arguments, "--traceback"]) == 0


def test_scores_are_written_and_serve_for_another_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, checkpoint = tmp_path / "new" / "scores.safetensors", tmp_path / "search.ckpt"
    scoring = [*TASK, "--scorer", "magnitude", "--checkpoint", str(checkpoint), "--save-scores", str(scores)]
    run("compile", TOY, "--budget", "70%", *scoring)
    shown = capsys.readouterr().out
    assert f"wrote {scores}" in shown
    assert "inferred from one sample of the first batch of data: 1x3x16x16" in " ".join(shown.split())
    assert checkpoint.read_bytes().startswith(b"fxprune checkpoint")
    one, other = tmp_path / "one", tmp_path / "other"
    inputs = ["--input", "1x3x16x16"]
    run("compile", TOY, *inputs, "--budget", "50%", "--scores", str(scores), "--out", str(one))
    run("compile", TOY, *inputs, "--budget", "50%", "--scorer", "magnitude", "--out", str(other))
    first, second = (fxprune.Plan.from_json((folder / "plan.json").read_text()) for folder in (one, other))
    assert first == second


def test_sweep_writes_table_csv_plot_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budgets = ["--budget", "80%", "--budget", "params=60%,flops=50%", "--budget", "0.001%"]
    scores = tmp_path / "scores.safetensors"
    scorer = ["--scorer", "magnitude", "--save-scores", str(scores)]
    run("sweep", TOY, *budgets, *TASK, *scorer, "--out", str(tmp_path / "out"))
    shown = capsys.readouterr().out
    written = ["sweep.txt", "sweep.csv", "sweep.png", "plan-1.json", "plan-2.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(written)
    assert all(f"wrote {tmp_path / 'out' / name}" in shown for name in written)
    assert "cannot be met" in shown
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    assert [row["budget"] for row in rows] == ["80%", "params 60%, flops 50%", "0.001%"]
    assert float(rows[1]["flops_share"]) <= 0.5
    assert fxprune.Scores.load(scores).scorer == "magnitude"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--data=tests.cli.toy_models:nothing", "has no 'nothing'; the data is module:callable"),
        ("--score=accuracy", "The score 'accuracy' is not module:callable, such as my_task:score"),
        ("--loss=tests.cli.toy_models:NUMBER", "--loss tests.cli.toy_models:NUMBER is an object of type int"),
        ("--data=tests.cli.toy_models:broken", "failed with ValueError: no such variant"),
    ],
)
def test_unusable_names_are_one_message(option: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", TOY, "--budget", "50%", option]) == 2
    assert expected in capsys.readouterr().err
