"""The score of the commands that CI runs, ``make parity`` and ``make test``, in checkouts with a fault in them.

Nothing of the selftest's own route is used: the packages are copied, the fault is put into the copy, and there the real
command runs in a process of its own. A fault is seen by exit codes alone: 1 or 3 of ``parity run``, and failed tests
where that is green. The fault's own stage, config and lane come first, since a part of a run that is red makes the
whole red; all lanes where that is not enough. So the whole command sees at least what is counted here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from ..judge.files import RunError, decode, read_bytes, write_whole
from ..judge.results import EXIT_DIVERGED, EXIT_INCOMPLETE, EXIT_OK
from ..run.environment import default_device, environment
from ..run.pool import jobs_for_workers
from .catalogue import Fault
from .score import Gate, Seen

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ltx2_mlx", "parity", "tests")
LIMIT = 1800  # seconds for one command
# The product's own tests, but for those of the documents and of the wheel: a part of what make test runs.
TESTS = ("tests", "--ignore=tests/test_wheel.py", "--ignore=tests/test_documents.py")
TESTS_FAILED = 1  # pytest's exit code; the others mean that tests could not run
TRACEBACK = "Traceback (most recent call last)"
Red = Literal["parity", "tests", ""]


@dataclass(frozen=True)
class Question:
    """A checkout with a fault in it, or a clean one (None), and a cell to run there; no stage: the tests alone."""

    fault: Fault | None
    stage: str = ""
    config: str = ""
    lane: str = ""

    @property
    def key(self) -> str:
        """A hash of all that the answer depends on, beside the sources."""
        edit = [getattr(self.fault, name) for name in ("file", "old", "new", "loads", "tap")] if self.fault else []
        return hashlib.sha256(json.dumps([self.stage, self.config, self.lane, *edit]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """Which command was red, and why that is not known if one crashed."""

    red: Red = ""
    crashed: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class _Kept:
    """The content of gate.json."""

    sources: str
    answers: dict[str, Answer]


def measure(
    faults: Sequence[Fault],
    kept: Path,
    progress: Callable[[str], None] = lambda line: None,
    jobs: int | None = None,
) -> Gate:
    """Ask the commands about every fault, and about a clean copy for each of their cells, in ``jobs`` processes.

    kept: the file of answers, each put there as it comes. What it says of the same fault in the same sources stands.
    """
    about = [Question(fault, fault.stage, fault.config, _lane(fault)) for fault in faults]
    clean = [Question(None, *cell) for cell in dict.fromkeys((q.stage, q.config, q.lane) for q in about)]
    answers = _answered([*about, *clean], kept, progress, jobs)
    if any(answers[question].red == "tests" for question in about):
        clean.append(Question(None))
        answers |= _answered(clean[-1:], kept, progress, jobs)
    gate = Gate()
    for question, fault in zip(about, faults, strict=True):
        answer = answers[question]
        gate.seen.append(Seen(fault.id, fault.kind, fault.description, answer.red, answer.crashed, answer.seconds))
    for question in clean:
        if (answer := answers[question]).red or answer.crashed:
            place = " ".join((question.stage or "tests", question.config, question.lane)).strip()
            gate.alarms.append(f"{place}: {answer.crashed or 'red without a fault'}")
    return gate


def _answered(
    questions: list[Question], kept: Path, progress: Callable[[str], None], jobs: int | None
) -> dict[Question, Answer]:
    source = sources()
    known = _read(kept, source)
    left = [question for question in questions if question.key not in known]
    if len(left) < len(questions):
        progress(f"{len(questions) - len(left)} of {len(questions)} answers of CI's commands kept from before")
    with ThreadPoolExecutor(jobs or jobs_for_workers()) as pool:
        asked = {pool.submit(ask, question): question for question in left}
        for done, future in enumerate(as_completed(asked), 1):
            known[asked[future].key] = future.result()
            _write(kept, source, known)
            progress(f"{done} of {len(left)} checkouts judged by CI's commands")
    return {question: known[question.key] for question in questions}


def ask(question: Question) -> Answer:
    """Run the commands in a copy of the checkout, until one is red."""
    start = time.monotonic()
    red: Red = ""
    with checkout(question.fault) as folder:
        crashed = ""
        if question.stage:
            for lanes in dict.fromkeys((question.lane, *(["A,B,C"] if question.fault else []))):
                seen, crashed = _parity(folder, question, lanes)
                red = "parity" if seen else ""
                if red or crashed:
                    break
        if not (red or crashed) and (question.fault or not question.stage):
            seen, crashed = _tests(folder)
            red = "tests" if seen else ""
    return Answer(red, crashed, round(time.monotonic() - start, 1))


def _lane(fault: Fault) -> str:
    return "B" if fault.dtype != "float32" else "C" if fault.free else "A"


# ---- the commands ---------------------------------------------------------------------------------------------------


def _parity(folder: Path, question: Question, lanes: str) -> tuple[bool, str]:
    """Whether ``parity run`` is red, and what kept it from a verdict, if anything."""
    cell = ("--stage", question.stage, "--config", question.config, "--lane", lanes)
    code, output = _run(folder, "parity", "run", *cell, "--jobs", "1", "--json", "reports/gate/results.json")
    if question.fault and question.fault.loads:  # the loader's error is the verdict
        return code != EXIT_OK and question.fault.tap in output, ""
    if code not in (EXIT_OK, EXIT_DIVERGED, EXIT_INCOMPLETE) or TRACEBACK in output:
        return False, f"parity run ended with {code}: {_last(output)}"
    return code != EXIT_OK, ""


def _tests(folder: Path) -> tuple[bool, str]:
    code, output = _run(folder, "pytest", "-x", "-q", "-n", "0", "-p", "no:randomly", *TESTS)
    if code not in (EXIT_OK, TESTS_FAILED):
        return False, f"pytest ended with {code}: {_last(output)}"
    return code == TESTS_FAILED, ""


def _run(folder: Path, *command: str) -> tuple[int, str]:
    """The exit code and all output of ``python -m`` in a folder, whose packages come first."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return -1, f"stopped after {LIMIT} s"
    return done.returncode, done.stdout


def _last(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "no output")[:200]


@contextmanager
def checkout(fault: Fault | None) -> Iterator[Path]:
    """A folder like the project's, with copies of its packages, the fault in one of them, and no results."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, folder / name)  # compiled: what is changed is compiled again
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        (folder / "reports").mkdir()
        if fault:
            file = folder / "ltx2_mlx" / fault.file
            file.write_text(fault.applied(file.read_text()))
        yield folder


# ---- answers from before --------------------------------------------------------------------------------------------


def sources() -> str:
    """A hash of what every answer depends on: the code without the catalogue, the checkpoints, and the machine."""
    digest = hashlib.sha256(json.dumps(environment(default_device()), sort_keys=True).encode())
    files = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]
    for file in [*files, ROOT / "fixtures" / "SHA256SUMS", ROOT / "conftest.py"]:
        place = file.relative_to(ROOT)
        if not place.is_relative_to("parity/faults"):
            digest.update(f"{place}={hashlib.sha256(file.read_bytes()).hexdigest()};".encode())
    return digest.hexdigest()


def _read(kept: Path, source: str) -> dict[str, Answer]:
    """The answers of a file from the same sources; none where it is not there, or not as it was written."""
    try:
        found = decode(kept, read_bytes(kept), _Kept, "no answers from before")
    except RunError:
        return {}
    return found.answers if found.sources == source else {}


def _write(kept: Path, source: str, answers: dict[str, Answer]) -> None:
    """Whole or not at all. Raises RunError."""
    content = {"sources": source, "answers": {key: asdict(answer) for key, answer in answers.items()}}
    write_whole(kept, json.dumps(content, indent=1) + "\n")
