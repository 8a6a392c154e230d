"""Ours over two processes, which meet through MLX's ring on this machine, beside the same oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from parity.declare.stages import stages
from parity.investigate.bisect import isolated_rows
from parity.judge.results import Row
from parity.run.live import Runner
from parity.run.over_ranks import Ranks, job_of, started
from parity.run.recorded import Recorded
from parity.tap.trace import Trace
from parity.tests.rank_faults import DECODER_FAULTS, FAULTS, OF_PASSES

Cell = tuple[str, str, tuple[str, ...]]  # stage, config, and the taps that are compared; none for all
_B0 = "transformer_blocks.0"
# One block of the transformer here; `parity run --ranks 2` takes all of them
BLOCK: Cell = ("transformer", "tiny-2.3", (_B0, f"{_B0}.*", "X0Model"))
# The same without audio, in a quarter of the time; its faults are of what both kinds have
FAULTY: Cell = ("transformer", "tiny-2.3-video-only", BLOCK[2])
# A causal decoder with noise, a timestep and a group norm
DECODER: Cell = ("video_decoder", "tiny-2.0-timestep", ())
CELLS: tuple[Cell, ...] = (
    BLOCK,
    ("transformer", "tiny-2.0-interleaved", (f"{_B0}.attn1*", "X0Model")),
    ("gemma", "tiny-gemma", ()),
    ("embeddings_processor", "tiny-2.0", ()),
    ("video_decoder", "tiny-2.0", ()),
    DECODER,
    ("denoising", "any", ("guided.full", "guided.zero", "guided.skipped", "simple")),  # four passes, three, and one
)
GUIDANCE = CELLS[-1]


@pytest.fixture(scope="module")
def ranks(checkpoints: object) -> Iterator[Ranks]:
    with started(2) as two:
        yield two


@cache
def recorded(cell: Cell) -> Recorded:
    """The reference's run of the stage's first case, and its oracle's."""
    runner, (stage, config, taps) = Runner(), cell
    pair = runner.load(stages()[stage], config, "float32")
    cases = pair.stage.cases(pair.config)
    name, case = ("guidance", cases["guidance"]) if stage == "denoising" else next(iter(cases.items()))
    return replace(runner.record(pair, case.only(taps), repeat=False), name=name)


def judged(cell: Cell, trace: Trace) -> list[Row]:
    known = recorded(cell)
    return isolated_rows(known, trace, {"stage": cell[0], "config": cell[1], "case": known.name, "lane": "A"})


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]} {cell[1]}")
def test_every_tensor_of_two_ranks_is_as_near_to_the_oracle_as_that_of_one(cell: Cell, ranks: Ranks) -> None:
    found = judged(cell, ranks.replay(job_of(recorded(cell))))
    assert [f"{row.name}: {row.why}" for row in found if row.verdict != "pass"] == []
    alone = judged(cell, Runner().replay(recorded(cell)))
    assert {row.name for row in found} == {row.name for row in alone}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_of_the_ranks_is_found_at_its_place(what: str, ranks: Ranks) -> None:
    around, tap = FAULTS[what]
    rows = judged(FAULTY, ranks.replay(replace(job_of(recorded(FAULTY)), around=around)))
    first = next(row for row in rows if row.verdict != "pass")
    assert first.name == f"{_B0}.{tap}" or first.name.startswith((f"{_B0}.{tap}.", f"{_B0}.{tap}:")), first.name


@pytest.mark.parametrize("what", DECODER_FAULTS)
def test_a_fault_of_a_decoder_over_ranks_is_found_at_its_place(what: str, ranks: Ranks) -> None:
    around, tap = DECODER_FAULTS[what]
    rows = judged(DECODER, ranks.replay(replace(job_of(recorded(DECODER)), around=around)))
    first = next(row for row in rows if row.verdict != "pass")
    assert first.name == tap or first.name.startswith((f"{tap}.", f"{tap}:")), first.name


@pytest.mark.parametrize("what", OF_PASSES)
def test_a_fault_of_passes_that_ranks_share_is_found_at_the_first_guided_step(what: str, ranks: Ranks) -> None:
    rows = judged(GUIDANCE, ranks.replay(replace(job_of(recorded(GUIDANCE)), around=OF_PASSES[what])))
    first = next(row for row in rows if row.verdict != "pass")
    assert first.name.startswith("guided.full"), first.name
