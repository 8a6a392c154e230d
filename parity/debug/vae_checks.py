"""Checks for what is known to go wrong in a video decoder, made on its own runs, without the reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tap.trace import Tensor, Trace
from .measures import distance
from .subject import Subject

Rows = list[tuple[Any, ...]]  # stage, std of each side, r of two latents on each side
SAME = 0.99  # r of two decoded random latents above which they are the same video


def unnormalised(subject: Subject, runs: dict[str, Trace]) -> str | None:
    """How often the file's statistics were applied before the first convolution."""
    trace = runs["random A"]
    mean, scale = (
        subject.tensor(f"vae.per_channel_statistics.{name}-of-means")[None, :, None, None, None]
        for name in ("mean", "std")
    )
    given, arrived = (
        trace.calls["VideoDecoder", 0].inputs["sample"].values,
        trace.calls["conv_in", 0].inputs["x"].values,
    )
    if noise := runs["zero"].calls.get(("randn", 0)):  # every run draws what the first one drew
        given = 0.025 * noise.outputs[""].values + (1 - 0.025) * given
    times = {0: given, 1: given * scale + mean, 2: (given * scale + mean) * scale + mean}
    found = min(times, key=lambda n: distance(arrived, times[n]))
    if distance(arrived, times[found]) > 0.02:
        return (
            "What reaches the decoder's first convolution is not the latent un-normalised with the file's statistics."
        )
    words = {0: "not un-normalised at all: pale and wrong in colour", 2: "un-normalised twice: washed out"}
    return f"Latents are {words[found]} (the statistics are to be applied once)." if found != 1 else None


def untold(runs: dict[str, Trace]) -> str | None:
    none, zero, told = (decoded(runs[f"random A{name}"]) for name in ("", " at timestep 0", " at timestep 0.05"))
    if distance(zero, told) < 1e-4:
        return "The decoder asks for a timestep and none reaches it: 0 and 0.05 give the same video, which is dark."
    if distance(none, told) > 1e-3:
        light = f"brightness {light_of(none):.3f}, {light_of(told):.3f} when told"
        return f"Without a timestep the decoder does not take 0.05 ({light})."
    return None


def alike(rows: Rows, sides: int) -> str | None:
    for row in rows:
        r = row[1 + sides]
        if not r <= SAME:
            what = "constant" if np.isnan(r) else f"alike (r {r:.4f})"
            why = "its weights are not the file's, or the signal is lost"
            return f"Two unlike latents are {what} from {row[0]} on: {why}."
    return None


def misplaced(subject: Subject, trace: Trace) -> str | None:
    """Pixel (4y + q, 4x + r) of channel c is channel (4c + r)·4 + q of what the last convolution gives at (y, x)."""
    p = subject.config["vae"]["patch_size"]
    cells, video = stage_output(trace, "conv_out"), decoded(trace)
    B, C, T, H, W = cells.shape
    x = cells.reshape(B, C // p**2, p, p, T, H, W)  # channel, column, row
    wanted = x.transpose(0, 1, 4, 5, 3, 6, 2).reshape(B, C // p**2, T, H * p, W * p)
    if distance(video, wanted) < 1e-3:
        return None
    return (
        f"Pixels are in the wrong places inside each {p} × {p} patch (unpatchify's axis order): plaid, mosaic, blocks."
    )


def no_bytes(trace: Trace) -> str | None:
    call = trace.calls["decode_video", 0]
    chunk = next(leaf for leaf in call.outputs.values() if isinstance(leaf, Tensor))
    if chunk.dtype != "uint8":
        low, high = chunk.values.min(), chunk.values.max()
        return (
            f"decode_video returns {chunk.dtype} from {low:.2f} to {high:.2f} of shape {chunk.values.shape}, expected "
            "bytes (frames, height, width, 3): an image library says TypeError: Cannot handle this data type."
        )
    if chunk.values.shape[-1] != 3:
        return f"decode_video returns frames of shape {chunk.values.shape}, expected (frames, height, width, 3)."
    return None


def stage_output(trace: Trace, tap: str) -> np.ndarray:
    return _output(trace, tap).values


def decoded(trace: Trace) -> np.ndarray:
    return _output(trace, "VideoDecoder").values


def _output(trace: Trace, tap: str) -> Tensor:
    found = trace.calls[tap, 0].outputs[""]
    assert isinstance(found, Tensor)
    return found


def light_of(video: np.ndarray) -> float:
    return float(np.clip((video + 1) / 2, 0, 1).mean())
