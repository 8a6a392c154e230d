"""Are all numbers of an array finite? Cheap: two maxima of the bits, and no other array."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx

# dtype → its bits as signed and as unsigned integers, and the bits of +∞ and −∞. Whatever is not finite is no smaller:
# among positive numbers read as signed, among negative ones read as unsigned.
_BITS = {
    mx.bfloat16: (mx.int16, mx.uint16, 0x7F80, 0xFF80),
    mx.float16: (mx.int16, mx.uint16, 0x7C00, 0xFC00),
    mx.float32: (mx.int32, mx.uint32, 0x7F800000, 0xFF800000),
    mx.uint8: (mx.int8, mx.uint8, 0x7F, 0xFF),  # float8 (e4m3), which has NaN and no ∞
}


def all_finite(x: mx.array) -> mx.array:
    """``()`` bool, lazy: true where every number is finite. An array of bytes holds float8 (e4m3)."""
    if not x.size or x.dtype not in _BITS:
        return mx.array(True)
    signed, unsigned, positive, negative = _BITS[x.dtype]
    flat = x.reshape(-1)
    most, least = (flat.view(bits).max().astype(mx.int64) for bits in (signed, unsigned))
    return mx.logical_and(most < positive, least < negative)


SMALL = 1 << 14  # elements; to look at one such array takes as long as to copy it


def every_finite(arrays: Iterable[mx.array]) -> mx.array:
    """``all_finite`` of all of them together: ``()`` bool, lazy. Small arrays are looked at as one, dtype by dtype."""
    flags, small = [mx.array(True)], dict[mx.Dtype, list[mx.array]]()
    for x in arrays:
        if x.size < SMALL:
            small.setdefault(x.dtype, []).append(x.reshape(-1))
        else:
            flags.append(all_finite(x))
    flags += [all_finite(mx.concatenate(same)) for same in small.values()]
    return mx.stack(flags).all()
