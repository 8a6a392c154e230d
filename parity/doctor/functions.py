"""Functions of one argument, norms and softmax where they are hard: large arguments, large offsets, long rows; compiled
functions; random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ltx2_mlx.nn.norm import GroupNorm

from ..judge import sampled
from ..judge.sampled import Array
from ..run.calibration import layer_normed, rms_normed, softmax, whitened
from .line import Check, Line, Setting, name_of, numbers, random, whole

ANGLE = 15_708.0  # the largest angle of the rotary embeddings: 10,000 · π / 2


def _of_one(what: str, function: Callable[[mx.array], mx.array], exact: Callable[[Array], Array], x: Array) -> Check:
    return whole(what, function(mx.array(x)), exact(x.astype(np.float64)), mx.float32, 1, "exp")


def _angles(setting: Setting) -> Iterator[Check]:
    for most in (ANGLE, 1000.0, 9.0):
        x = np.linspace(-most, most, setting.size(200_001, 200_001, 2001), dtype=np.float32)
        yield _of_one(f"sin, ±{most:,.0f}", mx.sin, np.sin, x)
        yield _of_one(f"cos, ±{most:,.0f}", mx.cos, np.cos, x)


def _exponentials(setting: Setting) -> Iterator[Check]:
    """In stretches, since a norm sees the largest values alone. Further out, what is honest grows with the argument."""
    count = setting.size(20_001, 20_001, 201)
    for low in (-10.0, -4.0, -1.0, 0.0, 2.0):
        x = np.linspace(low, low + 2, count, dtype=np.float32)
        yield _of_one(f"exp from {low:g}", mx.exp, np.exp, x)
    x = np.linspace(-9, 9, count, dtype=np.float32)
    yield _of_one("sigmoid, ±9", mx.sigmoid, lambda x: 1 / (1 + np.exp(-x)), x)
    yield _of_one("tanh, ±9", mx.tanh, np.tanh, x)


def _softmax(setting: Setting) -> Iterator[Check]:
    keys = setting.size(24_576, 24_576, 600)
    x = random("scores", 24, keys, scale=10.0, offset=50.0)
    yield whole(
        f"24 rows of {keys:,}", mx.softmax(x, axis=-1), softmax(numbers(x).astype(float)), mx.float32, keys, "softmax"
    )


# ---- norms -----------------------------------------------------------------------------------------------------------

OFFSET = 32.0  # in standard deviations: E[x²] − E[x]² then loses three digits


WIDTHS = (4096, 3840, 2048, 1024, 512, 256, 128)  # video, Gemma, audio, the VAEs' channels, heads


def _norms(setting: Setting) -> Iterator[Check]:
    for width in setting.size(WIDTHS, WIDTHS, (256, 512)):
        yield from _norms_of(setting.size(512, 24_576, 24), width)


def _norms_of(rows: int, width: int) -> Iterator[Check]:
    at = sampled.positions((rows,), 64)[:, 0]
    ones = mx.ones((width,))
    for dtype in (mx.float32, mx.bfloat16):
        # Whole 64ths, so that the sum of a row is exact in any order, and only that of its squares is not.
        x = (mx.round(64 * random("rows", rows, width, offset=OFFSET)) / 64).astype(dtype)
        exact = numbers(x)[at].astype(float)
        for name, y, truth in (
            ("rms_norm", mx.fast.rms_norm(x, None, 1e-6), rms_normed(exact)),
            ("layer_norm", mx.fast.layer_norm(x, ones.astype(dtype), None, 1e-6), layer_normed(exact, np.ones(width))),
        ):
            yield whole(f"{name} of {rows:,} × {width}, mean {OFFSET:g}", y[mx.array(at)], truth, dtype, width, name)


def _group_norm(setting: Setting) -> Iterator[Check]:
    """The product's own, over an upsampler's latent; two of its groups are compared."""
    frames, height, width, channels = setting.size((8, 32, 48, 512), (16, 32, 48, 1024), (2, 6, 7, 64))
    each = channels // 32
    for dtype in (mx.float32, mx.bfloat16):
        x = random("latent", 1, frames, height, width, channels, dtype=dtype, offset=3.0)
        y = GroupNorm(32, channels, eps=1e-6)(x)
        for group in (0, 31):
            part = slice(group * each, (group + 1) * each)
            exact = whitened(numbers(x[..., part]).astype(float), (1, 2, 3, 4))
            what = f"group {group} of 32, {frames} × {height} × {width} × {channels}"
            yield whole(what, y[..., part], exact, dtype, exact.size, "group_norm")


# ---- compiled --------------------------------------------------------------------------------------------------------


def _chain(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """Elementwise code as the transformer has it, with a constant that seven digits do not hold."""
    y = (x * (1 + scale) + shift) * 128**-0.5
    found: mx.array = y * mx.sigmoid(1.702 * y) + mx.tanh(y)
    return found


def _compiled(setting: Setting) -> Iterator[Check]:
    shape = setting.size((2048, 1024), (6144, 4096), (16, 24))
    for dtype in (mx.float32, mx.bfloat16):
        given = [random(name, *shape, dtype=dtype, scale=3.0) for name in ("x", "scale", "shift")]
        x, scale, shift = (numbers(a).astype(float) for a in given)
        y = (x * (1 + scale) + shift) * 128**-0.5
        exact = y / (1 + np.exp(-1.702 * y)) + np.tanh(y)
        eager, compiled = _chain(*given), mx.compile(_chain)(*given)
        mx.eval(eager, compiled)
        # Each operation rounds once: what the compiled chain may be off by is what the eager one is.
        name = name_of(dtype)
        ratios = [sampled.ratio(numbers(y), exact, name, 1, "exp") for y in (eager, compiled)]
        yield Check(f"compiled, {name}", ratios[1] / max(1.0, ratios[0]), sampled.limit(name))


# ---- random ----------------------------------------------------------------------------------------------------------


def _random(setting: Setting) -> Iterator[Check]:
    """Moments of normal numbers, in units of their own deviation, and the same numbers from the same key."""
    count = setting.size(2_000_000, 20_000_000, 20_000)
    draws = [mx.random.normal((count,), key=mx.random.key(7)) for _ in range(2)]
    x = numbers(draws[0]).astype(float)
    half = count // 2
    deviations = {
        "mean": x.mean() * count**0.5,
        "variance": (x.var() - 1) * (count / 2) ** 0.5,
        "fourth moment": ((x**4).mean() - 3) * (count / 96) ** 0.5,
        "correlation of the halves": (x[:half] * x[-half:]).mean() * half**0.5,
        "correlation of neighbours": (x[1:] * x[:-1]).mean() * count**0.5,
    }
    for name, off in deviations.items():
        yield Check(f"{name} of {count:,} normal numbers", abs(float(off)), 6.0)
    same = bool(mx.array_equal(draws[0], draws[1]).item())
    yield Check("the same key again", 0.0 if same else float("inf"), 0.0, "" if same else "gives other numbers")


LINES = (
    Line(
        "sin.cos",
        "sin and cos up to ±15,708",
        "rotary embeddings and timesteps",
        "the device's fast functions do not reduce large angles",
        "another release of MLX; MLX_METAL_NO_FAST_MATH, where MLX was built by hand",
        _angles,
    ),
    Line(
        "exp",
        "exp, sigmoid and tanh",
        "activations, gates and softmax",
        "the device's fast functions are used for large arguments",
        "another release of MLX",
        _exponentials,
    ),
    Line(
        "softmax",
        "softmax over 24,576 keys",
        "attention without a fused kernel",
        "the sum is kept in one number, or the largest score is not taken out first",
        "another release of MLX",
        _softmax,
    ),
    Line(
        "norms",
        "RMS norm and layer norm of rows with a large mean, of every width",
        "the transformer, Gemma and the connectors",
        "the variance is computed as E[x²] − E[x]², or in half precision; or rows of some widths are summed in part, "
        "as MLX 0.31.1 does on CUDA (512 channels in bfloat16, 256 in float32, which ltx2_mlx avoids)",
        "another release of MLX",
        _norms,
        gigabytes=(1.0, 2.5),
    ),
    Line(
        "group_norm",
        "group norm over a whole latent",
        "the upsamplers",
        "a sum over a million values is kept in one number, or in half precision",
        "report it to ltx2-mlx with doctor.json: the sum is made axis by axis to avoid this",
        _group_norm,
        gigabytes=(1.5, 2.0),
    ),
    Line(
        "compiled",
        "a compiled function beside the plain one",
        "elementwise chains on a GPU",
        "the compiled kernel has other constants or faster functions than the plain ones",
        "MLX_DISABLE_COMPILE=1",
        _compiled,
        (4503,),
    ),
    Line(
        "random",
        "normal random numbers",
        "prompt enhancement alone: all noise of a video is drawn by NumPy",
        "the generator repeats itself, or the transform cuts the tails",
        "another release of MLX",
        _random,
    ),
)
