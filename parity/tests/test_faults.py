"""The gate can fail: a planted fault is red at the tap it belongs to, an unplanted copy is green, and each fault is
declared in full. A sample of the faults, spread over the stages; ``make selftest`` plants them all."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

import ltx2_mlx
from parity.faults.catalogue import (
    BY_ID,
    CAUSES,
    EDITS,
    FAULTS,
    FILES,
    KINDS,
    NOT_APPLICABLE,
    Fault,
    StaleFaultError,
    planted,
)
from parity.faults.classes import CANARIES, OF_KIND
from parity.faults.selftest import Bench, Cell, sample

SOURCE = Path(ltx2_mlx.__file__).parent
PARTS = [m for m in FAULTS if not m.stage.startswith("pipelines.")]  # whole pipelines: see test_pipelines.py
SEEN = [m for m in PARTS if m.dtype == "float32" and not m.equivalent]
SAMPLE = sample(SEEN, len({m.stage for m in SEEN}))
HALF = [m for m in FAULTS if m.id in ("P01", "P08", "P09b")]


@pytest.fixture(scope="module")
def benches(checkpoints: object) -> dict[Cell, Bench]:
    return {}


def bench(benches: dict[Cell, Bench], m: Fault) -> Bench:
    cell = m.stage, m.config, m.dtype
    if cell not in benches:
        benches[cell] = Bench(cell)
    return benches[cell]


@pytest.mark.parametrize("fault", [*SAMPLE, *HALF], ids=lambda m: m.id)
def test_planted_fault_is_found_where_it_is(benches: dict[Cell, Bench], fault: Fault) -> None:
    found = bench(benches, fault).plant(fault)
    if fault.equivalent:
        assert not found.detected and not found.why
        return
    assert found.detected, f"{fault.description}: not noticed: {found.why}"
    assert found.localised, f"{fault.description}: first seen at {found.first_tap}: {found.why}"
    assert fault.loads or found.signs


CASES = {(m.stage, m.config, m.dtype, m.case): m for m in [*SAMPLE, *HALF] if not m.loads}


CLEAN = sample(CASES.values(), 6, lambda m: m.dtype)  # make parity judges every cell


@pytest.mark.parametrize("fault", CLEAN, ids=lambda m: f"{m.stage}-{m.config}-{m.case}-{m.dtype}")
def test_unplanted_copy_is_green(benches: dict[Cell, Bench], fault: Fault) -> None:
    rows = bench(benches, fault).clean(fault.case)
    failed = [row for row in rows if row.verdict != "pass"]
    assert not failed, f"{failed[0].place}: {failed[0].why}"


def test_stale_fault_says_so() -> None:
    stale = Fault("X", "a text that is not there", "types.py", "no such text", "")
    with pytest.raises(StaleFaultError, match=r"X is stale: its text stands 0 times in types\.py"), planted(stale):
        pass


def unknown_names(tree: ast.Module) -> set[str]:
    """The names that a module uses, and defines nowhere."""
    used, known = set[str](), {*dir(builtins), "__file__"}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                known.add(name)
            case ast.alias(name=name, asname=other):
                known.add(other or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                known.add(name)
    return used - known


@pytest.mark.parametrize("file", sorted({fault.file for fault in EDITS}))
def test_every_fault_applies_once_has_a_cause_and_names_what_there_is(file: str) -> None:
    source = (SOURCE / file).read_text()
    for fault in (fault for fault in EDITS if fault.file == file):
        tree = ast.parse(fault.applied(source), f"{file} with fault {fault.id}")
        assert not unknown_names(tree), f"{fault.id} would end in a NameError, which proves nothing"
        assert fault.cause in CAUSES, fault.id
        assert bool(fault.tap) is (fault.seen_by == "stage"), fault.id


def test_the_list_of_faults_is_long_and_unambiguous() -> None:
    assert len(BY_ID) == len(EDITS) + len(FILES), "an id stands for one fault"
    assert len(FAULTS) >= 90
    known = {m.known for m in FAULTS if m.known}
    assert len(known) >= 60 and not known & NOT_APPLICABLE.keys()
    assert all(re.fullmatch(r"[A-Z]\d\d", name) for name in known | NOT_APPLICABLE.keys())
    assert {m.cause for m in FAULTS} == CAUSES.keys() >= {m.cause for m in FILES}


def test_every_fault_is_of_a_kind_and_every_kind_has_its_canary() -> None:
    kinds = {fault.kind for fault in FAULTS}
    canaries = {fault.kind: fault for fault in FAULTS if fault.canary}
    assert canaries.keys() == kinds, "name one in classes.CANARIES, or say canary=True on it"
    assert kinds | CANARIES.keys() | OF_KIND.keys() <= KINDS.keys()
    assert not any(fault.equivalent for fault in canaries.values())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fault X: no kind 'color'; there are: .*, files"):
        Fault("X", "", "types.py", "a", "b", kind="color")
