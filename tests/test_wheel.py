"""The wheel in an empty environment: each console script works, or says in one line what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("ltx2_mlx", "parity", "fixtures", "ltx2_parity_pytest.py")
SOURCES += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout without its tests' leftovers."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "checkpoints", "traces")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, source / name)
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"  # as pip does
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=source, check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the console scripts of a new environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet"]
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True, capture_output=True, text=True)
    return folder / "bin"


# The libraries of this environment; that it also holds the checkout, editable, does not follow.
WITH_LIBRARIES = {"PYTHONPATH": sysconfig.get_path("purelib")}


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A console script, run outside the checkout."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=script.parent, env=own | environment)


def test_it_holds_both_packages_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = [
        "ltx2_mlx/py.typed",
        "parity/faults/causes.json",
        "parity/run/moved.json",
        "parity/report/templates/report.html",
        "parity/report/assets/uplot.js",
        "ltx2_parity_pytest.py",
        "parity/fixtures/make.py",
        "parity/fixtures/SHA256SUMS",
    ]
    assert not set(expected) - set(names)
    assert any(name.startswith("parity/fixtures/configs/") for name in names)
    assert not [name for name in names if "/tests/" in name or "checkpoints/" in name]


@pytest.mark.parametrize("script", ["ltx2-mlx", "ltx2-parity"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_nothing_else(bare: Path, script: str, option: str) -> None:
    done = run(bare / script, option)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.strip()
    if (script, option) == ("ltx2-mlx", "--version"):
        assert len(done.stdout.splitlines()) == 1 and "no backend here: pip install 'ltx2-mlx[cpu]'" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "remedy"),
    [
        ("ltx2-mlx", ("info", "model.safetensors"), "ltx2-mlx[cpu]"),
        ("ltx2-mlx", ("plan",), "ltx2-mlx[cpu]"),
        ("ltx2-parity", ("run",), "ltx2-mlx["),
        ("ltx2-parity", ("report",), "ltx2-mlx["),
        ("ltx2-parity", ("selftest",), "ltx2-mlx["),
        ("ltx2-parity", ("debug", "vae"), "ltx2-mlx["),
    ],
)
def test_what_is_not_installed_is_named_in_one_line(
    bare: Path, script: str, arguments: tuple[str, ...], remedy: str
) -> None:
    done = run(bare / script, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and remedy in done.stderr, done.stderr


def test_the_harness_runs_from_the_wheel(bare: Path, checkpoints: Path, tmp_path: Path) -> None:
    """It builds the tiny checkpoints in the user's cache; here they are there already."""
    cache = tmp_path / "ltx2-parity"
    cache.mkdir()
    (cache / "checkpoints").symlink_to(checkpoints)
    result = tmp_path / "results.json"
    options = ["--stage", "patchifiers", "--lane", "A", "--json", str(result)]
    done = run(bare / "ltx2-parity", "run", *options, XDG_CACHE_HOME=str(tmp_path), **WITH_LIBRARIES)
    assert done.returncode == 0, done.stderr
    assert result.exists() and not Path(WITH_LIBRARIES["PYTHONPATH"], "parity").exists(), "the wheel's is the only one"


def test_the_product_runs_from_the_wheel(bare: Path, checkpoints: Path) -> None:
    done = run(bare / "ltx2-mlx", "info", str(checkpoints / "tiny-2.3.safetensors"), **WITH_LIBRARIES)
    assert done.returncode == 0 and "transformer" in done.stdout, done.stderr
