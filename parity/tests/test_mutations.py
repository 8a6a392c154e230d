"""The gate can fail: a planted fault is red at the tap it belongs to, an unplanted copy is green, and each fault is
declared in full. A sample of the faults, spread over the stages; ``make selftest`` plants them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ltx2_mlx
from parity.faults.catalogue import CAUSES, MUTATIONS, NOT_APPLICABLE, Mutation, planted
from parity.faults.selftest import Bench, Cell, sample

SOURCE = Path(ltx2_mlx.__file__).parent
PARTS = [m for m in MUTATIONS if not m.stage.startswith("pipelines.")]  # whole pipelines: see test_pipelines.py
SAMPLE = sample([m for m in PARTS if m.dtype == "float32" and not m.equivalent], 26)
HALF = [m for m in MUTATIONS if m.id in ("P01", "P08", "P09b")]


@pytest.fixture(scope="module")
def benches(checkpoints: object) -> dict[Cell, Bench]:
    return {}


def bench(benches: dict[Cell, Bench], m: Mutation) -> Bench:
    cell = m.stage, m.config, m.dtype
    if cell not in benches:
        benches[cell] = Bench(cell)
    return benches[cell]


@pytest.mark.parametrize("mutation", [*SAMPLE, *HALF], ids=lambda m: m.id)
def test_planted_fault_is_found_where_it_is(benches: dict[Cell, Bench], mutation: Mutation) -> None:
    found = bench(benches, mutation).plant(mutation)
    if mutation.equivalent:
        assert not found.detected and not found.why
        return
    assert found.detected, f"{mutation.fault}: not noticed: {found.why}"
    assert found.localised, f"{mutation.fault}: first seen at {found.first_tap}: {found.why}"
    assert mutation.loads or found.signs


CASES = {(m.stage, m.config, m.dtype, m.case): m for m in [*SAMPLE, *HALF] if not m.loads}


@pytest.mark.parametrize("mutation", CASES.values(), ids=lambda m: f"{m.stage}-{m.config}-{m.case}-{m.dtype}")
def test_unplanted_copy_is_green(benches: dict[Cell, Bench], mutation: Mutation) -> None:
    rows, _ = bench(benches, mutation).rows(mutation.case, None)
    failed = [row for row in rows if row.verdict != "pass"]
    assert not failed, f"{failed[0].place}: {failed[0].why}"


def test_stale_mutant_says_so() -> None:
    stale = Mutation("X", "a text that is not there", "types.py", "no such text", "", "")
    with pytest.raises(ValueError, match="stale"), planted(stale):
        pass


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.id)
def test_every_mutant_applies_once_and_has_a_cause(mutation: Mutation) -> None:
    source = (SOURCE / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert mutation.cause in CAUSES
    assert mutation.tap


def test_the_list_of_mutants_is_long_and_unambiguous() -> None:
    ids = [m.id for m in MUTATIONS]
    assert len(ids) == len(set(ids)) >= 90
    known = {m.known for m in MUTATIONS if m.known}
    assert len(known) >= 60 and not known & NOT_APPLICABLE.keys()
    assert all(re.fullmatch(r"[A-Z]\d\d", name) for name in known | NOT_APPLICABLE.keys())
    assert {m.cause for m in MUTATIONS} == CAUSES.keys()
