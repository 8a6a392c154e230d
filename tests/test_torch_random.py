"""torch's generator in NumPy, beside torch's own: every size, dtype and order of draws."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from ltx2_mlx.diffusion.torch_random import TorchGenerator
from ltx2_mlx.errors import InputError

pytestmark = pytest.mark.reference
SIZES = [*range(41), 1000, 128 * 999]
DTYPES = ["float32", "bfloat16", "float64"]
# torch's AVX2 kernel rounds the angle as ours does; its other kernels round it once less
FLOAT32 = 4e-7 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 3e-6
ABSOLUTE = {"float32": FLOAT32, "bfloat16": FLOAT32, "float64": 2e-15}
RELATIVE = {"float32": 2**-23, "bfloat16": 2**-7, "float64": 2**-52}  # one unit in the last place


def assert_same_draw(ours: TorchGenerator, generator: torch.Generator, shape: tuple[int, ...], dtype: str) -> None:
    expected = torch.randn(shape, generator=generator, dtype=getattr(torch, dtype)).double().numpy()
    drawn = ours.randn(shape, dtype)
    assert drawn.shape == shape and drawn.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_allclose(drawn, expected, rtol=RELATIVE[dtype], atol=ABSOLUTE[dtype], err_msg=f"{shape} {dtype}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_draws_of_every_size(dtype: str) -> None:
    for size in SIZES:
        ours, generator = TorchGenerator(42), torch.Generator().manual_seed(42)
        for _ in range(3):
            assert_same_draw(ours, generator, (size,), dtype)


@pytest.mark.parametrize("seed", [0, 9999, -1, 2**64 - 1, -(2**63), 2**32, 10**12 + 7])
def test_mixed_draws_continue_the_stream(seed: int) -> None:
    """Odd small draws leave half a pair behind, which large draws in between do not use up."""
    ours, generator = TorchGenerator(seed), torch.Generator().manual_seed(seed)
    draws = [(size, dtype) for size in (*range(0, 41, 3), 7, 1, 1000) for dtype in DTYPES]
    for index in np.random.default_rng(seed % 2**32).permutation(len(draws)):
        size, dtype = draws[index]
        assert_same_draw(ours, generator, (size,), dtype)


def test_latent_shapes() -> None:
    ours, generator = TorchGenerator(10), torch.Generator().manual_seed(10)
    for shape in [(1, 330, 128), (1, 18, 128), (2, 3, 5), ()]:
        assert_same_draw(ours, generator, shape, "bfloat16")


def test_bfloat16_is_float32_rounded_where_groups_are_whole() -> None:
    wide, narrow = (TorchGenerator(3).randn((4096, 128), dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_array_equal(narrow, torch.from_numpy(wide).bfloat16().float().numpy())
    assert (wide != narrow).any()


def test_ten_million_numbers_take_seconds() -> None:
    start = time.process_time()
    values = TorchGenerator(1).randn((10_000_000,))
    assert time.process_time() - start < 10
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3


def test_refusals() -> None:
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(InputError, match="expected one of 64 bits"):
            TorchGenerator(seed)
    with pytest.raises(InputError, match="'float16', expected"):
        TorchGenerator(0).randn((3,), "float16")
