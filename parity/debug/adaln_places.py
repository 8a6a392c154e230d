"""Where modulation happens: each place with what flows in there, and the rows that it may be modulated by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..tap.trace import Call, Tensor, Trace
from .subject import Subject, audio_too

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


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Channel by channel y = (1 + scale) · x + shift: scale, shift, and what is left of y."""
    x, y = (v.reshape(-1, v.shape[-1]).astype(np.float64) for v in (x, y))
    mx, my = x.mean(axis=0), y.mean(axis=0)
    slope = ((x - mx) * (y - my)).sum(axis=0) / np.maximum(((x - mx) ** 2).sum(axis=0), 1e-30)
    shift = my - slope * mx
    return slope - 1, shift, float(np.linalg.norm(y - slope * x - shift)) / max(float(np.linalg.norm(y)), 1e-30)


def transformer_places(subject: Subject, trace: Trace) -> Iterator[Place]:
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
                yield Place(f"{at}.{layer}:{argument}", shift, scale, rows, call.inputs[argument].values, norms)
    for stream in ("", "audio_")[: 1 + audio_too(subject.config)]:
        embedded = trace.calls[f"{stream}adaln_single", 0].outputs["1"].values[0]
        rows = _parameter(subject, f"{stream}scale_shift_table") + embedded
        norms = [_only(trace.calls[f"{stream}norm_out", 0])]
        yield Place(f"{stream}proj_out", 0, 1, rows, trace.calls[f"{stream}proj_out", 0].inputs["x"].values, norms)


def decoder_places(subject: Subject, trace: Trace) -> Iterator[Place]:
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
