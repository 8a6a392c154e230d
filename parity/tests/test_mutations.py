"""The gate can fail: every planted fault is red at the tap it belongs to, and an unplanted copy is green."""

from __future__ import annotations

import pytest

from parity.judge import judge
from parity.mutations import MUTATIONS, Mutation, planted
from parity.results import Results, Row
from parity.runner import Pair, Recorded, Runner, ensure_fixtures
from parity.stages import stages


class Bench:
    """The reference's side of every case, recorded once."""

    def __init__(self) -> None:
        ensure_fixtures()
        self.runner = Runner()
        self.pairs: dict[tuple[str, str, str], Pair] = {}
        self.recorded: dict[tuple[str, str, str, str], Recorded] = {}

    def rows(self, stage: str, config: str, case: str, dtype: str, mutation: Mutation | None) -> list[Row]:
        key = (stage, config, dtype)
        if key not in self.pairs:
            self.pairs[key] = self.runner.load(stages()[stage], config, dtype)
        pair = self.pairs[key]
        if (*key, case) not in self.recorded:
            self.recorded[*key, case] = self.runner.record(pair, pair.stage.cases(pair.config)[case])
        recorded = self.recorded[*key, case]
        with planted(mutation):
            trace = self.runner.replay(recorded, self.runner.ours(pair.paths, dtype, **pair.options))
        where = {"stage": stage, "config": config, "case": case, "lane": "A" if dtype == "float32" else "B"}
        return judge(Results(), where, pair.stage, recorded.trace, recorded.oracle, trace)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.id)
def test_planted_fault_is_found_where_it_is(bench: Bench, mutation: Mutation) -> None:
    rows = bench.rows(mutation.stage, mutation.config, mutation.case, mutation.dtype, mutation)
    failed = [row for row in rows if row.verdict != "pass"]
    assert failed, f"{mutation.id} ({mutation.fault}) was not noticed"
    assert failed[0].name.startswith(mutation.tap), (
        f"{mutation.fault}: first seen at {failed[0].place}: {failed[0].why}"
    )


@pytest.mark.parametrize(
    ("stage", "config", "case", "dtype"), sorted({(m.stage, m.config, m.case, m.dtype) for m in MUTATIONS})
)
def test_unplanted_copy_is_green(bench: Bench, stage: str, config: str, case: str, dtype: str) -> None:
    failed = [row for row in bench.rows(stage, config, case, dtype, None) if row.verdict != "pass"]
    assert not failed, f"{failed[0].place}: {failed[0].why}"


def test_stale_mutant_says_so() -> None:
    stale = Mutation("X", "a text that is not there", "types.py", "no such text", "", "")
    with pytest.raises(ValueError, match="stale"), planted(stale):
        pass
