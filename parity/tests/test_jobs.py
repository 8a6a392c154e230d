"""Work spread over processes: how many, in which order, and what is remembered of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from parity.cli import main
from parity.run import pool
from parity.run.environment import ROOT

GB = 1e9


@pytest.mark.parametrize(
    ("cores", "free", "peaks", "jobs"),
    [
        (16, 8, [2.2] * 60, 3),  # 16 cores and 8 GB: three of the largest fit, a fourth does not
        (16, 8, [2.2] + [0.4] * 60, 13),
        (16, 64, [2.2] * 60, 16),
        (16, 64, [2.2] * 5, 5),
        (12, 16, [2.2] * 60, 6),
        (3, 7, [2.2] * 60, 2),  # a hosted Apple runner
        (2, 24, [2.2] * 60, 2),
        (16, 1, [2.2] * 60, 1),  # one, whatever is free
        (16, 8, [], 1),
    ],
)
def test_jobs_fit_the_memory(cores: int, free: float, peaks: list[float], jobs: int) -> None:
    found = pool.jobs_for(cores, free * GB, [peak * GB for peak in peaks])
    assert found == jobs
    assert found == 1 or sum(sorted(peaks)[-found:]) <= pool.SPARE * free


def test_free_memory_on_macos_is_read_from_vm_stat() -> None:
    lines = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   100.\nPages active:  900.\n"
    lines += "Pages inactive:   50.\nPages speculative:  7.\nPages wired down:  300.\nPages purgeable:   3.\n"
    assert pool.free_on_macos(lines) == 160 * 16384


def test_this_machine_has_cores_and_memory() -> None:
    assert pool.cores() >= 1 and pool.free_bytes() > 0
    assert 1 <= pool.jobs_for_workers() <= pool.cores()


def doze(task: tuple[float, Path]) -> str:
    seconds, log = task
    with log.open("a") as file:
        file.write(f"{seconds}\n")
    time.sleep(seconds)
    return f"dozed {seconds}"


def test_the_longest_go_first_and_results_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "COSTS", tmp_path / "costs.json")
    seconds, log = [0.0, 0.4, 0.2], tmp_path / "log"
    tasks, names = [(s, log) for s in seconds], ["a", "b", "c"]
    for known, expected in (("{}", [0.0, 0.4, 0.2]), ('{"a": [1, 1], "b": [9, 1], "c": [5, 1]}', [0.4, 0.2, 0.0])):
        pool.COSTS.write_text(known)
        log.write_text("")
        assert list(pool.spread(doze, tasks, names, 1)) == [f"dozed {s}" for s in seconds]
        assert [float(line) for line in log.read_text().split()] == expected
    costs = pool.known_costs()
    assert costs["b"][0] >= 0.4 and all(0 < peak < 1 for _, peak in costs.values())


def test_each_task_is_told_of_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when its turn comes: the first may be the last to end."""
    monkeypatch.setattr(pool, "COSTS", tmp_path / "costs.json")
    ended: list[int] = []
    (tmp_path / "costs.json").write_text('{"a": [0.0, 0.1], "b": [9.0, 0.1]}')
    tasks = [(0.0, tmp_path / "log"), (0.0, tmp_path / "log")]
    found = pool.spread(doze, tasks, ["a", "b"], 1, finished=lambda: ended.append(len(ended)))
    next(found)
    assert ended == [0, 1]
    found.close()


def test_a_group_stays_in_one_process_while_there_is_other_work() -> None:
    left = ["pipelines 1", "pipelines 2", "pipelines 1", "alone"]
    assert pool._next(left, None, set()) == 0
    assert pool._next(left, None, {"pipelines 1"}) == 1
    assert pool._next(left, "pipelines 2", {"pipelines 1"}) == 1
    assert pool._next(left, "done", {"pipelines 1", "pipelines 2"}) == 3
    assert pool._next(left, "done", set(left)) == 0  # nothing else is left: it helps


def test_the_memory_of_a_task_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "COSTS", tmp_path / "costs.json")
    ballast = bytearray(b"\1") * 700_000_000  # of this process, written to
    list(pool.spread(doze, [(0.0, tmp_path / "log")], ["a"], 1))
    assert 0.01 < pool.known_costs()["a"][1] < 0.6 < len(ballast) / 1e9


def fail(task: int) -> int:
    return 1 // task


def test_what_is_known_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "COSTS", tmp_path / "costs.json")
    with pytest.raises(ZeroDivisionError):
        list(pool.spread(fail, [1, 0, 1], ["one", "none", "last"], 1))
    assert set(pool.known_costs()) == {"one"}
    pool.COSTS.write_text("not JSON")
    assert pool.known_costs() == {}


@pytest.mark.parametrize("verb", [["run"], ["check", "trace.json"], ["selftest"]])
def test_no_jobs_are_refused(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*verb, "--jobs", "0"])
    assert "argument --jobs: invalid count value: '0'" in capsys.readouterr().err


FREED = """
import resource
from parity.run.pool import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"x" * 40_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages())
keep_freed_memory()
pages()
print(pages())
"""


def test_memory_that_a_cell_frees_is_taken_again_without_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, cwd=ROOT)
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 10 or sys.platform != "linux"
