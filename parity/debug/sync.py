"""The view of the lengths of audio and picture: positions of the tokens, latent frames, samples, and a muxed file."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ltx2_mlx import media
from ltx2_mlx.errors import InputError, LTX2Error
from ltx2_mlx.types import Audio

from ..declare.model import Obj
from .finding import Finding, Lines, Table
from .subject import Subject

LATENT_FRAME = 0.04  # seconds of an audio latent frame: 4 · 160 / 16000; the first one lasts 0.01, one mel frame
_RATE = 24000  # of the audio that is muxed
_MOST = 2001  # frames: the muxed file is made in memory


@dataclass(frozen=True)
class Clock:
    """Bounds of the tokens in seconds, ``(T, 2)``: of the video's latent frames and the audio's."""

    video: np.ndarray
    audio: np.ndarray


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    if not (1 <= args.frames <= _MOST and 0.1 <= args.fps <= 1000):
        raise InputError(f"--frames is from 1 to {_MOST:,}, and --fps from 0.1 to 1000")
    clocks = {key: _clock(subject, key, args.frames, args.fps) for key in subject.sides}
    duration = args.frames / args.fps
    if not all(len(clock.audio) for clock in clocks.values()):
        raise InputError(f"{args.frames} frames at {args.fps:.6g} a second: shorter than a latent frame of audio")
    rows = []
    for key, clock in clocks.items():
        inner = np.diff(clock.audio[1:], axis=1) if len(clock.audio) > 1 else np.array([np.nan])
        rows += [
            (
                key,
                "picture",
                len(clock.video),
                float(clock.video[-1, 1]),
                float(clock.video[0, 1]),
                float(np.diff(clock.video[-1])[0]),
            ),
            (key, "audio", len(clock.audio), float(clock.audio[-1, 1]), float(clock.audio[0, 1]), float(inner.mean())),
        ]
    muxed, said = _muxed(args.frames, args.fps)
    columns = ("side", "stream", "latent frames", "ends at (s)", "first lasts", "last lasts")
    title = f"{args.frames} frames at {args.fps:g} a second: {duration:.4f} s"
    tables = [Table(title, columns, rows), *([muxed] if muxed else [])]
    n = len(clocks["ours"].video)
    series = {f"{key}, picture": list(map(float, c.video[:, 0])) for key, c in clocks.items()}
    charts = [Lines("where the video's latent frames start", "s", [str(i) for i in range(n)], series)]
    names = [str(i) for i in range(len(clocks["ours"].audio))]
    charts.append(
        Lines(
            "how long each of the audio's latent frames lasts",
            "s",
            names,
            {k: list(map(float, np.diff(c.audio)[:, 0])) for k, c in clocks.items()},
        )
    )
    return Finding(_clock_says(clocks["ours"], duration, args.fps) or said or _fine(clocks, duration), tables, charts)


def _fine(clocks: dict[str, Clock], duration: float) -> str:
    ours = clocks["ours"]
    same = ""
    if "reference" in clocks:
        other = clocks["reference"]
        equal = all(np.array_equal(getattr(ours, n), getattr(other, n)) for n in ("video", "audio"))
        same = ", at the reference's positions" if equal else ", but not at the reference's positions"
    return f"Picture and audio are both {duration:.2f} s long (to half a latent frame of audio) and in step{same}."


def _clock_says(clock: Clock, duration: float, fps: float) -> str | None:
    end = float(clock.video[-1, 1])
    if not np.isclose(end, duration, rtol=1e-3):
        counted = f"{fps * duration / end:.4g} frames a second for {fps:g}"
        return f"The picture's positions end at {end:.3f} s for {duration:.3f} s: they count {counted}."
    frames = round(duration / LATENT_FRAME)
    if len(clock.audio) != frames:
        return (
            f"The audio has {len(clock.audio)} latent frames where {duration:.3f} s round to {frames}: "
            f"it is {(len(clock.audio) - frames) * LATENT_FRAME:+.2f} s longer than the picture."
        )
    lasts = np.diff(clock.audio)[:, 0]
    if not (np.isclose(lasts[0], 0.01, atol=1e-4) and np.allclose(lasts[1:], LATENT_FRAME, atol=1e-4)):
        return (
            f"The audio's positions are shifted: its first latent frame lasts {lasts[0]:.2f} s for 0.01 (the causal "
            f"offset is 4i − 3 mel frames), and it ends at {clock.audio[-1, 1]:.2f} s."
        )
    return None


def _clock(subject: Subject, key: str, frames: int, fps: float) -> Clock:
    """The clock of one side, from the same functions as the pipelines call."""
    size = {"batch": 1, "frames": frames, "height": 64, "width": 64, "fps": fps}
    pixels = subject.make(key, Obj("VideoPixelShape", size))
    video = subject.at(key, "VideoLatentShape.from_pixel_shape")(pixels)
    audio = subject.at(key, "AudioLatentShape.from_video_pixel_shape")(pixels)
    tools = (
        subject.at(key, "VideoLatentTools")(
            subject.make(key, Obj("VideoLatentPatchifier", {"patch_size": 1})), video, fps
        ),
        subject.at(key, "AudioLatentTools")(subject.make(key, Obj("AudioPatchifier", {"patch_size": 1})), audio),
    )
    dtype = subject.sides[key].dtype("float32")
    own = {"device": "cpu"} if key == "reference" else {}
    states = [tool.create_initial_state(dtype=dtype, **own) for tool in tools]
    bounds = [subject.numpy(key, state.positions)[0, 0] for state in states]
    cells = video.height * video.width
    return Clock(bounds[0][::cells], bounds[1])


def _muxed(frames: int, fps: float) -> tuple[Table | None, str | None]:
    """A small clip with audio, written and read back: each stream must keep its length."""
    duration = frames / fps
    samples = round(duration * _RATE)
    pictures = (np.arange(frames * 64 * 64 * 3) % 251).astype(np.uint8).reshape(frames, 64, 64, 3)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / _RATE).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        try:
            media.encode_video([pictures], fps, Audio(mx.array(np.stack([tone, tone])), _RATE), path)
            info = media.probe(path)
        except LTX2Error as error:
            return None, f"Writing a clip with audio fails: {error}"
    rows = [("frames", frames, info.frames), ("samples", samples, info.samples)]
    return Table("written and read back", ("", "given", "in the file"), rows), None
