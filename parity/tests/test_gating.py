"""What another repository gates on: the pytest plugin and the GitHub Action, as the README shows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from parity.judge.results import Results
from parity.report.render import render
from parity.run.environment import ROOT
from parity.tests.test_report import BAD, explained, run

README = (ROOT / "parity" / "README.md").read_text()
ACTION = ROOT / ".github" / "actions" / "parity"
# A harness that leaves the report beside it, and ends with the exit code beside it.
STAND_IN = """
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
pathlib.Path("asked").write_text(" ".join(sys.argv[1:]))
shutil.copytree(here / "left", "reports/latest", dirs_exist_ok=True)
print("said at last")
sys.exit(int((here / "code").read_text()))
"""


def example(language: str, word: str) -> str:
    """The block of the README that holds a word."""
    (found,) = [b for b in re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S) if word in b]
    return str(found)


def gated(folder: Path, *words: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder of its own, which has the README's pyproject.toml."""
    (folder / "pyproject.toml").write_text(example("toml", "--parity"))
    command = [sys.executable, "-m", "pytest", "-p", "ltx2_parity_pytest", "-p", "no:randomly", "-v", *words]
    environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}", "GITHUB_STEP_SUMMARY": str(folder / "step.md")}
    environment |= variables
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def stand_in(folder: Path, results: Results, code: int) -> Path:
    """A folder with a harness that leaves the pages of these results."""
    package = folder / "path" / "parity"
    (package / "left").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("__main__.py", STAND_IN), ("code", str(code))):
        (package / name).write_text(text)
    results.write(package / "left" / "results.json")
    render(package / "left" / "results.json")
    return package.parent


def test_the_plugin_makes_each_verdict_a_test(tmp_path: Path) -> None:
    ran = gated(tmp_path, "--junitxml", "junit.xml", "-k", "not coverage", path=stand_in(tmp_path, run(), 0))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "asked").read_text() == "run --stage patchifiers --lane A"
    assert "2 passed, 1 deselected" in ran.stdout and "transformer tiny-2.0: lane A PASSED" in ran.stdout
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    assert "| transformer |" in (tmp_path / "step.md").read_text()


def test_the_plugin_is_red_where_the_harness_is(tmp_path: Path) -> None:
    red = stand_in(tmp_path, explained(), 1)
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of the others, which take as long as all the rest
    ran = gated(tmp_path, path=red, **alone)
    assert ran.returncode == 1
    assert "2 failed, 1 passed" in ran.stdout and "transformer tiny-2.0: lane A" in ran.stdout
    assert f"{BAD} (case base): diverged" in ran.stdout
    assert "said at last" in ran.stdout
    (red / "parity" / "code").write_text("2")
    assert gated(tmp_path, path=red, **alone).returncode == pytest.ExitCode.USAGE_ERROR


def steps(inputs: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """The steps of the action that run something: name, script, and what they have in their environment."""
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    assert not set(inputs) - set(action["inputs"])
    values = {name: entry.get("default", "") for name, entry in action["inputs"].items()} | inputs

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: values[found[1]], text)

    found = [step for step in action["runs"]["steps"] if "run" in step]
    assert all(step["shell"] == "bash" for step in found)
    return [(s["name"], s["run"], {key: filled(value) for key, value in s["env"].items()}) for s in found]


def test_the_action_runs_as_the_readme_shows_it(tmp_path: Path) -> None:
    red = stand_in(tmp_path, explained(), 1)
    (used,) = [s for s in yaml.safe_load(example("yaml", "uses"))["steps"] if "parity" in s["uses"]]
    assert (ROOT / used["uses"].split("/", 2)[2].partition("@")[0] / "action.yml").is_file()
    (install, _, needs), (_, script, words) = steps(used["with"])
    assert (install, needs["PACKAGE"]) == ("install", "")
    github = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = os.environ | words | github | {"PYTHON": sys.executable, "PYTHONPATH": str(red)}
    ran = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert (tmp_path / "asked").read_text() == "run --stage patchifiers --lane A"
    assert BAD in Path(github["GITHUB_STEP_SUMMARY"]).read_text()
    assert Path(github["GITHUB_OUTPUT"]).read_text() == "report=reports/latest\n"
