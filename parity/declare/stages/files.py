"""Files of pictures, video and audio: written by both sides and decoded again, and read by both sides.

x264 does not repeat itself with the reference's options. So no bytes and no pixels of a written video are compared: its
pictures are flat blocks of random colours, and the mean of each block is one of 16 levels. Each channel of the audio
has tones of its own, which change with time, and the highest peak of their spectrum is compared.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from ..inputs import normal, uniform
from ..model import Case, Counterparts, Data, Stage, Step
from .differences import reasons

BLOCK = 16  # pixels
LEVELS = 16
PIECES = 3  # of a sound, each with other tones
_TONES = ((440, 1320, 880), (660, 500, 1760))  # Hz; left, right


def blocks(name: str, frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """``(F, H, W, 3)`` bytes in flat blocks, each of three levels' middle values."""
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    level = (uniform(f"files:{name}", frames, rows, columns, 3) * (LEVELS - 4)).astype(np.uint8) + 2
    wide = (level * (256 // LEVELS) + 128 // LEVELS).repeat(BLOCK, 1).repeat(BLOCK, 2)
    return np.ascontiguousarray(wide[:, :height, :width])


def tones(seconds: float, rate: int, loud: float = 1.0) -> np.ndarray:
    """``(2, samples)`` float32: other tones in each channel and each third."""
    count = round(seconds * rate)
    t = np.arange(count) / rate
    piece = np.minimum(np.arange(count) * PIECES // max(count, 1), PIECES - 1)
    waves = [np.sin(2 * np.pi * np.array(hertz)[piece] * t) for hertz in _TONES]
    return (np.stack([0.6 * waves[0], 0.2 * waves[1]]) * loud).astype(np.float32)


def _plain(values: np.ndarray) -> Data:
    return Data(values, "none")


def _video(name: str, frames: int, rate: Fraction, parts: tuple[int, ...] = (), **size: int) -> Step:
    """A video of these numbers of frames a chunk."""
    pixels = blocks(name, frames, **size)
    chunks = tuple(map(_plain, np.split(pixels, np.cumsum(parts or (frames,))[:-1])))
    kwargs = {"step": f"video.{name}", "chunks": chunks, "rate": str(rate), "audio": None, "sampling_rate": 0}
    return Step(f"video.{name}", "written", kwargs)


def _audio(name: str, waveform: np.ndarray, rate: int, frames: int = 9, both: np.ndarray | None = None) -> Step:
    """A video with audio. both: what the reference is given in the place of a single channel."""
    chunks = (_plain(blocks(name, frames)),)
    kwargs = {"step": f"audio.{name}", "chunks": chunks, "rate": "24", "sampling_rate": rate}
    theirs = {"audio": _plain(waveform if both is None else both)}
    return Step(f"audio.{name}", "written", kwargs, on_reference=theirs, on_ours={"audio": _plain(waveform)})


def _written() -> Case:
    stereo, twice = tones(0.75, 24000), np.repeat(tones(0.75, 24000)[:1], 2, 0)
    steps = [
        _video("24", 17, Fraction(24), (5, 1, 11)),
        _video("25", 1, Fraction(25)),
        _video("60", 8, Fraction(60), (7, 1), height=50, width=70),
        _video("30000÷1001", 9, Fraction(30000, 1001), (3, 3, 3), height=96, width=64),
        _video("24000÷1001", 5, Fraction(24000, 1001), (1, 4)),
        _video("3001÷173", 4, Fraction(3001, 173), height=32, width=160),
        _audio("24000", stereo, 24000, 18),
        _audio("48000", tones(0.9, 48000), 48000, 17),  # longer than the video
        _audio("44100", tones(0.5, 44100), 44100, 25),  # shorter
        _audio("16000", tones(0.6, 16000), 16000, 1),
        _audio("loud", tones(0.75, 24000, 2.5), 24000),  # some of it is clipped
        _audio("int16", (tones(0.75, 24000) * 20000).astype(np.int16), 24000),
        _audio("float64", tones(0.75, 24000).astype(np.float64), 24000),
        _audio("one channel", stereo[:1], 24000, both=twice),
    ]
    cut = _video("a cut rate", 9, Fraction(30000, 1001))
    kwargs = cut.kwargs | {"only": ("video.rate", "video.length")}
    steps.append(Step(cut.name, cut.target, kwargs, on_reference={"whole": True}))
    return Case(steps=tuple(steps), half=False)


# Red, green, blue, yellow, cyan, magenta, black, white, greys.
PURE = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255], [0, 0, 0], [255, 255, 255]]
    + [[level] * 3 for level in (1, 64, 128, 254)],
    np.uint8,
)


def _colours() -> Case:
    """Flat blocks of any colour, without loss: the planes that the encoder gets, each beside what an independent
    computation makes of the reference's pictures."""
    pure = PURE[np.arange(24) % len(PURE)].reshape(1, 4, 6, 3).repeat(BLOCK, 1).repeat(BLOCK, 2)
    noise = (uniform("files:colours", 3, 4, 6, 3) * 256).astype(np.uint8).repeat(BLOCK, 1).repeat(BLOCK, 2)
    steps = []
    for codec in ("h264", "hevc", "prores"):
        kwargs = {"chunks": (_plain(pure), _plain(noise)), "codec": codec}
        steps.append(Step(f"colours.{codec}", "colours", kwargs))
    return Case(steps=tuple(steps), half=False)


def _outputs() -> Case:
    """Frames and audio in files of their own, which the reference does not write."""
    steps = []
    for name, parts in {"one": (1,), "three chunks": (4, 1, 6)}.items():
        pixels = blocks(f"png:{name}", sum(parts), 18, 26)
        chunks = tuple(map(_plain, np.split(pixels, np.cumsum(parts)[:-1])))
        steps.append(Step(f"frames.{name}", "frames", {"chunks": chunks}))
    waves = {"24000": tones(0.1, 24000), "48000": tones(0.05, 48000, 1.9)}
    waves["int16"] = (tones(0.1, 24000) * 9000).astype(np.int16)
    for name, waveform in waves.items():
        rate = 48000 if name == "48000" else 24000
        steps.append(Step(f"wav.{name}", "wav", {"waveform": _plain(waveform), "sampling_rate": rate}))
    return Case(steps=tuple(steps), half=False)


def _image(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([y * 255 // height, x * 255 // width, (x * y) % 251, (x + y) % 256], axis=-1)
    return np.asarray((waves + uniform(f"image:{height}", height, width, 4) * 12).clip(0, 255), np.uint8)


_SIZES = (  # from, to
    *(((37, 53), (64, 96)), ((53, 37), (64, 96)), ((481, 851), (256, 384)), ((300, 4001), (31, 77))),
    *(((2, 3), (33, 17)), ((1, 1), (5, 9)), ((33, 65), (33, 65)), ((34, 65), (31, 65)), ((7, 1999), (11, 4001))),
)


def _pictures() -> Case:
    """name: (size, suffix, channels), at each compression."""
    kinds: dict[str, tuple[tuple[int, int], str, int]] = {
        "rgb": ((97, 151), "png", 3),
        "opaque": ((64, 96), "png", 4),
        "jpeg": ((120, 81), "jpg", 3),
        "large": ((481, 851), "png", 3),
        "small": ((20, 12), "png", 3),
    }
    steps = []
    for name, (size, suffix, channels) in kinds.items():
        pixels = _image(*size)[..., :channels]
        pixels[..., 3:] = 255
        kwargs = {"pixels": _plain(pixels), "suffix": suffix}
        steps.append(Step(f"picture.{name}", "picture", kwargs))
        for crf in (0, 33, 12) if name == "rgb" else (33,):
            sized = kwargs | {"crf": crf, "height": 64, "width": 96}
            steps.append(Step(f"picture.{name}.crf {crf}", "conditioning", sized, exact=False))
    # Every alpha over every other level, on white.
    level, alpha = np.meshgrid(np.arange(0, 256, 5), np.arange(256))
    veiled = np.stack([level, 255 - level, level // 2, alpha], axis=-1).astype(np.uint8)
    steps.append(Step("picture.on white", "on_white", {"pixels": _plain(veiled)}))
    for source, target in _SIZES:
        frames = _plain(normal(f"resized:{source}", 2, *source, 3, scale=60.0))
        kwargs = {"pixels": frames, "height": target[0], "width": target[1]}
        steps.append(Step(f"resized.{source[0]}x{source[1]}", "resized", kwargs, exact=False))
    for side in (37, 64):
        kwargs = {"pixels": _plain(normal("aspect", 41, 67, 3, scale=60.0)), "side": side}
        steps.append(Step(f"aspect.{side}", "aspect", kwargs, exact=False))
    return Case(steps=tuple(steps), half=False)


def _reading() -> Case:
    """The fixtures' clip and audio, and a file without counts."""
    steps = []
    for cap in (1, 6, 17, 40):
        steps.append(Step(f"clip.{cap}", "clip", {"cap": cap}))
    for cap, height, width in ((5, 64, 32), (9, 32, 96), (17, 48, 80)):
        size = _plain(np.array((cap, height, width, 3)))  # of the result
        steps.append(Step(f"clip.{height}x{width}", "clip_conditioning", {"size": size}, exact=False))
    for rate in ("24", "30000/1001", "25/2"):
        name = f"metadata.{rate.replace('/', '÷')}"
        pixels = _plain(blocks("metadata", 7, 50, 70))
        steps.append(Step(name, "metadata", {"step": name, "rate": rate, "pixels": pixels}))
    windows = ((0.0, None), (0.0, 0.25), (0.1, None), (0.123, 0.12345), (0.3, 9.0), (0.5, 0.01), (8.0, None))
    for file in ("audio.wav", "clip.mp4"):
        for start, duration in windows:
            name = f"sound.{file.rpartition('.')[2]}.{start:g}.{'all' if duration is None else f'{duration:g}'}"
            steps.append(Step(name, "sound", {"file": file, "start": start, "duration": duration}))
    return Case(steps=tuple(steps), half=False)


# What files say of themselves beside pixels and samples: see sides/odd_media.py.
_ODD_PICTURES = (
    *("upright", "turned by 90°", "mirrored", "transparent"),
    *("grey", "palette", "CMYK", "16 bits", "profile"),
)
_ODD_CLIPS = ("plain clip", "turned clip", "wide pixels", "transparent clip", "edit list", "cover")
_ODD_SOUNDS: tuple[tuple[str, float, float | None], ...] = (
    *(("stereo", 0.0, None), ("six channels", 0.0, None), ("8 bits", 0.0, None), ("no duration", 0.0, None)),
    *(("late", 0.0, 1.0), ("codec's delay", 0.5, 0.5), ("cover", 0.0, 0.5)),
)


def _odd() -> Case:
    """Files that the reference reads as they are stored, and ours as a viewer shows them."""
    steps = [Step(f"odd.{kind}", "odd_picture", {"step": f"odd.{kind}", "kind": kind}) for kind in _ODD_PICTURES]
    steps += [Step(f"odd.{kind}", "odd_clip", {"step": f"odd.{kind}", "kind": kind}) for kind in _ODD_CLIPS]
    for kind, start, duration in _ODD_SOUNDS:
        name = f"odd.heard.{kind}"
        steps.append(Step(name, "odd_sound", {"step": name, "kind": kind, "start": start, "duration": duration}))
    for rate in (37800, 192000, 32000):
        pixels, waveform = _plain(blocks(f"odd:{rate}", 12)), _plain(tones(0.5, rate))
        kwargs = {"step": f"odd.rate.{rate}", "pixels": pixels, "waveform": waveform, "rate": rate}
        steps.append(Step(f"odd.rate.{rate}", "odd_rate", kwargs))
    return Case(steps=tuple(steps), half=False)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    ordinary = {
        "written": _written(),
        "colours": _colours(),
        "outputs": _outputs(),
        "pictures": _pictures(),
        "reading": _reading(),
    }
    return {**ordinary, "odd": _odd()}


@cache
def _different() -> dict[str, str]:
    return reasons(step.name for case in cases({}).values() for step in case.steps)


_FUNCTIONS = (
    *("written", "colours", "frames", "wav", "picture", "on_white", "conditioning"),
    *("resized", "aspect", "clip", "clip_conditioning"),
    *("odd_picture", "odd_clip", "odd_sound", "odd_rate"),
)
FILES = Stage(
    name="files",
    component=None,
    cases=cases,
    classes={
        name: Counterparts(f"parity.sides.torch.files:{name}", f"parity.sides.mlx_files:{name}")
        for name in (*_FUNCTIONS, "metadata", "sound")
    },
    configs=("any",),
    different=_different,
)
