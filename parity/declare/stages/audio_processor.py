"""Waveforms to log-mel spectrograms: against the same steps in float64, with the reference's float32 filters."""

from __future__ import annotations

from typing import Any

from ..model import Case, Counterparts, Data, Obj, Stage, Step
from .audio_vae import CLASSES, waveform

_RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000)
_PROCESSOR = Obj("AudioProcessor", {"target_sample_rate": 16000, "mel_bins": 64, "mel_hop_length": 160, "n_fft": 1024})
_OTHER = Obj("AudioProcessor", {"target_sample_rate": 12000, "mel_bins": 20, "mel_hop_length": 90, "n_fft": 400})


def _audio(name: str, channels: int, samples: int, rate: int, silent: slice = slice(0)) -> Obj:
    """silent: samples of the last channel that are zero."""
    values = waveform(name, channels, samples, rate)
    values[:, -1, silent] = 0.0
    fields = {"waveform": Data(values, "none"), "sampling_rate": rate}
    return Obj("Audio", fields)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    def step(name: str, target: Obj, audio: Obj, method: str) -> Step:
        return Step(name, target, {"audio": audio}, method, exact=False)

    resample = [
        step(f"resample_audio.{rate}", _PROCESSOR, _audio(f"{rate}", 2, rate // 9 + 5, rate), "resample_audio")
        for rate in _RATES
    ]
    mel = [
        step("waveform_to_mel.16000", _PROCESSOR, _audio("mel", 2, 4001, 16000, slice(1200, 3000)), "waveform_to_mel"),
        step("waveform_to_mel.44100", _PROCESSOR, _audio("mel 44100", 2, 9001, 44100), "waveform_to_mel"),
        step("waveform_to_mel.mono", _PROCESSOR, _audio("mono", 1, 19 * 160, 16000), "waveform_to_mel"),
        step("waveform_to_mel.shortest", _PROCESSOR, _audio("short", 2, 513, 16000), "waveform_to_mel"),
        step("waveform_to_mel.other", _OTHER, _audio("other", 2, 3001, 24000), "waveform_to_mel"),
    ]
    # 21 s, and other filters in turn with the first ones: the same rate, and one of each number changed.
    mel.append(step("waveform_to_mel.long", _PROCESSOR, _audio("long", 2, 21 * 22050 + 7, 22050), "waveform_to_mel"))
    for field, value in (("target_sample_rate", 12000), ("mel_bins", 40), ("mel_hop_length", 120), ("n_fft", 512)):
        other = Obj("AudioProcessor", _PROCESSOR.fields | {field: value})
        audio = _audio("turns", 2, 3001, 16000)
        mel.append(step(f"waveform_to_mel.turn.{field}", other, audio, "waveform_to_mel"))
        mel.append(step(f"waveform_to_mel.back.{field}", _PROCESSOR, audio, "waveform_to_mel"))
    for rate in (24000, 48000, 24000):  # 24,000 to 16,000 is 3 : 2, and 48,000 to it is 3 : 1
        audio = _audio(f"turn {rate}", 2, rate // 10, rate)
        resample.append(step(f"resample_audio.turn.{len(resample)}.{rate}", _PROCESSOR, audio, "resample_audio"))
    to_other = _audio("turn other", 2, 2400, 24000)
    resample.append(step("resample_audio.other", _OTHER, to_other, "resample_audio"))
    return {"resample": Case(steps=tuple(resample)), "mel": Case(steps=tuple(mel))}


AUDIO_PROCESSOR = Stage(
    name="audio_processor",
    layout="audio",
    component=None,
    cases=cases,
    classes=CLASSES
    | {
        "AudioProcessor": Counterparts(
            "ltx_core.model.audio_vae:AudioProcessor", "ltx2_mlx.audio_processor:AudioProcessor"
        )
    },
    configs=("any",),
)
