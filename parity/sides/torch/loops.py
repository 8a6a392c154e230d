"""The reference's noiser, stochastic step and denoising loops, with what they ask for injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from ltx_core.components import noisers
from ltx_core.components.diffusion_steps import EulerDiffusionStep, Res2sDiffusionStep
from ltx_core.guidance.perturbations import PerturbationType
from ltx_pipelines.utils import helpers, samplers


def noised(noise: torch.Tensor, state: Any, scale: float) -> Any:
    with mock.patch.object(noisers.torch, "randn", lambda *shape, **options: noise):
        return noisers.GaussianNoiser(generator=None)(state, scale)


def res2s_step(sample: torch.Tensor, denoised: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> Any:
    return Res2sDiffusionStep().step(sample, denoised, sigmas, 0, noise=noise)


def _looped(name: str) -> Callable[..., Any]:
    def run(
        sigmas: torch.Tensor, video: Any, audio: Any, targets: tuple[torch.Tensor, torch.Tensor], noise: list[Any]
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


def _standardised(draw: torch.Tensor) -> Any:
    """The reference's own noise function, given the numbers."""
    with mock.patch.object(samplers.torch, "randn", lambda *shape, **options: draw.double()):
        return samplers._get_new_noise(draw, torch.Generator())


euler_denoising_loop = _looped("euler_denoising_loop")
res2s_audio_video_denoising_loop = _looped("res2s_audio_video_denoising_loop")


def _network(video: Any, audio: Any, perturbations: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of a transformer: adds up what it is told. The same stands on our side."""
    cut = sum(
        0.01 * 2 ** (3 * i + block)
        for i, kind in enumerate(PerturbationType)
        for block in range(3)
        if perturbations is not None and perturbations.any_in_batch(kind, block)
    )
    return tuple(
        m.latent * 0.3 + m.context.mean(dim=1, keepdim=True) + m.timesteps.to(m.latent.dtype) * 0.1 + cut
        for m in (video, audio)
    )


def simple(sigmas: torch.Tensor, video: Any, audio: Any, v_context: torch.Tensor, a_context: torch.Tensor) -> list[Any]:
    denoise = helpers.simple_denoising_func(v_context, a_context, _network)
    return [denoise(video, audio, sigmas, i) for i in range(len(sigmas) - 1)]


def guided(
    sigmas: torch.Tensor,
    video: Any,
    audio: Any,
    v_context: torch.Tensor,
    a_context: torch.Tensor,
    factories: tuple[Any, Any],
) -> list[Any]:
    function = helpers.multi_modal_guider_factory_denoising_func
    denoise = function(*factories, v_context, a_context, transformer=_network)
    return [denoise(video_state=video, audio_state=audio, sigmas=sigmas, step_index=i) for i in range(len(sigmas) - 1)]
