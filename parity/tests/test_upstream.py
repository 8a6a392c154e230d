"""What upstream does otherwise than 1.0.0: its table, its constants, and diffusers' ancestral step beside ours."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch

import parity.sides.torch.port  # noqa: F401  it makes torchaudio importable, which diffusers asks for
from ltx2_mlx.diffusion import behaviour
from ltx2_mlx.diffusion.diffusion_steps import EulerAncestralDiffusionStep
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.pipelines.constants import DISTILLED_SIGMA_VALUES
from parity.declare.inputs import FIXTURES
from parity.declare.stages import stages

from diffusers import LTXEulerAncestralRFScheduler  # isort: skip  after the port's module

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ltx2_mlx" / "BEHAVIOUR.md"
# (a, r, c) of the distilled schedule from σ = 1 on: ltx25.md §5, from upstream's code.
CONSTANTS = (
    (0.501567, 0.987539, 0.861510),
    (0.668067, 0.987461, 0.738504),
    (0.751189, 0.987382, 0.652982),
    (0.801020, 0.987302, 0.590269),
    (0.596873, 0.869915, 0.755431),
    (0.651669, 0.635609, 0.619472),
    (0.766223, 0.338604, 0.377621),
)


def test_the_distilled_schedule_has_the_known_constants() -> None:
    sigmas = np.array(DISTILLED_SIGMA_VALUES[:-1], np.float32)
    found = [EulerAncestralDiffusionStep().coefficients(*pair) for pair in pairwise(sigmas)]
    np.testing.assert_allclose(found, CONSTANTS, atol=4e-6)  # they are those of float64; 1 − σ is rounded


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_the_ancestral_step_is_that_of_diffusers(eta: float) -> None:
    sigmas = np.array(DISTILLED_SIGMA_VALUES, np.float32)
    scheduler = LTXEulerAncestralRFScheduler(eta=eta)
    scheduler.set_timesteps(sigmas=torch.from_numpy(sigmas))
    rng = np.random.default_rng(5)
    for i in range(len(sigmas) - 2):
        x, velocity = rng.standard_normal((2, 1, 40, 8), dtype=np.float32)
        noise = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(i))
        theirs = scheduler.step(
            torch.from_numpy(velocity),
            scheduler.timesteps[i],
            torch.from_numpy(x),
            generator=torch.Generator().manual_seed(i),
            return_dict=False,
        )[0]
        ours = EulerAncestralDiffusionStep(eta).step(
            mx.array(x), mx.array(x - sigmas[i] * velocity), sigmas, i, mx.array(noise.numpy())
        )
        np.testing.assert_allclose(np.array(ours), theirs.numpy(), rtol=0, atol=5e-7)


def test_each_row_of_the_table_has_two_values_and_a_case_that_exists(checkpoints: Path) -> None:
    fields = set(vars(behaviour.V1_0_0)) - {"name", "start"}  # start goes with noised
    assert [change.field for change in behaviour.CHANGES] == [f for f in vars(behaviour.V1_0_0) if f in fields]
    for change in behaviour.CHANGES:
        old, new = (getattr(b, change.field) for b in (behaviour.V1_0_0, behaviour.UPSTREAM))
        assert old != new and all(behaviour.values_of(change)), change
        stage, _, case = change.proof.partition("/")
        declared = stages()[stage]
        path = FIXTURES / f"{declared.configs[0]}.safetensors"
        assert case in declared.cases(read_checkpoint(path).config if declared.component else {}), change


def test_the_page_shows_the_table() -> None:
    shown = PAGE.read_text().partition("<!-- behaviour: start -->\n")[2].partition("\n<!-- behaviour: end -->")[0]
    assert shown == behaviour.table(), behaviour.table()
