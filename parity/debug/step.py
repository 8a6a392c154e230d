"""One step in full: every number between a latent and the next one, ours beside the reference, running free."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..tap.trace import Tensor, Trace
from .finding import Finding, Lines, Table
from .measures import departures, distance, first_departure, std, tolerance
from .subject import Subject, contexts_of, transformer_case
from .velocity import sigmas_of


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("transformer")
    after = 0.75 * args.sigma
    contexts = contexts_of(subject, args.prompts)["A"]
    case = transformer_case(subject.config, args.sigma, contexts)
    traces = {key: subject.trace(key, "transformer", case) for key in subject.sides}
    numbers = {key: _numbers(subject, key, trace, args.sigma, after) for key, trace in traces.items()}
    found = departures(traces["ours"], traces["reference"]) if subject.compared else []
    gaps = dict(found)
    names = list(numbers["ours"])
    tables = [
        Table(
            f"the step from σ {args.sigma:g} to {after:g}",
            ("video", *(f"std {key}" for key in numbers), *(["distance"] if subject.compared else [])),
            [
                (
                    n,
                    *(std(v[n]) for v in numbers.values()),
                    *([distance(*(v[n] for v in numbers.values()))] if gaps else []),
                )
                for n in names
            ],
        ),
        Table(
            "every tensor, in the order of computation",
            ("place", *(f"std {key}" for key in traces), *(["distance"] if gaps else [])),
            [(place, *stds, *([gaps.get(place)] if gaps else [])) for place, *stds in _outputs(traces)],
        ),
    ]
    stds = list(_outputs(traces))
    charts = [
        Lines("std", "std", [p for p, *_ in stds], {k: [s[i] for _, *s in stds] for i, k in enumerate(traces)}, True)
    ]
    if found:
        finite = [min(gap, 1e3) or 1e-9 for _, gap in found]
        charts.append(
            Lines("relative distance to the reference", "distance", [p for p, _ in found], {"ours": finite}, True)
        )
    return Finding(_sentence(subject, found, numbers["ours"]), tables, charts)


def _sentence(subject: Subject, found: list[tuple[str, float]], numbers: dict[str, np.ndarray]) -> str:
    if not subject.compared:
        finite = all(np.isfinite(v).all() for v in numbers.values())
        return f"The step is {'finite' if finite else 'not finite'}; without the reference nothing more can be said."
    if first := first_departure(found, tolerance(subject.dtype)):
        return (
            f"Ours leaves the reference at {first[0]} (relative distance {first[1]:.2g}); "
            f"the {[p for p, _ in found].index(first[0])} tensors before it agree."
        )
    worst = max(found, key=lambda pair: pair[1])
    return f"All {len(found)} tensors of the step are the reference's (the farthest, {worst[0]}, by {worst[1]:.1e})."


def _numbers(subject: Subject, key: str, trace: Trace, sigma: float, after: float) -> dict[str, np.ndarray]:
    """The step's own arithmetic, for video."""
    call, velocity = trace.calls["X0Model", 0], trace.calls["LTXModel", 0].outputs["0"].values
    x, x0 = call.inputs["video.latent"].values, call.outputs["0"].values
    side = subject.sides[key]
    pair = [side.from_numpy(value, side.dtype(subject.dtype)) for value in (x, x0)]
    schedule = sigmas_of(subject, key, np.array([sigma, after], np.float32))
    following = subject.at(key, "EulerDiffusionStep")().step(*pair, schedule, 0)
    return {"latent": x, "velocity": velocity, "X0": x0, "next latent": subject.numpy(key, following)}


def _outputs(traces: dict[str, Trace]) -> Iterator[tuple[Any, ...]]:
    """(place, std on each side) of every output."""
    for kind, tap, index in traces["ours"].events:
        for name, leaf in traces["ours"].calls[tap, index].outputs.items() if kind == "out" else ():
            if isinstance(leaf, Tensor) and leaf.values.dtype.kind == "f":
                calls = [trace.calls.get((tap, index)) for trace in traces.values()]
                leaves = [call.outputs.get(name) if call else None for call in calls]
                yield (f"{tap}.{name}" if name else tap, *(std(x.values) if x else float("nan") for x in leaves))
