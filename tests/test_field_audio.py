"""Audio as people have it: read as a player plays it, or refused in one sentence with the name."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest
from media_files import corners, heard, refused, tone, write_audio, write_clip

from ltx2_mlx import media
from ltx2_mlx.errors import LTX2Error
from ltx2_mlx.media.audio import resampled
from ltx2_mlx.media.writing import aac_rate
from ltx2_mlx.types import Audio


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_more_than_two_channels_are_mixed_down_to_stereo(tmp_path: Path, channels: int) -> None:
    samples = np.stack([tone(9600, 48000, 300 + 100 * i) / 2 for i in range(channels)])
    path = write_audio(tmp_path / "a.wav", samples, 48000, "pcm_s16le")
    result, info = heard(path), media.probe(path)
    assert result.shape == (min(channels, 2), 9600) and info.channels == channels and info.samples == 9600
    assert abs(result).max() > 0.05 and (channels < 2 or abs(result[0] - result[1]).max() > 0.05)
    assert any(f"{channels} channels" in note for note in info.notes) is (channels > 2)


@pytest.mark.parametrize(
    ("codec", "error"),
    [("pcm_u8", 2**-7), ("pcm_s24le", 2**-22), ("pcm_f32le", 0), ("pcm_f64le", 0), ("pcm_s32le", 2**-22)],
)
def test_every_sample_format_is_centred_on_zero(tmp_path: Path, codec: str, error: float) -> None:
    samples = np.stack([tone(4800, 48000), tone(4800, 48000, 700)])
    result = heard(write_audio(tmp_path / "a.wav", samples, 48000, codec))
    assert abs(result - samples).max() <= error and abs(result.mean()) < 0.01


@pytest.mark.parametrize(
    ("rate", "written"), [(37800, 44100), (192000, 96000), (24000, 24000), (4000, 7350), (48001, 64000)]
)
def test_audio_at_a_rate_that_aac_does_not_take_is_resampled(tmp_path: Path, rate: int, written: int) -> None:
    assert aac_rate(rate) == written
    samples = np.stack([tone(rate // 2, rate), tone(rate // 2, rate, 700)])
    media.encode_video([np.stack([corners()] * 12)], 24, Audio(mx.array(samples), rate), tmp_path / "a.mp4")
    info = media.probe(tmp_path / "a.mp4")
    assert info.sample_rate == written and abs(info.samples - written / 2) <= written / 500
    kept = heard(tmp_path / "a.mp4")[:, : written // 2]
    for channel, pitch in enumerate((440, 700)):
        expected = tone(kept.shape[1], written, pitch)
        assert np.corrcoef(kept[channel][500:-500], expected[500:-500])[0, 1] > 0.99


def test_resampling_keeps_the_place_of_every_sample() -> None:
    for rate, new in ((37800, 44100), (192000, 96000)):
        result = resampled(tone(rate // 4, rate)[None], rate, new)[0]
        assert abs(len(result) - new / 4) <= 40
        expected = tone(len(result), new)
        assert abs(result - expected)[200:-200].max() < 1e-2


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.ogg", "libopus"),
        ("a.mka", "aac"),
        ("a.flac", "flac"),
        ("a.aac", "aac"),
    ],
)
def test_a_window_counts_from_the_first_sample_whatever_the_codecs_delay(tmp_path: Path, name: str, codec: str) -> None:
    """A chirp: each moment has a pitch of its own."""
    rate = 48000
    t = np.arange(2 * rate) / rate
    chirp = (0.5 * np.sin(2 * np.pi * (300 + 600 * t) * t)).astype(np.float32)
    path = write_audio(tmp_path / name, np.stack([chirp, chirp]), rate, codec)
    whole = heard(path)[0]
    # An .aac does not state its delay: its first sample is silence. Matroska rounds to milliseconds.
    late, exact = (1024 if name == "a.aac" else 0), (52 if name == "a.mka" else 4)
    for start in (0.0, 0.5, 1.2):
        piece, at = heard(path, start, 0.3)[0], round(start * rate)
        assert len(piece) == round(0.3 * rate)
        reference = whole[at : at + len(piece)]
        if name != "a.mka":
            assert np.corrcoef(piece[4000:], reference[4000:])[0, 1] > 0.99, (start, name)
        lags = [
            np.corrcoef(piece[4000:9000], chirp[at - late + 4000 + lag :][:5000])[0, 1] for lag in range(-60, 61, 4)
        ]
        assert abs(4 * (int(np.argmax(lags)) - 15)) <= exact, (name, start, lags)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_audio_that_begins_after_the_picture_is_preceded_by_silence(tmp_path: Path, kind: str) -> None:
    path = write_clip(tmp_path / f"late.{kind}", [corners()] * 24, audio=24000, audio_delay=12000)
    result = heard(path)[0]
    assert abs(result[:11000]).max() < 1e-3 < 0.3 < abs(result[13000:20000]).max()
    assert abs(heard(path, 0.6, 0.2)[0]).max() > 0.3


def test_audio_alone_that_begins_late_is_heard_at_once(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "late.mka", tone(24000)[None], 24000, "pcm_s16le", delay=12000)
    result = heard(path, 0.0, 0.5)[0]
    assert len(result) == 12000 and np.corrcoef(result, tone(12000))[0, 1] > 0.99


def test_a_pause_within_the_audio_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=24000, layout="mono")
        for start in (0, 24000):
            frame = av.AudioFrame.from_ndarray(tone(12000)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 24000, start, Fraction(1, 24000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = heard(path)[0]
    assert len(result) == 36000 and abs(result[12100:23900]).max() == 0 and abs(result[24100:]).max() > 0.3


def test_nan_in_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        samples = np.stack([tone(4800, 48000)] * 2)
        samples[1, 4000] = value
        path = write_audio(tmp_path / "a.wav", samples, 48000, "pcm_f32le")
        assert "NaN or infinite" in refused(lambda path=path: media.probe(path), path)
        assert "NaN or infinite" in refused(lambda path=path: media.decode_audio_from_file(path), path)


def test_a_wav_of_no_samples_is_no_audio(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24000)
    assert media.decode_audio_from_file(tmp_path / "a.wav") is None
    for window in ((float("nan"), None), (float("inf"), None), (0, float("nan")), (-1, None)):
        with pytest.raises(LTX2Error, match="expected a start"):
            media.decode_audio_from_file(tmp_path / "a.wav", *window)
