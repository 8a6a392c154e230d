"""A pytest plugin: with ``--parity`` the harness runs first, and each of its verdicts is a test.

    pytest --parity "--stage vocoder --lane A"

The words are those of ``parity run``. It runs once, in a process of its own; pytest's ``--junitxml`` has a test for
each cell and lane, and the harness leaves its pages, its junit.xml and summary.md as ever (``reports/latest``). Every
pytest of an environment imports this module, so that it imports neither package: ``parity`` sets variables for MLX.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

RESULTS = Path("reports") / "latest" / "results.json"
USAGE = 2
_SUMMARY = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "LTX-2 in MLX beside its PyTorch reference")
    group.addoption(
        "--parity", metavar="WORDS", help="run the harness with these words of parity run; '' for all of it"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--parity") is not None and config.getoption("numprocesses", None):
        raise pytest.UsageError("--parity spreads its work over processes by itself: leave out -n, or say -n 0")


@pytest.hookimpl(tryfirst=True)  # before -k chooses
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the harness, and add its verdicts to the tests."""
    words = config.getoption("--parity")
    if words is not None and not config.option.collectonly:
        items.extend(_verdicts(session, shlex.split(words)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if summary := config.stash.get(_SUMMARY, ""):
        terminalreporter.section("parity")
        terminalreporter.write_line(summary)


def _verdicts(session: pytest.Session, words: list[str]) -> Iterator[Verdict]:
    """A test for each verdict of a run with these words. Raises UsageError where there are no results."""
    results = Path(words[words.index("--json") + 1]) if "--json" in words[:-1] else RESULTS
    command = [sys.executable, "-m", "parity", "run", *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode == USAGE or not (results.parent / "junit.xml").exists():
        raise pytest.UsageError(ran.stderr.strip() or ran.stdout.strip())
    summary = (results.parent / "summary.md").read_text(encoding="utf-8")
    session.config.stash[_SUMMARY] = (
        f"{results.parent / 'report.html'}\n{(ran.stdout.strip() or ran.stderr.strip()).splitlines()[-1]}"
    )
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(page, "a", encoding="utf-8") as file:
            file.write(summary)
    for suite in ElementTree.parse(results.parent / "junit.xml").getroot():
        for case in suite:
            name = f"{suite.get('name')}: {case.get('name')}"
            yield Verdict.from_parent(session, name=name, nodeid=f"parity::{name}", failure=case.find("failure"))


class Verdict(pytest.Item):
    """A verdict of the harness: a lane of a cell, its coverage, or a run of a pipeline."""

    def __init__(self, *, failure: ElementTree.Element | None, **more: Any):
        super().__init__(**more)
        self.failure = failure

    def runtest(self) -> None:
        if self.failure is not None:
            pytest.fail(f"{self.failure.get('message')}\n{self.failure.text or ''}".strip(), pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        return "parity", None, ""
