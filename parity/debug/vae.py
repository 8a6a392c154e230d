"""The video decoder's effect on a latent: brightness by timestep, signal by stage, each known way to spoil it."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ltx2_mlx.errors import WeightsError

from ..declare.inputs import normal
from ..declare.model import Case, Data, Loaded
from ..tap.trace import Call, Trace
from .finding import Chart, Finding, Lines, Pictures, Table
from .measures import correlation, departures, first_departure, local_variance_ratio, std, tolerance
from .subject import Subject
from .vae_checks import Rows, alike, decoded, light_of, misplaced, no_bytes, stage_output, unnormalised, untold

# Reported for the 19B model: brightness (mean of the pixels, 0 to 1) 0.12 when a decoder that wants its timestep gets
# none, 0.32–0.35 when it is told; pixel std 8.7 for 35 when latents are un-normalised twice.
REPORTED = "reported for 19B: brightness 0.32–0.35, 0.12 without the timestep; pixel std 35, 8.7 un-normalised twice"
_LATENT = (2, 2, 3)  # frames, height, width of the latents that are decoded


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("video_decoder")
    embedders = sum("time_embedder" in key for key in subject.file.tensors if key.startswith("vae.decoder."))
    told = bool(subject.config["vae"].get("timestep_conditioning"))
    if embedders and not told:
        return Finding(
            f"The file holds {embedders} tensors of a time embedder and its config says timestep_conditioning false: "
            "this decoder wants its timestep and gets none, and the video comes out dark."
        )
    try:
        runs: dict[str, dict[str, Trace]] = {}
        for key in subject.sides:  # the reference draws what ours drew
            runs[key] = _runs(subject, key, told, runs["ours"]["zero"] if runs else None)
    except WeightsError as error:
        return Finding(f"The decoder does not load: {error}")
    stages = _stages(runs["ours"]["random A"])
    columns = ("stage", *(f"{what} {key}" for what in ("std", "r(A, B)") for key in runs))
    rows: Rows = []
    for stage in stages:
        pairs = [[stage_output(by[name], stage) for name in ("random A", "random B")] for by in runs.values()]
        rows.append((stage, *(std(a) for a, _ in pairs), *(correlation(a, b) for a, b in pairs)))
    light = [
        (name, *(_brightness(by[name]) for by in runs.values()), *_look(runs["ours"][name])) for name in runs["ours"]
    ]
    tables = [
        Table(f"decoded ({REPORTED})", ("latent", *(f"brightness {k}" for k in runs), "std", "local variance"), light),
        Table("two random latents by stage", columns, rows),
    ]
    series = {f"{key}": [row[1 + i] for row in rows] for i, key in enumerate(runs)}
    alike = {f"{key}": [row[1 + len(runs) + i] for row in rows] for i, key in enumerate(runs)}
    charts: list[Chart] = [
        Lines("std by stage", "std", stages, series, True),
        Lines("r of two random latents by stage", "r(A, B)", stages, alike),
        Pictures("first frame", {name: _frame(trace) for name, trace in runs["ours"].items()}),
    ]
    return Finding(_sentence(subject, runs, rows, told), tables, charts)


def _runs(subject: Subject, key: str, told: bool, noise: Trace | None) -> dict[str, Trace]:
    """Each latent decoded, every one with the same noise where the decoder draws any."""
    channels = subject.config["vae"]["latent_channels"]
    random = {name: normal(f"debug:vae:{name}", 1, channels, *_LATENT) for name in "AB"}
    latents: dict[str, tuple[np.ndarray, float | None]] = {
        "zero": (np.zeros_like(random["A"]), None),
        "random A": (random["A"], None),
        "random B": (random["B"], None),
    }
    if told:
        latents |= {f"random A at timestep {t:g}": (random["A"], t) for t in (0.0, 0.05)}
    runs = {}
    for name, (values, timestep) in latents.items():
        given: dict[str, Any] = {} if timestep is None else {"timestep": Data(np.array([timestep], np.float32))}
        runs[name] = subject.trace(key, "video_decoder", Case({"sample": Data(values), **given}), noise=noise)
        noise = noise or runs[name]
    kwargs = {"latent": Data(random["A"]), "video_decoder": Loaded("video_decoder")}
    runs["random A"].calls |= _bytes(subject, key, Case(kwargs, function="decode_video"), noise)
    return runs


def _bytes(subject: Subject, key: str, case: Case, noise: Trace | None) -> dict[tuple[str, int], Call]:
    """The call of ``decode_video``, which returns what is saved."""
    trace = subject.trace(key, "video_decoder", case, noise=noise)
    return {at: call for at, call in trace.calls.items() if at[0] == "decode_video"}


def _sentence(subject: Subject, runs: dict[str, dict[str, Trace]], rows: Rows, told: bool) -> str:
    ours = runs["ours"]
    checks = (unnormalised(subject, ours), untold(ours) if told else None, alike(rows, len(runs)))
    for said in (*checks, misplaced(subject, ours["random A"]), no_bytes(ours["random A"])):
        if said:
            return said
    if subject.compared:
        both = departures(ours["random A"], runs["reference"]["random A"])
        found = [pair for pair in both if not pair[0].endswith("randn")]  # recorded as drawn, then replaced
        if first := first_departure(found, tolerance(subject.dtype)):
            return f"The decoder leaves the reference at {first[0]} (relative distance {first[1]:.2g})."
    same = "; every stage is as in the reference" if subject.compared else ""
    conditioned = ", told its timestep (None is 0.05)" if told else ", and wants no timestep"
    return (
        f"The decoder un-normalises once, keeps two latents apart (r {rows[-1][1 + len(runs)]:.2f} at the end), puts "
        f"pixels where they belong and returns bytes{conditioned}{same}."
    )


def _stages(trace: Trace) -> list[str]:
    blocks = [tap for tap, _ in trace.calls if tap.startswith("up_blocks.") and tap.count(".") == 1]
    return ["conv_in", *dict.fromkeys(blocks), "conv_norm_out", "conv_out"]


def _brightness(trace: Trace) -> float:
    return light_of(decoded(trace))


def _look(trace: Trace) -> tuple[float, float]:
    return std(decoded(trace)) * 127.5, local_variance_ratio(decoded(trace))


def _frame(trace: Trace) -> np.ndarray:
    return np.clip((decoded(trace)[0, :, 0].transpose(1, 2, 0) + 1) / 2, 0, 1)
