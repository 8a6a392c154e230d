"""The sums that the reference makes, counted where torch makes them: each operation with its number of terms."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Terms = Callable[..., int]


def _shared(left: Any, right: Any) -> int:
    """The axis that two matrices (or a matrix and a vector) share."""
    return int(left.shape[-1])


def _second(third: Any, left: Any, right: Any) -> int:
    return int(left.shape[-1])


def _convolved(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool) -> int:
    """Input channels of a group times the kernel; transposed: times the part of the kernel that meets one output."""
    channels, kernel = weight.shape[1], weight.shape[2:]
    if not transposed:
        return int(channels * prod(kernel))
    steps = [*stride] * len(kernel) if len(stride) == 1 else stride
    return int(weight.shape[0] * prod(ceil(k / step) for k, step in zip(kernel, steps, strict=True)))


def _grouped(x: Any, weight: Any, bias: Any, n: int, channels: int, size: int, groups: int) -> int:
    return channels // groups * size


def _normalised(x: Any, shape: Any) -> int:
    return int(prod(shape))


def _attended(query: Any, key: Any, value: Any) -> int:
    """Scores sum over the width of a head, and outputs over the keys."""
    return int(max(query.shape[-1], key.shape[-2]))


def _attended_in_windows(query: Any, key: Any, value: Any, score: Any, block_mask: Any) -> int:
    """The same where a mask shows every query as many keys."""
    zero = torch.zeros((), dtype=torch.int64)
    seen = block_mask[-1](zero, zero, zero, torch.arange(key.shape[-2]))
    return int(max(query.shape[-1], seen.sum()))


def _transformed(x: Any, axes: Any) -> int:
    return int(prod(x.shape[axis] for axis in axes))


def _four(*arguments: Any) -> int:
    """The corners around a point of a picture."""
    return 4


def _one(*arguments: Any) -> int:
    return 1


# The primitive of a device that torch's operation asks for, and its terms from its first arguments.
_MATMUL = ("mm", "bmm", "mv", "dot", "matmul", "linear"), ("matmul", _shared, 2)
_ADDMM = ("addmm", "baddbmm", "addmv"), ("matmul", _second, 3)
_RMS_NORM = ("rms_norm", "_fused_rms_norm"), ("rms_norm", _normalised, 2)
_FFT = ("_fft_r2c", "_fft_c2c", "_fft_c2r"), ("fft", _transformed, 2)
_ATTENTION = (
    ("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu"),
    ("attention", _attended, 3),
)
_EXP = ("exp", "expm1", "sigmoid", "silu", "softplus", "elu"), ("exp", _one, 0)
_TANH = ("tanh", "gelu"), ("tanh", _one, 0)
_LOG = ("log", "log10"), ("log", _one, 0)
OPERATIONS: dict[str, tuple[str, Terms, int]] = {
    "native_group_norm": ("group_norm", _grouped, 7),
    "native_layer_norm": ("layer_norm", _normalised, 2),
    "flex_attention": ("attention", _attended_in_windows, 5),
    "upsample_bilinear2d": ("sum", _four, 0),
    **{name: (name, _one, 0) for name in ("sin", "cos", "rsqrt", "sqrt")},
}
for _names, _counted in (_MATMUL, _ADDMM, _RMS_NORM, _FFT, _ATTENTION, _EXP, _TANH, _LOG):
    OPERATIONS |= dict.fromkeys(_names, _counted)
SUMS = ("sum", "mean", "var", "std", "linalg_vector_norm", "norm")


def operation(name: str, arguments: tuple[Any, ...], result: Any) -> tuple[str, int] | None:
    """The primitive and its terms; None for what sums nothing: moves, products, embeddings."""
    name = name.removesuffix("_") if not name.startswith("_") else name
    if name in SUMS:
        return "sum", int(arguments[0].numel() // max(getattr(result, "numel", lambda: 1)(), 1))
    if name in ("_softmax", "softmax"):
        return "softmax", int(arguments[0].shape[arguments[1]])
    if name in ("convolution", "_convolution"):
        kind = f"conv{arguments[1].ndim - 2}d{'_transposed' if arguments[6] else ''}"
        return kind, _convolved(*arguments[:7])
    if name in OPERATIONS:
        primitive, terms, taken = OPERATIONS[name]
        return primitive, terms(*arguments[:taken])
    return None


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, ``count`` is told of every operation that sums: its primitive, and how many terms."""

    supports_higher_order_operators = True  # flex_attention is one

    def __init__(self, count: Callable[[str, int], None]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch would wrap each operation for that, which takes longer than to count it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        found = operation(getattr(func, "overloadpacket", func).__name__, args, result)
        if found:
            self.count(*found)
        return result
