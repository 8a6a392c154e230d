"""The reference's noiser, stochastic step and denoising loops, with what they ask for injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from ltx_core.components import noisers
from ltx_core.components.diffusion_steps import EulerDiffusionStep, Res2sDiffusionStep
from ltx_pipelines.utils import samplers


def noised(noise: torch.Tensor, state: Any, scale: float) -> Any:
    with mock.patch.object(noisers.torch, "randn", lambda *shape, **options: noise):
        return noisers.GaussianNoiser(generator=None)(state, scale)


def res2s_step(sample: torch.Tensor, denoised: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    return Res2sDiffusionStep().step(sample, denoised, sigmas, 0, noise=noise)


def _looped(name: str) -> Callable[..., Any]:
    def run(
        sigmas: torch.Tensor, video: Any, audio: Any, targets: tuple[torch.Tensor, torch.Tensor], noise: list
    ) -> Any:
        def denoise(video_state: Any, audio_state: Any, sigmas: torch.Tensor, step_index: int) -> Any:
            return video_state.latent * 0.2 + targets[0], audio_state.latent * 0.2 + targets[1]

        draws, options = iter(noise), {"stepper": EulerDiffusionStep()}
        if noise:
            options = {"stepper": Res2sDiffusionStep(), "model_dtype": video.latent.dtype}
            options["new_noise_fn"] = lambda latent, generator: _standardised(next(draws))
        return getattr(samplers, name)(
            sigmas=sigmas, video_state=video, audio_state=audio, denoise_fn=denoise, **options
        )

    return run


def _standardised(draw: torch.Tensor) -> torch.Tensor:
    """The reference's own noise function, given the numbers."""
    with mock.patch.object(samplers.torch, "randn", lambda *shape, **options: draw.double()):
        return samplers._get_new_noise(draw, torch.Generator())


euler_denoising_loop = _looped("euler_denoising_loop")
gradient_estimating_euler_denoising_loop = _looped("gradient_estimating_euler_denoising_loop")
res2s_audio_video_denoising_loop = _looped("res2s_audio_video_denoising_loop")
