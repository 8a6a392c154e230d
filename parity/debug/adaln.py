"""The modulation: which row of each table is the shift and which the scale, and what the timesteps are multiplied by.

Nothing is taken from the code. What flows into a layer is fitted, channel by channel, as (1 + scale) · norm + shift,
and the fitted scale and shift are looked for among the rows that the file's table and the timestep's embedding make.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..inputs import normal
from ..registry import Case, Data
from ..trace import Call, Tensor, Trace
from .finding import Finding, Lines, Table
from .measures import distance, std
from .subject import Subject, audio_too, contexts_of, transformer_case

SIGMA = 0.725
FITS = 1e-2  # a row is the one if it is no farther than this; two unlike rows are about 1.4 apart
# Row of the shift and row of the scale, by layer. In the audio-video tables the scale comes first.
_ROWS = {"attn1": (0, 1), "ff": (3, 4), "attn2": (6, 7)}
_AV = {"audio_to_video_attn": (1, 0), "video_to_audio_attn": (3, 2)}


@dataclass(frozen=True)
class Place:
    """rows ``(n, D)``: table + embedding. layer, norms ``(…, D)``: what flows in, and what it may be made of."""

    name: str
    shift: int
    scale: int
    rows: np.ndarray
    layer: np.ndarray
    norms: list[np.ndarray]

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), each ``(D,)``, from the norm that explains the layer best."""
        fits = [_line(norm, self.layer) for norm in self.norms if norm.shape == self.layer.shape]
        return min(fits, key=lambda fit: fit[2])[:2]


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
    makers = {"transformer": _transformer_places, "video_decoder": _decoder_places}
    for part, trace in traces.items():
        for place in makers[part](subject, trace):
            yield (place, *place.fitted())


def _sentence(found: list[tuple], multipliers: list[tuple]) -> str:
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


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Channel by channel y = (1 + scale) · x + shift: scale, shift, and what is left of y."""
    x, y = (v.reshape(-1, v.shape[-1]).astype(np.float64) for v in (x, y))
    mx, my = x.mean(axis=0), y.mean(axis=0)
    slope = ((x - mx) * (y - my)).sum(axis=0) / np.maximum(((x - mx) ** 2).sum(axis=0), 1e-30)
    shift = my - slope * mx
    return slope - 1, shift, float(np.linalg.norm(y - slope * x - shift) / max(np.linalg.norm(y), 1e-30))


def _chart(place: Place, scale: np.ndarray, shift: np.ndarray) -> Lines:
    series = {"ours: fitted scale": scale, "reference: the scale's row": place.rows[place.scale], "fitted shift": shift}
    n = min(len(scale), 64)
    return Lines(
        place.name, "value", [str(i) for i in range(n)], {k: list(map(float, v[:n])) for k, v in series.items()}
    )


# ---- where modulation happens -------------------------------------------------------------------------------------


def _transformer_places(subject: Subject, trace: Trace) -> Iterator[Place]:
    blocks = sorted({int(tap.split(".")[1]) for tap, _ in trace.calls if tap.startswith("transformer_blocks.")})
    for i in blocks:
        at = f"transformer_blocks.{i}"
        block = trace.calls[at, 0]
        inside = [(tap, call) for (tap, _), call in trace.calls.items() if tap.startswith(f"{at}.")]
        norms = [_only(call) for tap, call in inside if tap.endswith(".rms_norm")]
        for stream, name in (("", "video"), ("audio_", "audio"))[: 1 + audio_too(subject.config)]:
            table = _parameter(subject, f"{at}.{stream}scale_shift_table")
            rows = table + block.inputs[f"{name}.timesteps"].values[0, 0].reshape(table.shape)
            for layer, (shift, scale) in _ROWS.items():
                if scale < len(rows):
                    x = trace.calls[f"{at}.{stream}{layer}", 0].inputs["x"].values
                    yield Place(f"{at}.{stream}{layer}", shift, scale, rows, x, norms)
        for layer, (shift, scale) in _AV.items() if audio_too(subject.config) else ():
            call, to = trace.calls[f"{at}.{layer}", 0], "video" if layer.startswith("audio") else "audio"
            for argument, name in (("x", to), ("context", {"video": "audio", "audio": "video"}[to])):
                table = _parameter(subject, f"{at}.scale_shift_table_a2v_ca_{name}")[:4]
                rows = table + block.inputs[f"{name}.cross_scale_shift_timestep"].values[0, 0].reshape(table.shape)
                yield Place(f"{at}.{layer}<{argument}", shift, scale, rows, call.inputs[argument].values, norms)
    for stream in ("", "audio_")[: 1 + audio_too(subject.config)]:
        embedded = trace.calls[f"{stream}adaln_single", 0].outputs["1"].values[0]
        rows = _parameter(subject, f"{stream}scale_shift_table") + embedded
        norms = [_only(trace.calls[f"{stream}norm_out", 0])]
        yield Place(f"{stream}proj_out", 0, 1, rows, trace.calls[f"{stream}proj_out", 0].inputs["x"].values, norms)


def _decoder_places(subject: Subject, trace: Trace) -> Iterator[Place]:
    """Channels come second here."""
    for tap, index in list(trace.calls):
        at = tap.removesuffix(".norm1")
        if at == tap or index or f"vae.decoder.{at}.scale_shift_table" not in subject.file.tensors:
            continue
        embedder = f"{at.split('.res_blocks')[0]}.time_embedder"
        table = _parameter(subject, f"{at}.scale_shift_table", "vae.decoder.")
        rows = table + _only(trace.calls[embedder, 0])[0].reshape(table.shape)
        for k in (0, 1):
            x, norm = (
                trace.calls[f"{at}.non_linearity", k].inputs["x"].values,
                _only(trace.calls[f"{at}.norm{k + 1}", 0]),
            )
            yield Place(f"{at}.norm{k + 1}", 2 * k, 2 * k + 1, rows, np.moveaxis(x, 1, -1), [np.moveaxis(norm, 1, -1)])


def _only(call: Call) -> np.ndarray:
    return next(leaf.values for leaf in call.outputs.values() if isinstance(leaf, Tensor))


def _parameter(subject: Subject, path: str, prefix: str = "model.diffusion_model.") -> np.ndarray:
    """A tensor of the file, in float32."""
    return subject.tensor(prefix + path)


def _multipliers(subject: Subject, trace: Trace) -> Iterator[tuple]:
    t = subject.config["transformer"]
    factor = t.get("timestep_scale_multiplier", 1000)
    gate = t.get("av_ca_timestep_scale_multiplier", 1)
    for (tap, index), call in trace.calls.items():
        if tap.endswith("adaln_single") and not index:
            yield tap, float(call.inputs["timestep"].values.ravel()[0]), SIGMA * (gate if "gate" in tap else factor)
