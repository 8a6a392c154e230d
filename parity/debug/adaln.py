"""The modulation: which row of each table is the shift and which the scale, and what the timesteps are multiplied by.

Nothing is taken from the code. What flows into a layer is fitted, channel by channel, as (1 + scale) · norm + shift,
and the fitted scale and shift are looked for among the rows that the file's table and the timestep's embedding make.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..declare.inputs import normal
from ..declare.model import Case, Data
from ..tap.trace import Trace
from .adaln_places import Place, decoder_places, transformer_places
from .finding import Finding, Lines, Table
from .measures import distance, std
from .subject import Subject, contexts_of, transformer_case

SIGMA = 0.725
FITS = 0.2  # a row is the one if it is no farther than this (bfloat16 rounds); two unlike rows are about 1.4 apart


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    found, multipliers = {}, []
    for key in subject.sides:
        traces = _traces(subject, key)
        found[key] = [
            (p, _nearest(shift, p.rows), _nearest(scale, p.rows)) for p, scale, shift in _fitted(subject, traces)
        ]
        if "transformer" in traces:
            multipliers += [(key, *row) for row in _multipliers(subject, traces["transformer"])]
    rows = []
    for sides in zip(*found.values(), strict=True):
        place = sides[0][0]
        read = [_named(row, place) for _, *pair in sides for row in pair]
        rows.append((place.name, *read, float(place.rows[place.scale].mean()), std(place.rows[place.scale])))
    columns = ("place", *(f"{what} {key}" for key in found for what in ("shift", "scale")), "mean of scale", "its std")
    tables = [
        Table("the row that is added, and the row that multiplies (a trained scale has a mean near 0)", columns, rows)
    ]
    if multipliers:
        tables.append(Table("timesteps", ("side", "embedding", "given", "expected: σ · multiplier"), multipliers))
    mine = [row for row in multipliers if row[0] == "ours"]
    first = found["ours"][0][0]
    return Finding(_sentence(found["ours"], mine), tables, [_chart(first, *first.fitted())])


def _traces(subject: Subject, key: str) -> dict[str, Trace]:
    """One call of the transformer, and one of a decoder that is told its timestep, as far as the file holds them."""
    traces, parts = {}, subject.file.components()
    if "transformer" in parts:
        case = transformer_case(subject.config, SIGMA, contexts_of(subject, None)["A"])
        traces["transformer"] = subject.trace(key, "transformer", case)
    if "video_decoder" in parts and subject.config["vae"].get("timestep_conditioning"):
        sample = normal("debug:adaln", 1, subject.config["vae"]["latent_channels"], 2, 2, 3)
        traces["video_decoder"] = subject.trace(key, "video_decoder", Case({"sample": Data(sample)}))
    if not traces:
        subject.require("transformer")
    return traces


def _fitted(subject: Subject, traces: dict[str, Trace]) -> Iterator[tuple[Place, np.ndarray, np.ndarray]]:
    makers = {"transformer": transformer_places, "video_decoder": decoder_places}
    for part, trace in traces.items():
        for place in makers[part](subject, trace):
            yield (place, *place.fitted())


def _sentence(found: list[tuple[Any, ...]], multipliers: list[tuple[Any, ...]]) -> str:
    if wrong := [row for row in multipliers if not np.isclose(row[2], row[3], rtol=1e-3)]:
        _, name, given, expected = wrong[0]
        return (
            f"{name} is given timestep {given:.4g} where σ · the config's multiplier is {expected:.4g}: "
            f"the multiplier is {given / expected:.3g} of what it should be."
        )
    swapped = [p.name for p, shift, scale in found if (shift, scale) == (p.scale, p.shift)]
    lost = [p.name for p, shift, scale in found if (shift, scale) not in ((p.shift, p.scale), (p.scale, p.shift))]
    if swapped:
        return f"Shift and scale are swapped in {len(swapped)} of {len(found)} places, the first is {swapped[0]}."
    if lost:
        return (
            f"{len(lost)} of {len(found)} places are not modulated by the rows that are theirs, the first is {lost[0]}."
        )
    times = ", and timesteps are multiplied as the config says" if multipliers else ""
    return f"Shift and scale are where they belong in all {len(found)} places{times}."


def _named(row: int | None, place: Place) -> str:
    if row is None:
        return "no row"
    return f"row {row}" + (" (the shift's)" if row == place.shift else " (the scale's)" if row == place.scale else "")


def _nearest(values: np.ndarray, rows: np.ndarray) -> int | None:
    gaps = [distance(values, row) for row in rows]
    best = int(np.argmin(gaps))
    return best if gaps[best] < FITS else None


def _chart(place: Place, scale: np.ndarray, shift: np.ndarray) -> Lines:
    series = {"ours: fitted scale": scale, "reference: the scale's row": place.rows[place.scale], "fitted shift": shift}
    n = min(len(scale), 64)
    return Lines(
        place.name, "value", [str(i) for i in range(n)], {k: list(map(float, v[:n])) for k, v in series.items()}
    )


def _multipliers(subject: Subject, trace: Trace) -> Iterator[tuple[str, float, float]]:
    t = subject.config["transformer"]
    factor = t.get("timestep_scale_multiplier", 1000)
    gate = t.get("av_ca_timestep_scale_multiplier", 1)
    for (tap, index), call in trace.calls.items():
        if tap.endswith("adaln_single") and not index:
            yield tap, float(call.inputs["timestep"].values.ravel()[0]), SIGMA * (gate if "gate" in tap else factor)
