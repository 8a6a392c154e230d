"""How ``ltx2-parity`` ends, whatever happens around it: one line, the right exit code, files whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.cli import main
from parity.judge.documents import RUNNING
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE
from parity.report.render import replacing
from parity.run import pool
from parity.run.environment import ROOT
from parity.tests.fuzz.harness import results

HERE = {"cwd": ROOT, "text": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


def parity(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "parity", *map(str, words)]
    return subprocess.run(
        argv, **(HERE | {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | more)
    )


def shell(line: str, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """``$@`` of the line is ``python -m parity`` with the words."""
    argv = ["bash", "-c", line, "bash", sys.executable, "-m", "parity", *map(str, words)]
    return subprocess.run(argv, capture_output=True, timeout=120, **(HERE | {"env": HERE["env"] | variables}))


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line and not line.startswith("[")]
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A green run and one with a regression."""
    green, red = tmp_path / "green.json", tmp_path / "red.json"
    results(False).write(green)
    results(True).write(red)
    return green, red


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_changes_no_exit_code(runs: tuple[Path, Path]) -> None:
    for more, code in ((runs, EXIT_DIVERGED), (runs[:1] * 2, EXIT_OK)):
        done = shell('"$@" | true; exit ${PIPESTATUS[0]}', "diff", *more)
        assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("stream", [">/dev/full", ">&-", "2>&-", ">/dev/full 2>/dev/full"])
def test_a_stream_that_cannot_be_written(stream: str, runs: tuple[Path, Path]) -> None:
    done = shell(f'"$@" {stream}', "diff", *runs)
    assert done.returncode == (EXIT_USAGE if "full" in stream else EXIT_DIVERGED)
    if stream == ">/dev/full":
        assert one_line(done.stderr) == "ltx2-parity: No space left on device"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("terminal", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_without_a_letter(terminal: dict[str, str], runs: tuple[Path, Path]) -> None:
    """The arrow between two ratios is no ASCII."""
    done = shell('"$@"', "diff", *runs, **terminal)
    assert (done.returncode, done.stderr) == (EXIT_DIVERGED, "") and "tap0" in done.stdout


# ---- disks ----------------------------------------------------------------------------------------------------------


VERBS: dict[str, Callable[[Path], list[object]]] = {
    "report": lambda at: ["report", at / "run" / "results.json"],
    "accept": lambda at: ["accept", at / "run" / "results.json"],
    "tables": lambda at: ["tables", at / "run" / "results.json", at / "score.json", at / "document.md"],
    "debug": lambda at: ["debug", "sync", "--frames", 9, "--plot", at / "plot.png", "--without-reference"],
    "run": lambda at: ["run", "--stage", "patchifiers", "--lane", "A", "--json", at / "run" / "results.json"],
    "record": lambda at: ["record", "patchifiers:any:states", "--lane", "A", "--out", at / "t.json"],
}


@pytest.mark.parametrize("verb", ["report", "accept", "debug", "run", "record"])
def test_a_full_disk_is_one_line(
    verb: str,
    tmp_path: Path,
    in_this_process: None,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No file may be larger than 500 bytes: the first output of each verb is."""
    (tmp_path / "run").mkdir()
    results(False).write(tmp_path / "run" / "results.json")
    monkeypatch.chdir(tmp_path)
    with no_file_longer_than(500):
        assert main([*map(str, VERBS[verb](tmp_path))]) in (EXIT_USAGE, 3)
    assert "File too large" in one_line(capsys.readouterr().err)
    assert_nothing_is_left(tmp_path)


@contextlib.contextmanager
def no_file_longer_than(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python would leave a module compiled by half
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes


def test_a_process_on_a_full_disk_says_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    results(False).write(tmp_path / "run" / "results.json")
    script = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "sys.dont_write_bytecode = True; sys.argv[0] = 'parity'; runpy.run_module('parity', run_name='__main__')"
    )
    argv = [sys.executable, "-c", script, *map(str, VERBS["report"](tmp_path))]
    done = subprocess.run(argv, capture_output=True, **(HERE | {"cwd": tmp_path}), timeout=300)
    assert done.returncode in (EXIT_USAGE, 3), done
    assert "File too large" in one_line(done.stderr), done.stderr
    assert_nothing_is_left(tmp_path)


def assert_nothing_is_left(folder: Path) -> None:
    assert not left(folder) and not (folder / "t").exists() and not (folder / "reports").is_file()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if "part" in path.suffix or ".ltx2-part" in path.name]


def test_what_cannot_be_written_to_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(False).write(tmp_path / "results.json")
    for words in (
        ["report", "/proc/x/results.json"],
        ["debug", "sync", "--frames", "9", "--plot", "/proc/x/y.png"],
        ["debug", "sync", "--frames", "9", "--plot", "/dev/null"],
    ):
        assert main([*words, *(["--without-reference"] if "debug" in words else [])]) == EXIT_USAGE
        one_line(capsys.readouterr().err)
    assert Path("/dev/null").is_char_device()


# ---- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["numpy", "msgspec", "mlx.core", "rich.console"])
def test_ctrl_c_while_importing_is_one_line(module: str, runs: tuple[Path, Path]) -> None:
    script = (
        "import builtins, os, signal, sys; from parity.cli import main; real = builtins.__import__\n"
        "def stop(name, *rest, **named):\n"
        "    if name == sys.argv[1]: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = stop\n"
        "sys.exit(main(['run', '--stage', 'tokenizer', '--lane', 'A', '--json', sys.argv[2]]))"
    )
    argv = [sys.executable, "-c", script, module, str(runs[0].with_name("x.json"))]
    done = subprocess.run(argv, capture_output=True, **HERE, timeout=120)
    assert done.returncode == 130 and "interrupted" in one_line(done.stderr), done


def test_two_runs_do_not_write_into_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoints: Path
) -> None:
    path = tmp_path / "results.json"
    script = "import sys, time, pathlib; from parity.report.render import replacing\n"
    script += "with replacing(pathlib.Path(sys.argv[1])): print('in it', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, **HERE)
    assert process.stdout is not None and process.stdout.readline() == "in it\n"
    words = ["run", "--stage", "patchifiers", "--lane", "A", "--device", "cpu", "--json"]
    for name in (path, tmp_path / "other.json"):  # pages have their names by the folder
        assert main([*words, str(name)]) == EXIT_USAGE
        assert "running into this folder" in one_line(capsys.readouterr().err)
    assert f"process {process.pid}" in json.loads(path.read_text())["why"]
    assert main([*words, str(path)]) == EXIT_USAGE and f"process {process.pid} " in capsys.readouterr().err
    assert json.loads(path.read_text())["state"] == RUNNING
    process.kill()
    process.communicate()
    with replacing(path):  # the lock goes with its holder
        pass


KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLED: dict[str, list[str]] = {
    "run": ["run", "--stage", "patchifiers", "--lane", "A", "--jobs", "1", "--json", "out/results.json"],
    "resume": ["run", "--stage", "patchifiers", "--lane", "A", "--jobs", "1", "--json", "out/results.json", "--resume"],
    "record": ["record", "patchifiers:any:states", "--lane", "A", "--out", "out/trace.json"],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", range(max(2, metafunc.config.getoption("--kills") // 2)))


def test_a_killed_verb_leaves_nothing_half_done(
    kill: int,
    tmp_path: Path,
    in_this_process: None,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At a random time: what stands under a final name is whole, no process is left, and the next one ends well."""
    rng, verb = random.Random(kill), ("run", "record", "resume")[kill % 3]
    number, words = KILLS[kill % len(KILLS) if kill % 2 else 0], KILLED[verb]
    here = HERE | {"cwd": tmp_path}
    argv = [sys.executable, "-m", "parity", *words]
    process = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **here)
    begun, limit = time.monotonic(), rng.uniform(0.2, 6.0)
    while time.monotonic() - begun < limit and process.poll() is None:
        time.sleep(0.002)
        if rng.random() < 0.5 and left(tmp_path):
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert "Traceback" not in error
    for _ in range(200):
        if not alive(process.pid):
            break
        time.sleep(0.05)
    assert not alive(process.pid), "a worker outlived its run"
    if number != signal.SIGKILL:
        assert not left(tmp_path), (left(tmp_path), error)
    require_whole(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert main(words) == EXIT_OK, capsys.readouterr().err
    pool._keep(pool.known_costs())  # as a run in processes of its own does at its end
    assert not left(tmp_path) and not (tmp_path / "out" / "results.cells").exists()
    require_whole(tmp_path / "out")


def alive(group: int) -> bool:
    """Whether a process of this group is left that has not ended."""
    states = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout.split("\n")
    return any(line.split()[0] == str(group) and not line.split()[1].startswith("Z") for line in states if line.strip())


def require_whole(folder: Path) -> None:
    """Every file that has its final name can be read by what reads it."""
    from parity.judge.results import read_results
    from parity.run.tracefile import open_trace

    for path in folder.rglob("*.json") if folder.exists() else ():
        content = path.read_text()
        if path.name == "results.json" and json.loads(content)["state"] == "finished":
            read_results(path)
        elif path.name == "trace.json":
            open_trace(path)
        elif path.parent.suffix == ".cells":
            json.loads(content.partition("\n")[2])


@pytest.mark.parametrize(
    "words",
    [
        ["debug", "sync", "--frames", "121", "--fps", "-1"],
        ["debug", "sync", "--frames", "121", "--fps", "nan"],
        ["debug", "sync", "--frames", "9" * 40],
        ["margins", "--stage", "patchifiers", "--seeds", "9" * 40],
        ["selftest", "--only", "a\nb"],
        *([verb, "--seed", str(2**62)] for verb in ("run", "record", "selftest", "bisect")),
        *([verb, "--seed", "-1"] for verb in ("run", "record", "selftest", "bisect")),
    ],
)
def test_a_number_or_a_name_that_no_run_has_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        assert main(words) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
