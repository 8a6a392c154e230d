"""Block by block: how far the stream grows, how much of it the text makes, and how alike two prompts become.

A trained model does all of this to a degree that looks like a fault: only the reference tells the two apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..declare.landmarks import LIKENESS, STD_IN_WORDS, TEXT_SHARE
from ..tap.trace import Trace
from .finding import Finding, Lines, Table
from .measures import correlation, distance, std, tolerance
from .subject import Subject, contexts_of, transformer_case

REPORTED = (
    f"reported for 19B, all of it the model: {STD_IN_WORDS}; text cross-attention {TEXT_SHARE[0]:.0%} of x at block 0, "
    f"{TEXT_SHARE[47]:.1%} at 47; r of two prompts {LIKENESS[0]} → {LIKENESS[32]} (32) → {LIKENESS[47]} (47)"
)

NO_EFFECT = 1e-6  # relative distance below which two prompts gave the same stream


@dataclass(frozen=True)
class Block:
    """x: the video stream after the block, for both prompts. share: of text cross-attention, ‖attn2‖ / ‖x before‖."""

    x: tuple[np.ndarray, np.ndarray]
    share: float

    @property
    def likeness(self) -> float:
        return correlation(*self.x)


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("transformer")
    contexts = contexts_of(subject, args.prompts)
    blocks = {}
    for key in subject.sides:
        a, b = (
            subject.trace(key, "transformer", transformer_case(subject.config, args.sigma, contexts[name]))
            for name in "AB"
        )
        blocks[key] = _blocks(a, b)
    n = len(blocks["ours"])
    columns = ["block"]
    columns += [f"{what} {key}" for what in ("std", "text share", "r(A, B)") for key in blocks]
    columns += ["distance"] if subject.compared else []
    gaps = [distance(o.x[0], r.x[0]) for o, r in zip(*blocks.values(), strict=True)] if subject.compared else []
    rows = []
    for i in range(n):
        side = [by[i] for by in blocks.values()]
        rows.append(
            (i, *(std(b.x[0]) for b in side), *(b.share for b in side), *(b.likeness for b in side), *gaps[i : i + 1])
        )
    names = [str(i) for i in range(n)]
    charts = [
        Lines("std of the video stream after the block", "std", names, _series(blocks, lambda b: std(b.x[0])), True),
        Lines(
            "text cross-attention as a share of the stream", "share", names, _series(blocks, lambda b: b.share), True
        ),
        Lines("r of two prompts after the block", "r(A, B)", names, _series(blocks, lambda b: b.likeness)),
    ]
    table = Table(f"video at σ {args.sigma:g} ({REPORTED})", tuple(columns), rows)
    return Finding(_sentence(subject, blocks["ours"], gaps), [table], charts)


def _series(blocks: dict[str, list[Block]], of: Callable[[Block], float]) -> dict[str, list[float]]:
    return {key: [of(block) for block in by] for key, by in blocks.items()}


def _blocks(a: Trace, b: Trace) -> list[Block]:
    n = sum(tap.startswith("transformer_blocks.") and tap.count(".") == 1 for tap, _ in a.calls)
    found = []
    for i in range(n):
        first, second = (trace.calls[f"transformer_blocks.{i}", 0] for trace in (a, b))
        text = a.calls[f"transformer_blocks.{i}.attn2", 0].outputs[""].values
        before = first.inputs["video.x"].values
        share = float(np.linalg.norm(text) / np.linalg.norm(before))
        found.append(Block((first.outputs["0.x"].values, second.outputs["0.x"].values), share))
    return found


def _sentence(subject: Subject, ours: list[Block], gaps: list[float]) -> str:
    first, last = ours[0], ours[-1]
    if all(distance(*block.x) < NO_EFFECT for block in ours):
        return "Two prompts give the same stream in every block: the text does not reach it."
    if wrong := [i for i, gap in enumerate(gaps) if not gap <= tolerance(subject.dtype)]:
        at = f"block {wrong[0]} (relative distance {gaps[wrong[0]]:.2g})"
        return f"The stream leaves the reference in {at}; look closer with: debug step."
    stds = std(first.x[0]), std(last.x[0])
    shares, alike = (first.share, last.share), (first.likeness, last.likeness)
    facts = (
        f"std {stds[0]:.3g} after the first block and {stds[1]:.3g} after the last, text {shares[0]:.0%} and "
        f"{shares[1]:.0%} of the stream, r of two prompts {alike[0]:.5f} and {alike[1]:.5f}"
    )
    if not gaps:
        return f"{facts}; whether that is the model or a fault, only the reference tells."
    return f"{facts}: the reference does the same (within {max(gaps):.0e}), so that is the model."
