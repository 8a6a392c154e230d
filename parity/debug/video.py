"""A finished video: noise or structure, grey, dark or washed out. Needs no checkpoint and no reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ltx2_mlx import media
from ltx2_mlx.errors import InputError

from ..judge.lines import printable
from .finding import Chart, Finding, Lines, Pictures, Table
from .measures import NOISE_RATIO, autocorrelation, dc_ratio, local_variance_ratio

# Reported for the 19B model, in bytes: brightness 12 % when the decoder is not told its timestep, 32–35 % when it is;
# pixel std 8.6 for a grey or washed-out video, 35–38.6 for a right one, range 93–230. The borders lie between the two.
DARK = 0.2  # brightness, 0 to 1
FLAT = 16.0  # std in bytes
STILL = 1e-3  # change from frame to frame, as a share of the std, below which it is one picture
_FRAMES, _BYTES = 257, 1 << 28  # that are read at most


def look(args: argparse.Namespace) -> Finding:
    video = _video(args.file)
    maps = video.transpose(0, 3, 1, 2).astype(np.float64)  # (F, 3, H, W)
    by_frame = {
        "brightness": [float(frame.mean() / 255) for frame in maps],
        "std / 64": [float(frame.std() / 64) for frame in maps],
        "autocorrelation": [autocorrelation(frame) for frame in maps],
        "local-variance ratio": [local_variance_ratio(frame) for frame in maps],
    }
    change = float(np.abs(np.diff(maps, axis=0)).mean() / max(maps.std(), 1e-9)) if len(maps) > 1 else None
    low, high = np.percentile(maps, (1, 99))
    overall = [
        (
            "brightness (mean / 255)",
            float(maps.mean() / 255),
            f"dark below {DARK:g} (reported: 0.12 dark, 0.32–0.35 right)",
        ),
        ("std", float(maps.std()), f"flat below {FLAT:g} (reported: 8.6 grey, 35–38.6 right)"),
        (
            "range, 1st to 99th percentile",
            f"{low:.0f} … {high:.0f}",
            "reported: 93 … 230 grey, 60 … 251 right, 101 … 208 noise",
        ),
        ("autocorrelation of neighbours", autocorrelation(maps), "near 0: noise; near 1: a picture"),
        ("local-variance ratio", local_variance_ratio(maps), f"noise above {NOISE_RATIO:g} (white noise: 1.13)"),
        ("DC ratio (energy in the mean)", dc_ratio(maps), "reported by another measure: 0.77 noise, 0.48 right"),
        ("change from frame to frame / std", change, f"one still picture below {STILL:g}"),
    ]
    channels = [
        (name, float(maps[:, i].mean()), float(maps[:, i].std())) for i, name in enumerate(("red", "green", "blue"))
    ]
    tables = [
        Table(
            f"{args.file}: {len(video)} frames of {video.shape[2]} × {video.shape[1]}",
            ("", "found", "what to expect"),
            overall,
        ),
        Table("channels", ("", "mean", "std"), channels),
    ]
    shown = sorted({0, len(video) // 2, len(video) - 1})
    histogram = {
        name: np.histogram(maps[:, i], 64, (0, 256))[0].astype(float).tolist()
        for i, name in enumerate(("red", "green", "blue"))
    }
    charts: list[Chart] = [
        Pictures("frames", {f"frame {i}": video[i] for i in shown}),
        Lines("by frame", "", [str(i) for i in range(len(video))], by_frame),
        Lines("how often each value occurs", "pixels", [str(4 * i) for i in range(64)], histogram),
    ]
    return Finding(_sentence(maps, change), tables, charts)


def _video(path: Path) -> np.ndarray:
    """``(F, H, W, 3)`` uint8: the first frames, as many as fit ``_BYTES``. Raises InputError."""
    frames: list[np.ndarray] = []
    for frame in _frames(path):
        if frames and frame.shape != frames[0].shape:
            raise InputError(f"{path}: frames of different sizes, {frames[0].shape[1::-1]} and {frame.shape[1::-1]}")
        if min(frame.shape[:2]) < 2:
            raise InputError(f"{path}: frames of {frame.shape[1]} × {frame.shape[0]}, too small to say anything of")
        frames.append(frame)
        if (len(frames) + 1) * frame.nbytes > _BYTES:
            break
    if not frames:
        raise InputError(f"{path}: no frames in it")
    return np.stack(frames)


def _sentence(maps: np.ndarray, change: float | None) -> str:
    light, spread = maps.mean() / 255, maps.std()
    ratio, likeness = local_variance_ratio(maps), autocorrelation(maps)
    if spread < 1:
        return f"One colour: std {spread:.2g}. Nothing was decoded; see: debug vae, debug nan."
    noisy = ratio > NOISE_RATIO
    faults = [
        f"noise (local-variance ratio {ratio:.2f}, autocorrelation {likeness:.2f}; see: debug velocity, debug step)"
        if noisy
        else "",
        f"dark (brightness {light:.0%}; see: debug vae)" if light < DARK else "",
        f"grey, washed out (std {spread:.1f}; see: debug upsampler, debug vae)"
        if spread < FLAT and light >= DARK
        else "",
        "one still picture" if change is not None and change < STILL else "",
    ]
    if found := [fault for fault in faults if fault]:
        return f"This is {' and '.join(found)}."
    structure = f"local-variance ratio {ratio:.2f}, autocorrelation {likeness:.2f}"
    return f"This has structure ({structure}), brightness {light:.0%}, std {spread:.0f}."


def _frames(path: Path) -> Iterator[np.ndarray]:
    """``(H, W, 3)`` uint8, from a video, a picture, a folder of pictures or an ``.npy`` of ``(F, H, W, 3)`` bytes."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not pictures:
            raise InputError(f"{path}: no pictures in it")
        yield from (media.decode_image(file) for file in pictures[:_FRAMES])
    elif path.suffix == ".npy":
        array = _array(path)
        if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
            raise InputError(f"{path}: {array.dtype} {array.shape}, expected uint8 (frames, height, width, 3)")
        yield from array[:_FRAMES]
    elif path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        yield media.decode_image(path)
    else:
        yield from (frame[0] for frame in media.decode_video_from_file(path, _FRAMES))


def _array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, not read yet. Raises InputError for anything else."""
    if not path.is_file():
        raise InputError(f"{path}: not a file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is Python, and fails in as many ways
        raise InputError(f"{path}: not an .npy file ({printable(error)[:120]})") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an .npz file, expected .npy with one array")
    return array
