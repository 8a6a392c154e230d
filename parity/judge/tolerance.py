"""Every number that decides a verdict, in one place, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

# err(ours) ≤ K · max(err(torch in the same dtype), C · u · √n), both against the float64 oracle. The clean ratio
# peaked at 1.74 over 624 taps of a 48-block model, and 21 of 22 planted faults exceeded 3.
K = 3.0
C = 1.0
# The same for single elements (largest and 99.9 % quantile of |err| / rms): extremes scatter more than norms do.
K_TAIL = 10.0
# Free-running (lane C): errors of two correct implementations grow alike, but not in step.
K_FREE = 10.0
# The part of each limit that correct runs may come to, over many seeds and BLAS libraries (``parity margins``).
MARGIN = 2 / 3
# A float32 reference further than this from its float64 oracle means that the oracle is wrong, and would widen every
# tolerance derived from it. The largest honest distance measured is 9e-6, at the timestep sinusoid.
ORACLE = 1e-4

# Whole pipelines (see endtoend.py), float32: relative error of every latent and context, largest error of the waveform,
# share of bytes off by 1 (truncation turns the least difference into a step). The reference on another instruction set
# and thread count is within 2e-5, 5e-5 and 2e-4 of itself; a fault that shows at all is beyond them.
RUN, WAVEFORM, PIXELS = 5e-5, 1e-4, 1e-3
# bfloat16: K_FREE times the reference's distance from itself, but a few roundings are always allowed; of the bytes, the
# root mean square that is 40 dB below the peak (the reference reaches 43 to 50 dB against itself).
RUN_HALF, NOISE = 2.0**-6, 1e-2
# … and never more than this. A reference that is further than a third (K) of it from itself can judge nothing.
RUN_HALF_MOST = 0.5
# float32 noise that the product draws as torch does: its code paths without AVX2 round the angle otherwise, by 2e-6.
DRAWS = 4e-6

# A reduction (sum, mean, norm, softmax, attention over its keys) counts at most so many terms: torch's cascades, SIMD
# lanes and a GPU's threads all keep many partial sums, and one sum over thousands of values is a fault (``nn.norm``).
# Matrix products and convolutions may be summed one after the other, and count whole.
PARTIAL = 256
# The floor takes the device's own rounding, up to this factor. The least accurate functions of a GPU that are still
# called rounding are within 4 to 8 units in the last place; TF32 is off by about 1,000, half-precision Winograd by 40.
DEVICE = 8.0

# A reference this far from its oracle cannot be judged by: K times as much would pass for right. As a relative error
# (eight roundings of bfloat16), and for single elements as a part of the largest. The largest honest distances measured
# over all cells are 0.015 and 0.05 (bfloat16, at the vocoder).
BLUNT, BLUNT_TAIL = 2.0**-5, 2.0**-3

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Floor:
    """The error that rounding alone explains: ``u·√n`` for a reduction over ``n`` terms.

    In half precision both frameworks accumulate in float32 and round once, whatever ``n``.
    """

    dtype: str
    n: int

    @property
    def value(self) -> float:
        u = UNIT_ROUNDOFF.get(self.dtype, UNIT_ROUNDOFF["float32"])
        return C * u * (sqrt(max(self.n, 1)) if u <= UNIT_ROUNDOFF["float32"] else 1.0)
