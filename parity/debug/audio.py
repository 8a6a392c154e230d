"""The audio from its latent on: level by stage, the precision of the vocoder, and the first place that departs."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..declare.inputs import normal
from ..declare.model import Case, Data
from ..tap.trace import Tensor, Trace
from .finding import Finding, Lines, Table
from .measures import departures, first_departure, std, tolerance
from .subject import Subject

SILENT = 1e-3  # root mean square of a waveform in [−1, 1], −60 dB
FRAMES = 3  # latent frames that are decoded


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("audio_decoder", "vocoder")
    traces = {key: _traces(subject, key) for key in subject.sides}
    ours = traces["ours"]
    places = [(part, tap) for part, trace in ours.items() for tap in _stages(trace)]
    rows: list[tuple[Any, ...]] = []
    series: dict[str, list[float]] = {key: [] for key in traces}
    for part, tap in places:
        leaves = {key: _out(by[part], tap) for key, by in traces.items()}
        for key, leaf in leaves.items():
            series[key].append(std(leaf.values))
        rows.append((f"{part} {tap}", *(std(x.values) for x in leaves.values()), *(x.dtype for x in leaves.values())))
    columns = ("stage", *(f"std {key}" for key in traces), *(f"dtype {key}" for key in traces))
    waves = {key: _wave(by["vocoder"]) for key, by in traces.items()}
    levels = [(key, _rms(w), float(np.abs(w).max()), float((np.abs(w) >= 1).mean())) for key, w in waves.items()]
    tables = [
        Table("the waveform", ("side", "rms", "peak", "clipped"), levels),
        Table("level by stage", columns, rows),
    ]
    names = [f"{part.split('_')[0]} {tap}" for part, tap in places]
    first = {key: list(map(float, wave[0, 0, :600])) for key, wave in waves.items()}
    charts = [
        Lines("std by stage", "std", names, series, True),
        Lines("the left channel's first 600 samples", "", [str(i) for i in range(600)], first),
    ]
    return Finding(_sentence(subject, traces, waves["ours"]), tables, charts)


def _traces(subject: Subject, key: str) -> dict[str, Trace]:
    """A random latent through the decoder, and what comes out through the vocoder."""
    sample = normal("debug:audio", 1, 8, FRAMES, 16)
    decoder = subject.trace(key, "audio_decoder", Case({"sample": Data(sample)}))
    mel = decoder.calls["AudioDecoder", 0].outputs[""].values
    argument = "mel_spec" if "bwe" in subject.config["vocoder"] else "x"
    return {"audio_decoder": decoder, "vocoder": subject.trace(key, "vocoder", Case({argument: Data(mel)}))}


def _stages(trace: Trace) -> list[str]:
    """The parts that the networks are made of, in order: the outermost modules."""
    order = [tap for kind, tap, index in trace.events if kind == "out" and not index]
    tops = ("conv_in", "mid", "up", "conv_out", "conv_pre", "ups", "act_post", "conv_post")
    return [
        tap
        for tap in order
        if tap.removeprefix("vocoder.").removeprefix("bwe_generator.").split(".")[0] in tops
        and tap.count(".") <= (2 if tap.startswith(("vocoder.", "bwe_")) else 1)
        and isinstance(_leaf(trace, tap), Tensor)
    ]


def _leaf(trace: Trace, tap: str) -> Tensor | None:
    return next((x for x in trace.calls[tap, 0].outputs.values() if isinstance(x, Tensor)), None)


def _out(trace: Trace, tap: str) -> Tensor:
    """The first tensor that a tap gives."""
    leaf = _leaf(trace, tap)
    assert leaf is not None, f"{tap} gives no tensor"
    return leaf


def _wave(trace: Trace) -> np.ndarray:
    name = next(tap for tap in ("VocoderWithBWE", "Vocoder") if (tap, 0) in trace.calls)
    return _out(trace, name).values


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def _sentence(subject: Subject, traces: dict[str, dict[str, Trace]], wave: np.ndarray) -> str:
    vocoder = traces["ours"]["vocoder"]
    narrow = next((tap for tap in _stages(vocoder) if _out(vocoder, tap).dtype != "float32"), None)
    if narrow:
        dtype = _out(vocoder, narrow).dtype
        return f"The vocoder computes in {dtype} from {narrow} on, which is audible: float32 is needed."
    if not np.isfinite(wave).all():
        return "The waveform is not finite; look for the first NaN with: debug nan."
    if subject.compared and subject.dtype == "float32":  # the reference's vocoder has the model's dtype, ours never
        for part in ("audio_decoder", "vocoder"):
            found = departures(traces["ours"][part], traces["reference"][part])
            if first := first_departure(found, tolerance(subject.dtype)):
                at = f"{first[0]} (relative distance {first[1]:.2g})"
                return f"The {part.replace('_', ' ')} leaves the reference at {at}."
    if _rms(wave) < SILENT:
        return f"The waveform is silent (rms {_rms(wave):.1e})."
    same = "; every stage is as in the reference" if subject.compared and subject.dtype == "float32" else ""
    return f"The audio has rms {_rms(wave):.2g} and the vocoder computes in float32{same}."
