"""Conditions that cases are run under: a few taps of a long one, warm caches, compiled functions."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import mlx.core as mx
import pytest

pytest.importorskip("torch")

from parity.declare.stages import stages
from parity.judge.results import Reason, Results
from parity.run import replay
from parity.run.live import Runner
from parity.run.replay import judge_recording, replay_free
from parity.sides import mlx
from parity.sides.loading import read, tiny
from parity.sides.pair import Pair


@pytest.fixture(scope="module")
def gemma() -> tuple[Runner, Pair]:
    runner = Runner()
    return runner, runner.load(stages()["gemma"], "tiny-gemma", "float32")


def test_a_case_that_names_taps_is_recorded_at_those_alone(gemma: tuple[Runner, Pair]) -> None:
    runner, pair = gemma
    case = replace(pair.stage.cases(pair.config)["right"], taps=("layers.1", "norm"))
    recorded = runner.record(pair, case, free=True)
    assert {tap for tap, _ in recorded.trace.calls} == {"layers.1", "norm"}
    assert recorded.free is None, "a long case is judged in lane A alone"
    assert runner.replay(recorded).calls.keys() == recorded.trace.calls.keys()


def test_the_free_lane_runs_the_earlier_cases_first_and_survives_their_failure(gemma: tuple[Runner, Pair]) -> None:
    runner, pair = gemma
    case = pair.stage.cases(pair.config)["base"]
    recorded = runner.record(pair, replace(case, after=("other", "absent", "base@bfloat16")), isolated=False, free=True)
    with mock.patch.object(replay, "execute", side_effect=replay.execute) as execute:
        trace = replay_free(runner.mlx, recorded)
    assert [call.args[4] for call in execute.call_args_list] == ["float32", "bfloat16", "float32"]
    assert ("norm", 0) in trace.calls


def test_the_free_lane_is_compiled_and_the_isolated_one_is_not(gemma: tuple[Runner, Pair]) -> None:
    runner, pair = gemma
    recorded = runner.record(pair, pair.stage.cases(pair.config)["right"], free=True)
    asked: list[bool] = []
    with mock.patch.object(mlx, "compiler_trouble", lambda: asked.append(True) or ""):
        runner.replay(recorded)
        assert not asked or mx.default_device().type == mx.gpu
        replay_free(runner.mlx, recorded)
    assert asked


def test_without_a_compiler_the_free_lane_is_inconclusive_and_says_why() -> None:
    results = Results()
    trouble = "nothing can be compiled here"
    with (
        mock.patch.object(mlx, "compiler_trouble", lambda: trouble),
        mock.patch.object(replay, "compiler_trouble", lambda: trouble),
    ):
        judge_recording(Runner().recording(stages()["gemma"], "tiny-gemma", "C", "right"), results)
    assert results.rows
    assert {(row.verdict, row.reason) for row in results.rows} == {("inconclusive", Reason.COMPILER)}
    assert all(trouble in row.why for row in results.rows)


def test_every_case_that_is_to_run_before_another_exists() -> None:
    named = 0
    for stage in stages().values():
        for config in stage.configs if stage.component else ():
            cases = stage.cases(read(tiny(config, stage.folder)).config)
            for earlier in (name for case in cases.values() for name in case.after):
                named += 1
                assert earlier.partition("@")[0].rpartition(":")[2] in cases, f"{stage.name} {config}: {earlier}"
    assert named
