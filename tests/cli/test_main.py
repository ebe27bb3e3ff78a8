from __future__ import annotations

import argparse
import re
import runpy
import sys

import pytest

import fxprune
from fxprune.cli import main
from fxprune.cli.main import COMMANDS
from fxprune.errors import InputError

TOY = "tests.cli.toy_models:network"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    names = [command.__name__.rsplit(".", 1)[1] for command in COMMANDS]
    assert names == ["inspect", "profile", "compile", "restore", "sweep", "apply", "plan", "export", "bench", "demo"]
    for name in names:
        assert re.search(rf"^ +{name} +\w", shown, re.MULTILINE)
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert "--traceback" in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_user_errors_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "no_such_package:net"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: Importing no_such_package failed")
    assert "Traceback" not in captured.err


def test_traceback_is_shown_on_request() -> None:
    with pytest.raises(InputError, match="no_such_package"):
        main(["profile", "no_such_package:net", "--traceback"])


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(options: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr("fxprune.cli.profile.run", run)
    return main(["profile", TOY])


def test_notes_belong_to_the_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = InputError("first [bold]line")
    error.add_note("second line")
    assert fail_with(error, monkeypatch) == 2
    assert capsys.readouterr().err == "error: first [bold]line\nsecond line\n"


def test_files_that_cannot_be_written_are_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fail_with(PermissionError(13, "Permission denied"), monkeypatch) == 2


def test_interruption_has_its_own_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "error: Interrupted.\n"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        fail_with(AssertionError("ours"), monkeypatch)


def test_the_package_runs_as_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fxprune", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fxprune", run_name="__main__")
    assert ended.value.code == 0
    assert fxprune.__version__ in capsys.readouterr().out
