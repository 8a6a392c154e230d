"""Matrix products: long sums, few or many rows, TF32, accumulation in half precision, quantised weights."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from .line import Check, Line, Setting, layer, numbers, random, whole


def _product(rows: int, columns: int, terms: int, dtype: mx.Dtype, offset: float = 0.0) -> Check:
    """x @ weight.T, as a linear layer has it."""
    x = random("x", rows, terms, dtype=dtype, offset=offset)
    weight = random("weight", columns, terms, dtype=dtype, scale=terms**-0.5, offset=offset * terms**-0.5)
    return layer(f"{rows} × {terms} × {columns}", "linear", mx.matmul(x, weight.T), (x, weight), count=64)


def _long_sums(terms: int, setting: Setting) -> Iterator[Check]:
    terms = terms if not setting.small else terms // 32
    few = setting.size((8, 64), (16, 512), (8, 24))
    yield _product(*few, terms, mx.bfloat16)
    yield _product(*few, terms, mx.float32)
    many = setting.size((64, 128), (1024, 4096 if terms < 100_000 else 512), (40, 48))
    yield _product(*many, terms, mx.float32)
    if setting.device != "cpu":  # whose half-precision products take a minute here
        yield _product(*many, terms, mx.bfloat16)


def _feed_forward(setting: Setting) -> Iterator[Check]:
    return _long_sums(16_384, setting)


def _features(setting: Setting) -> Iterator[Check]:
    return _long_sums(188_160, setting)


def _accumulate(setting: Setting) -> Iterator[Check]:
    """Sums of positive terms, which stand still in half precision once they are large."""
    rows, columns = setting.size((16, 128), (512, 2048), (8, 24))
    for dtype in (mx.bfloat16, mx.float16):
        yield _product(rows, columns, setting.size(4096, 4096, 1024), dtype, offset=0.5)


def _float32(setting: Setting) -> Iterator[Check]:
    yield _product(*setting.size((256, 512, 4096), (1024, 4096, 4096), (24, 32, 512)), mx.float32)


# ---- quantised -------------------------------------------------------------------------------------------------------

_AFFINE = tuple(("affine", bits, group) for bits in (4, 8) for group in (32, 64))
_FLOATING = (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16))


def _quantised(rows: int, columns: int, terms: int, transpose: bool, mode: tuple[str, int, int]) -> Check:
    """x @ w.T or x @ w. The weights that the packed ones stand for are unpacked by the CPU."""
    name, bits, group = mode
    how = {"group_size": group, "bits": bits, "mode": name}
    x = random("x", rows, terms)
    shape = (columns, terms) if transpose else (terms, columns)
    packed = mx.quantize(random("weight", *shape, scale=terms**-0.5), **how, stream=mx.cpu)
    mx.eval(packed)
    plain = numbers(mx.dequantize(*packed, **how, stream=mx.cpu)).astype(float)
    y = mx.quantized_matmul(x, *packed, transpose=transpose, **how)
    exact = numbers(x).astype(float) @ (plain.T if transpose else plain)
    by = "wᵀ" if transpose else "w"
    return whole(f"{name} {bits} bits by {group}: {rows} × {terms} × {columns}, x·{by}", y, exact, mx.float32, terms)


def _quantised_transpose(setting: Setting) -> Iterator[Check]:
    for mode in _AFFINE:
        for transpose in (True, False):
            for rows, columns in ((1, 3 * mode[2]), (8, 128), (48, 3 * mode[2])):
                yield _quantised(rows, columns, setting.size(1024, 4096, 128), transpose, mode)


def _quantised_tails(setting: Setting) -> Iterator[Check]:
    """Shared axes that are whole groups, but no whole tiles of a kernel."""
    for mode in _FLOATING:
        for terms in (544, 608, *((528, 1040) if mode[2] == 16 else ())):
            yield _quantised(50, 128, terms, True, mode)
            yield _quantised(50, terms, 128, False, mode)
            yield _quantised(50, 128, terms, False, mode)


_TF32_REMEDY = "export MLX_ENABLE_TF32=0 before Python starts (parity does so by itself)"
LINES = (
    Line(
        "matmul.float32",
        "float32 matrix product",
        "all that the product computes in float32",
        "TF32: float32 operands are rounded to 11 bits on CUDA and on an M5's neural accelerators",
        _TF32_REMEDY,
        _float32,
        (3860, 3534, 4411),
        gigaflops=2,
        plain_float32=True,
    ),
    Line(
        "matmul.16384",
        "matrix product over 16,384 terms",
        "the feed-forward's second layer",
        "the sum is split over the shared axis, and its parts are lost, or added in half precision",
        "another release of MLX: an M5's split products were wrong in 0.31.3",
        _feed_forward,
        (3797,),
        gigaflops=2,
        gigabytes=(1.0, 2.5),
    ),
    Line(
        "matmul.188160",
        "matrix product over 188,160 terms",
        "the projection of all of Gemma's layers",
        "the sum is split over the shared axis, and its parts are lost, or added in half precision",
        "another release of MLX; or make the contexts on a CPU (ltx2-mlx generate --save-contexts), and give them here",
        _features,
        (3797,),
        gigaflops=4,
        gigabytes=(2.0, 4.0),
    ),
    Line(
        "matmul.accumulate",
        "sums of half-precision products",
        "every linear layer in bfloat16",
        "sums are kept in half precision: terms are lost once the sum is large",
        "compute in float32 (--dtype float32), and report it to MLX",
        _accumulate,
    ),
    Line(
        "quantized.transpose",
        "quantised products, both ways round",
        "nothing in ltx2_mlx, which unpacks its weights; mlx-lm's prompt enhancement",
        "the kernel of x·w leaves columns out, or reads the wrong ones",
        "another release of MLX; weights that are not quantised",
        _quantised_transpose,
        (4201, 4250),
    ),
    Line(
        "quantized.tails",
        "quantised products whose shared axis is no whole tile",
        "nothing in ltx2_mlx, which unpacks its weights; mlx-lm's prompt enhancement",
        "the kernel reads past the last group of a row",
        "another release of MLX; weights that are not quantised",
        _quantised_tails,
        (3444, 3912),
    ),
)
