"""The wheel holds what the tree holds: setuptools leaves an unlisted package out without a word."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"fxprune": ROOT / "fxprune", "fxprune/passes": ROOT / "passes", "fxprune/backends": ROOT / "backends"}
LINKS = {ROOT / "fxprune" / "passes", ROOT / "fxprune" / "backends"}


def source_files(suffix: str) -> set[str]:
    """The tree's files under the names that they have in the wheel."""
    return {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for file in folder.rglob(f"*{suffix}")
        if LINKS.isdisjoint(file.parents)
    }


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build from a copy, so that no build folder of an earlier run adds or hides files."""
    copy = tmp_path_factory.mktemp("source") / "fxprune"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    out = copy.parent / "dist"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_has_every_module(wheel_files: set[str]) -> None:
    packed = {name for name in wheel_files if name.endswith(".py")}
    assert packed == source_files(".py")


def test_wheel_is_typed_and_licensed(wheel_files: set[str]) -> None:
    assert "fxprune/py.typed" in wheel_files
    assert any(name.endswith("licenses/LICENSE") for name in wheel_files)
    assert any(name.endswith("entry_points.txt") for name in wheel_files)


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name.removesuffix("/__init__.py").replace("/", ".") for name in source_files("__init__.py")}
    assert packages == set(settings["packages"])


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_link_points_to_its_package(name: str) -> None:
    link = ROOT / "fxprune" / name
    if not link.is_symlink():
        pytest.skip("symbolic links were not checked out")
    assert link.readlink() == Path("..") / name


def test_source_folders_without_init_are_not_packages() -> None:
    folders = {file.rsplit("/", 1)[0] for file in source_files(".py")}
    packages = {file.rsplit("/", 1)[0] for file in source_files("__init__.py")}
    assert folders == packages
