"""The audio VAE: every leaf module of both halves, and the statistics around them as function taps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import normal
from ..model import Case, Counterparts, Data, FunctionTap, Loaded, Obj, Stage

_REF, _OURS = "ltx_core.model.audio_vae.audio_vae", "ltx2_mlx.audio_vae"
CONFIGS = (
    "tiny-2.0",
    "tiny-2.3",
    "tiny-2.0-audio-wide",
    "tiny-2.3-audio-group",
    "tiny-2.0-audio-width",
    "tiny-2.0-audio-compat",
    "tiny-2.5-audio-vae",
)
CLASSES = {
    "Audio": Counterparts("ltx_core.types:Audio", "ltx2_mlx.types:Audio"),
    "encode_audio": Counterparts(f"{_REF}:encode_audio", f"{_OURS}:encode_audio"),
    "decode_audio": Counterparts(f"{_REF}:decode_audio", f"{_OURS}:decode_audio"),
}


def _method(cls: str, name: str, **flags: Any) -> FunctionTap:
    return FunctionTap(name, Counterparts(f"{_REF}:{cls}.{name}", f"{_OURS}:{cls}.{name}"), **flags)


def _statistics(name: str) -> FunctionTap:
    cls = f"PerChannelStatistics.{name}"
    return FunctionTap(name, Counterparts(f"ltx_core.model.audio_vae.ops:{cls}", f"{_OURS}:{cls}"))


def _params(config: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = config["audio_vae"]["model"]["params"]["ddconfig"]
    return params


def mel(name: str, batch: int, frames: int, bins: int) -> np.ndarray:
    """``(B, 2, T, F)`` with the range of a log-mel spectrogram, other content left and right."""
    return 2 * normal(f"mel:{name}", batch, 2, frames, bins) - 4


def waveform(name: str, channels: int, samples: int, rate: int) -> np.ndarray:
    """``(1, channels, samples)``: a rising tone, another in each channel, under noise."""
    t = np.arange(samples) / rate
    tones = [np.sin(2 * np.pi * (220 + 330 * c) * t * (1 + t)) for c in range(channels)]
    return (0.4 * np.stack(tones)[None] + 0.05 * normal(f"wave:{name}", 1, channels, samples)).astype(np.float32)


_LONG = ("conv_in", "conv_out", "mid.block_1", "*normalize*", "Audio?ncoder", "Audio?ecoder")


def encoder_cases(config: dict[str, Any]) -> dict[str, Case]:
    params = _params(config)
    bins = params["mel_bins"]
    narrow = (
        params["ch"] < 128
    )  # half precision and short inputs at full width would say the same for ten times as long
    result = {"base": Case({"spectrogram": Data(mel("base", 2, 13, bins))}, half=narrow)}
    if not narrow:
        return result
    for frames in (1, 4) if params["causality_axis"] == "height" else (4,):
        result[f"frames-{frames}"] = Case({"spectrogram": Data(mel(f"{frames}", 1, frames, bins))}, half=False)
    if params["causality_axis"] == "height" and not params["attn_resolutions"]:
        result["long"] = Case({"spectrogram": Data(mel("long", 1, 2103, bins))}, half=False, taps=_LONG)
    # From a waveform on: resampled, to a spectrogram, to a latent.
    audio = Obj("Audio", {"waveform": Data(waveform("encode", 2, 5003, 44100), "none"), "sampling_rate": 44100})
    kwargs = {"audio": audio, "audio_encoder": Loaded("audio_encoder")}
    result["waveform"] = Case(kwargs, function="encode_audio", half=False)
    return result


def decoder_cases(config: dict[str, Any]) -> dict[str, Case]:
    params = _params(config)
    channels, bins = params["z_channels"], params["ch"] // params["z_channels"]
    narrow = params["ch"] < 128
    result = {"base": Case({"sample": Data(normal("latent:base", 2, channels, 3, bins))}, half=narrow)}
    if narrow:
        if params["causality_axis"] == "height" and not params["attn_resolutions"]:
            long = {"sample": Data(normal("latent:long", 1, channels, 527, bins))}  # 21 s
            result["long"] = Case(long, half=False, taps=_LONG)
        result["frames-1"] = Case({"sample": Data(normal("latent:1", 1, channels, 1, bins))}, half=False)
    return result


AUDIO_ENCODER = Stage(
    name="audio_encoder",
    layout="audio",
    component="audio_encoder",
    cases=encoder_cases,
    classes=CLASSES,
    configs=CONFIGS,
    functions=(
        _method("AudioEncoder", "_normalize_latents"),
        _statistics("normalize"),
        FunctionTap(
            "waveform_to_mel",
            Counterparts(
                "ltx_core.model.audio_vae.ops:AudioProcessor.waveform_to_mel",
                "ltx2_mlx.audio_processor:AudioProcessor.waveform_to_mel",
            ),
            configs=("tiny-2.0-audio-compat", "tiny-2.0-audio-wide", "tiny-2.0-audio-width", "tiny-2.3-audio-group"),
        ),
    ),
    probes=("*norm1", "*norm2", "*norm_out", "*attn_*norm"),
)

AUDIO_DECODER = Stage(
    name="audio_decoder",
    layout="audio",
    component="audio_decoder",
    cases=decoder_cases,
    classes=CLASSES,
    configs=CONFIGS,
    functions=(
        _method("AudioDecoder", "_denormalize_latents"),
        _method("AudioDecoder", "_adjust_output_shape"),
        _statistics("un_normalize"),
    ),
    probes=("*norm1", "*norm2", "*norm_out", "*attn_*norm"),
)
