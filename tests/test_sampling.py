"""Schedules and guidance on their own: what they refuse, and what the reference cannot do."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx import InputError
from ltx2_mlx.diffusion.diffusion_steps import to_velocity
from ltx2_mlx.diffusion.guiders import MultiModalGuiderFactory, MultiModalGuiderParams
from ltx2_mlx.diffusion.schedulers import LTX2Scheduler


def test_schedules_fall_from_one_to_zero() -> None:
    scheduler = LTX2Scheduler()
    for steps in (2, 5, 40):
        sigmas = scheduler.execute(steps)
        assert sigmas.dtype == np.float32
        assert sigmas[0] == pytest.approx(1) and sigmas[-1] == 0 and (np.diff(sigmas) < 0).all()
    with pytest.raises(InputError, match="at least one step"):
        scheduler.execute(0)


def test_one_stretched_step_is_refused_where_the_reference_gives_nan() -> None:
    with pytest.raises(InputError, match="one step cannot be stretched"):
        LTX2Scheduler().execute(1)


def test_guidance_by_sigma_needs_a_bin_and_takes_the_top_one_above_all() -> None:
    with pytest.raises(InputError, match="at least one bin"):
        MultiModalGuiderFactory.from_dict({})
    factory = MultiModalGuiderFactory.from_dict({0.5: MultiModalGuiderParams(cfg_scale=2.0)})
    assert factory.build_from_sigma(0.9).params.cfg_scale == 2.0
    assert MultiModalGuiderFactory.constant(MultiModalGuiderParams(cfg_scale=4.0)).params(0.1).cfg_scale == 4.0


def test_no_velocity_at_sigma_zero() -> None:
    with pytest.raises(InputError, match="expected a sigma above 0"):
        to_velocity(mx.ones(2), 0.0, mx.ones(2))
