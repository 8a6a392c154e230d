"""The reference's noiser, stochastic step and denoising loops, with what they ask for injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from ltx_core.components import noisers
from ltx_core.components.diffusion_steps import EulerDiffusionStep, Res2sDiffusionStep
from ltx_core.guidance.perturbations import PerturbationType

from .bars import helpers, samplers


def _listed(entries: list[Any]) -> list[Any]:
    """Entries after their number: one too many at the end of a list would not be missed otherwise."""
    return [len(entries), *entries]


def noised(noise: torch.Tensor, state: Any, scale: float) -> Any:
    """The state with the given noise, and what was asked for: a shape and a dtype."""
    asked: list[Any] = []

    def randn(*shape: int, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        asked.append([list(shape), dtype])
        return noise

    with mock.patch.object(noisers.torch, "randn", randn):
        return noisers.GaussianNoiser(generator=None)(state, scale), _listed(asked)


def res2s_step(sample: torch.Tensor, denoised: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> Any:
    return Res2sDiffusionStep().step(sample, denoised, sigmas, 0, noise=noise)


def _told(latent: torch.Tensor, *others: Any) -> torch.Tensor:
    """A sum in which everything that a stand-in is told has a weight of its own; the same stands on our side."""
    wide = torch.promote_types(latent.dtype, torch.float32)
    total = latent.to(wide) * 0.2
    for i, other in enumerate(others):
        if other is not None:
            value = other.to(wide) if isinstance(other, torch.Tensor) else other
            total = total + value * (0.07 / (1 + i))
    return total.to(latent.dtype)


def _ramp(values: torch.Tensor, *axes: int) -> torch.Tensor:
    """The mean over axes, each place weighted by its number."""
    for axis in axes:
        shape = [1] * values.ndim
        shape[axis] = -1
        values = values * torch.arange(1, values.shape[axis] + 1, dtype=values.dtype).reshape(shape) / 3
        values = values.mean(dim=axis, keepdim=True)
    return values


def _places(positions: torch.Tensor) -> torch.Tensor:
    """``(B, T, 1)`` of positions ``(B, axes, T, 2)``."""
    return _ramp(positions, 1, 3)[:, 0]


def _strengths(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else _ramp(mask, 2)


def stand_in(targets: tuple[torch.Tensor, torch.Tensor], calls: list[Any]) -> Callable[..., Any]:
    """In place of a denoising function: adds up what it is told and a target, and lists its calls."""

    def denoise(video_state: Any, audio_state: Any, sigmas: torch.Tensor, step_index: int) -> Any:
        sigma = float(np.float32(float(sigmas[step_index])))
        calls.append([sigma, step_index, len(sigmas)])
        states = video_state, audio_state
        return tuple(
            _told(
                *(state.latent, target, state.denoise_mask, state.clean_latent, _places(state.positions)),
                *(_strengths(state.attention_mask), _ramp(other.latent, 1, 2), sigma, step_index, len(sigmas)),
            )
            for state, other, target in zip(states, states[::-1], targets, strict=True)
        )

    return denoise


NOISE_SEED = 11


def _looped(name: str) -> Callable[..., Any]:
    def run(
        sigmas: torch.Tensor, video: Any, audio: Any, targets: tuple[torch.Tensor, torch.Tensor], noise: list[Any]
    ) -> Any:
        """Both final states, the calls that were made (sigma, index, length of the schedule), and the draws."""
        calls: list[Any] = []
        drawn: list[Any] = []
        options: dict[str, Any] = {"stepper": EulerDiffusionStep()}
        if noise:  # drawn as (substep video, substep audio, step video, step audio)
            draws = {
                "substep": iter([x for i, x in enumerate(noise) if i % 4 < 2]),
                "step": iter([x for i, x in enumerate(noise) if i % 4 > 1]),
            }

            def new_noise(latent: torch.Tensor, generator: torch.Generator) -> Any:
                who = "step" if generator.initial_seed() == NOISE_SEED else "substep"
                drawn.append([who, list(latent.shape)])
                return _standardised(next(draws[who]))

            options = {"stepper": Res2sDiffusionStep(), "model_dtype": video.latent.dtype, "new_noise_fn": new_noise}
            options["noise_seed"] = NOISE_SEED
        states = getattr(samplers, name)(
            sigmas=sigmas, video_state=video, audio_state=audio, denoise_fn=stand_in(targets, calls), **options
        )
        return states, _listed(calls), _listed(drawn)

    return run


def _standardised(draw: torch.Tensor) -> Any:
    """The reference's own noise function, given the numbers."""
    with mock.patch.object(samplers.torch, "randn", lambda *shape, **options: draw.double()):
        return samplers._get_new_noise(draw, torch.Generator())


euler_denoising_loop = _looped("euler_denoising_loop")
res2s_audio_video_denoising_loop = _looped("res2s_audio_video_denoising_loop")


class _Network:
    """In place of a transformer: adds up what it is told, and keeps a list of its calls. The same is on our side."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, video: Any, audio: Any, perturbations: Any) -> tuple[torch.Tensor, ...]:
        places = [(i, kind, block) for i, kind in enumerate(PerturbationType) for block in range(3)]
        cut = [p for p in places if perturbations is not None and perturbations.any_in_batch(*p[1:])]
        whole = [p for p in cut if perturbations.all_in_batch(*p[1:])]
        names = [[f"{i}:{block}" for i, _, block in some] for some in (cut, whole)]
        self.calls.append([video.enabled, audio.enabled, *names])
        both = video, audio
        return tuple(
            _told(
                *(m.latent, _ramp(m.context, 1), m.timesteps, m.sigma.reshape(-1, 1, 1), _places(m.positions)),
                *(_strengths(m.attention_mask), m.context_mask, float(m.enabled), _ramp(other.latent, 1, 2)),
                *(_ramp(other.context, 1, 2), sum(2 ** (3 * i + block - 9) for i, _, block in cut), len(whole)),
                getattr(m, "keyframes_mask", None),  # not in 1.0.0
            )
            for m, other in zip(both, both[::-1], strict=True)
        )


def simple(sigmas: torch.Tensor, video: Any, audio: Any, v_context: torch.Tensor, a_context: torch.Tensor) -> Any:
    """The predictions of every step, and the passes that were made for them."""
    network = _Network()
    denoise = helpers.simple_denoising_func(v_context, a_context, network)
    return [denoise(video, audio, sigmas, i) for i in range(len(sigmas) - 1)], _listed(network.calls)


def guided(
    sigmas: torch.Tensor,
    video: Any,
    audio: Any,
    v_context: torch.Tensor,
    a_context: torch.Tensor,
    factories: tuple[Any, Any],
) -> Any:
    network = _Network()
    function = helpers.multi_modal_guider_factory_denoising_func
    denoise = function(*factories, v_context, a_context, transformer=network)
    steps = range(len(sigmas) - 1)
    return [denoise(video_state=video, audio_state=audio, sigmas=sigmas, step_index=i) for i in steps], _listed(
        network.calls
    )
