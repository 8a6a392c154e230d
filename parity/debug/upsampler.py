"""The latent upsampler: is it wrapped in un-normalise and normalise, and do its residual blocks keep their range?"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ltx2_mlx.loading.checkpoint import read_checkpoint

from ..declare.inputs import FIXTURES, normal
from ..declare.model import Case, Data, Loaded
from ..tap.trace import Tensor, Trace
from .finding import Finding, Lines, Table
from .measures import departures, distance, first_departure, std, tolerance
from .subject import Subject

# Reported for the 19B model: pixel std 8.6 (right: 37–38.6), range 93–230 when the wrapper is missing; values that go
# from ±8 to ±160, ±800, ±2137 through the residual blocks.
REPORTED = "reported for 19B when wrong: ±8 → ±160 → ±800 → ±2137"
_VARIANTS = {
    "un-normalises before and normalises after": (True, True),
    "does not un-normalise before": (False, True),
    "does not normalise after": (True, False),
    "neither un-normalises before nor normalises after": (False, False),
}


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("upsampler")
    encoder = args.encoder or FIXTURES / "tiny-2.0.safetensors"
    latent = normal("debug:upsampler", 1, subject.config["in_channels"], 3, 3, 4)
    latent += np.linspace(-1.5, 2.0, 3, dtype=np.float32)[None, None, :, None, None]  # so that frames' means differ
    runs = {key: _wrapped(subject, key, encoder, latent) for key in subject.sides}
    traces = {key: trace for key, (trace, _) in runs.items()}
    gaps = {key: _variants(subject, key, encoder, latent, result) for key, (_, result) in runs.items()}
    blocks = [tap for tap, _ in traces["ours"].calls if tap.rsplit(".", 1)[0].endswith("res_blocks")]
    stages = ["initial_conv", *dict.fromkeys(blocks), "final_conv"]
    rows = []
    for stage in stages:
        values = [trace.calls[stage, 0].outputs[""].values for trace in traces.values()]
        rows.append((stage, *(f"{v.min():.3g} … {v.max():.3g}" for v in values), *(std(v) for v in values)))
    ends = [("latent", *[std(latent)] * len(traces)), ("upsampled", *(std(result) for _, result in runs.values()))]
    ways = [(way, *(by[way] for by in gaps.values())) for way in _VARIANTS]
    tables = [
        Table("upsample_video, distance to each way to call the network", ("it", *gaps), ways),
        Table("std", ("", *traces), ends),
        Table(
            f"range by block ({REPORTED})",
            ("stage", *(f"range {k}" for k in traces), *(f"std {k}" for k in traces)),
            rows,
        ),
    ]
    most = {key: [float(np.abs(t.calls[s, 0].outputs[""].values).max()) for s in stages] for key, t in traces.items()}
    said = _sentence(subject, traces, gaps["ours"], most)
    return Finding(said, tables, [Lines("largest |value| by stage", "|value|", stages, most, True)])


def _wrapped(subject: Subject, key: str, encoder: Path, latent: np.ndarray) -> tuple[Trace, np.ndarray]:
    """As the pipelines call it."""
    kwargs = {"latent": Data(latent), "video_encoder": Loaded("video_encoder"), "upsampler": Loaded("upsampler")}
    case = Case(kwargs, function="upsample_video")
    trace, result = subject.run(key, "upsampler", case, also={"video_encoder": encoder})
    return trace, subject.numpy(key, result)


def _variants(subject: Subject, key: str, encoder: Path, latent: np.ndarray, result: np.ndarray) -> dict[str, float]:
    """Name → distance of the pipeline's result to the network called in that way, by the file's statistics."""
    arrays = read_checkpoint(encoder).arrays()
    mean, scale = (
        subject.as_numpy(arrays[f"vae.per_channel_statistics.{n}-of-means"])[None, :, None, None, None]
        for n in ("mean", "std")
    )
    network, found = subject.load(key, "upsampler"), {}
    for name, (before, after) in _VARIANTS.items():
        given = latent * scale + mean if before else latent
        y = subject.numpy(key, network(subject.make(key, Data(given))))
        found[name] = distance((y - mean) / scale if after else y, result)
    return found


def _sentence(subject: Subject, traces: dict[str, Trace], gaps: dict[str, float], most: dict[str, list[float]]) -> str:
    ours = traces["ours"]
    nearest = min(gaps, key=gaps.__getitem__)
    if gaps[nearest] > 0.02:
        return (
            f"upsample_video is none of the ways to call the network (nearest: it {nearest}, {gaps[nearest]:.2g} away)."
        )
    if nearest != next(iter(_VARIANTS)):
        return (
            f"upsample_video {nearest}: the second stage starts from latents of the wrong scale, and the video is grey."
        )
    if said := _per_frame(subject, ours) or _shuffled(ours):
        return said
    if subject.compared:
        first = first_departure(departures(ours, traces["reference"]), tolerance(subject.dtype))
        if first:
            return f"The upsampler leaves the reference at {first[0]} (relative distance {first[1]:.2g})."
    same = ", as in the reference" if subject.compared else ""
    return f"upsample_video {nearest}, and its values stay within ±{max(most['ours']):.3g}{same}."


def _per_frame(subject: Subject, trace: Trace) -> str | None:
    """A norm over (T, H, W) leaves frames with means of their own, a norm over single frames none."""
    for (tap, _), call in trace.calls.items():
        if tap.endswith(("norm1", "norm2", "initial_norm")):
            weight, bias = (subject.tensor(f"{tap}.{n}")[None, :, None, None, None] for n in ("weight", "bias"))
            x, y = call.inputs["x"].values, (call.outputs[""].values - bias) / weight
            groups = [
                v.reshape(v.shape[0], 32, -1, *v.shape[2:]).mean(axis=(2, 4, 5)) for v in (x, y)
            ]  # (B, groups, T)
            if np.abs(groups[1]).max() < 1e-3 < np.ptp(groups[0], axis=-1).max():
                return f"{tap} normalises every frame alone, not time, height and width together: values explode."
    return None


def _shuffled(trace: Trace) -> str | None:
    """Channel (c·p + i)·p + j of a cell becomes its pixel (i, j): torch's order, along one axis, two or three."""
    for (tap, _), call in trace.calls.items():
        leaves = [
            next(x.values for x in part.values() if isinstance(x, Tensor)) for part in (call.inputs, call.outputs)
        ]
        x, y = leaves
        factor = x.shape[1] // y.shape[1] if x.ndim == y.ndim and y.shape[1] else 1
        if tap not in ("upsampler.1", "upsampler.pixel_shuffle") or factor < 2:
            continue
        factors = [b // a for a, b in zip(x.shape[2:], y.shape[2:], strict=True)]
        n = len(factors)
        cells = x.reshape(x.shape[0], y.shape[1], *factors, *x.shape[2:])
        order = [0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i))]
        if distance(cells.transpose(order).reshape(y.shape), y) > 1e-3:
            return f"{tap} puts channels in the wrong places of each cell (pixel-shuffle order): plaid, mosaic, blocks."
    return None
