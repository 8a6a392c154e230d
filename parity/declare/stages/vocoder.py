"""The vocoders: every leaf module, and the spectrogram between the two networks of 2.3 as a function tap."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..inputs import normal
from ..model import Case, Counterparts, Data, FunctionTap, Loaded, Stage
from .audio_vae import CLASSES, mel

# 2.5's audio VAE and vocoder are 2.3's, in a file of their own.
BWE = ("tiny-2.3", "tiny-2.3-audio-group", "tiny-2.5-audio-vae")
_MEL_STFT = "MelSTFT.mel_spectrogram"


def cases(config: dict[str, Any]) -> dict[str, Case]:
    section = config["vocoder"]
    name, low = ("mel_spec", section["vocoder"]) if "bwe" in section else ("x", section)
    frames = 5 if prod(low["upsample_rates"]) > 100 else 11  # not whole frames of the extension's own spectrogram
    half = "bwe" not in section or frames == 11  # the large one in half precision is parity/tests/test_audio.py's
    result = {"base": Case({name: Data(mel("vocoder", 2, frames, 64))}, half=half)}
    if half and "bwe" in section:  # the small one: tens of seconds of its spectrogram
        taps = ("*conv_pre", "*conv_post", "*mel_spectrogram", "*resampler", "Vocoder*")
        result["long"] = Case({name: Data(mel("vocoder long", 1, 1031, 64))}, half=False, taps=taps)
        # What the extension hears of near silence, and of what follows it.
        quiet = normal("vocoder quiet", 1, 2, 1600) * np.where(np.arange(1600) < 900, 1e-7, 0.3)
        kwargs = {"audio": Data(quiet.astype(np.float32))}
        result["quiet"] = Case(kwargs, method="_compute_mel", half=False, taps=("*mel_spectrogram",))
    return result


VOCODER = Stage(
    name="vocoder",
    layout="audio",
    component="vocoder",
    cases=cases,
    classes=CLASSES,
    configs=("tiny-2.0", "tiny-2.3", "tiny-2.0-audio-wide", "tiny-2.3-audio-group", "tiny-2.5-audio-vae"),
    functions=(
        FunctionTap(
            "mel_spectrogram",
            Counterparts(f"ltx_core.model.audio_vae.vocoder:{_MEL_STFT}", f"ltx2_mlx.vocoder:{_MEL_STFT}"),
            configs=BWE,
        ),
    ),
    float32=True,
    angles={"mel_stft.stft_fn.1": "0", "mel_stft.mel_spectrogram.2": "1"},
    idle=dict.fromkeys(BWE, ("mel_stft.stft_fn.inverse_basis",)),
)


def _decode_cases(config: dict[str, Any]) -> dict[str, Case]:
    """Cases that go from a latent to a waveform, through both networks: of one sample, and of two."""
    networks = {"audio_decoder": Loaded("audio_decoder"), "vocoder": Loaded("vocoder")}
    one, two = ({"latent": Data(normal("latent:decode", *size, 16))} | networks for size in ((1, 8, 2), (2, 8, 1)))
    return {
        "base": Case(one, function="decode_audio", half=False),
        "two": Case(two, function="decode_audio", half=False, taps=("*decode_audio",)),
    }


DECODE_AUDIO = Stage(
    name="decode_audio",
    layout="audio",
    component="vocoder",
    also={"audio_decoder": ""},
    cases=_decode_cases,
    classes=CLASSES,
    configs=("tiny-2.0",),
    functions=(FunctionTap("decode_audio", CLASSES["decode_audio"]),),
    float32=True,
)
