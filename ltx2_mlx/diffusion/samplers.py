"""Denoising loops: both streams together from the first sigma to the last. Source: ``ltx_pipelines.utils.samplers``.

A denoising function takes (video state, audio state, sigmas, step index) and returns both denoised latents. Sigmas are
float32 NumPy arrays that fall. ``progress(done, total)`` is called at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, factorial, log
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..errors import InputError, NotFiniteError
from ..nn.finite import all_finite
from ..nn.noise import Generator
from ..types import LatentState
from .diffusion_steps import EulerAncestralDiffusionStep, EulerDiffusionStep, Res2sDiffusionStep

States = tuple[LatentState, LatentState]
Latents = tuple[mx.array, mx.array]
DenoisingFunc = Callable[[LatentState, LatentState, np.ndarray, int], Latents]
Progress = Callable[[int, int], None]

LAST_SIGMA = 0.0011  # in place of 0, which has no logarithm


def quiet(done: int, total: int) -> None:
    """Report no progress."""


class DenoisingLoop(Protocol):
    """A loop below, or a ``partial`` of one whose other arguments are given."""

    def __call__(
        self,
        sigmas: np.ndarray,
        video_state: LatentState,
        audio_state: LatentState,
        denoise_fn: DenoisingFunc,
        *,
        progress: Progress = quiet,
    ) -> States: ...


def post_process_latent(denoised: mx.array, denoise_mask: mx.array, clean: mx.array) -> mx.array:
    """Put kept tokens back: ``(B, T, C)`` mixed by the mask ``(B, T, 1)`` in float32, in the dtype of ``denoised``."""
    return (denoised * denoise_mask + clean.astype(mx.float32) * (1 - denoise_mask)).astype(denoised.dtype)


def timesteps_from_mask(denoise_mask: mx.array, sigma: float) -> mx.array:
    """``(B, T, 1)`` noise level of each token, float32."""
    return denoise_mask * sigma


def _denoise(denoise_fn: DenoisingFunc, video: LatentState, audio: LatentState, sigmas: np.ndarray, i: int) -> Latents:
    """The denoised latents of both streams, with the kept tokens put back."""
    denoised_video, denoised_audio = denoise_fn(video, audio, sigmas, i)
    return (
        post_process_latent(denoised_video, video.denoise_mask, video.clean_latent),
        post_process_latent(denoised_audio, audio.denoise_mask, audio.clean_latent),
    )


def _evaluated(video: mx.array, audio: mx.array, step: int, total: int) -> None:
    """Evaluate the latents after a step. Raises NotFiniteError where they hold NaN or ∞: no later step heals that."""
    finite = all_finite(video), all_finite(audio)
    mx.eval(video, audio, finite)
    if not (finite[0].item() and finite[1].item()):
        stream = "audio" if finite[0].item() else "video"
        raise NotFiniteError(
            f"step {step} of {total} gave NaN or infinite numbers in the {stream} latent: a scale or a strength is too "
            "large, or the dtype too narrow (try --dtype float32)"
        )


def euler_denoising_loop(
    sigmas: np.ndarray,
    video_state: LatentState,
    audio_state: LatentState,
    denoise_fn: DenoisingFunc,
    *,
    stepper: EulerDiffusionStep | None = None,
    progress: Progress = quiet,
) -> States:
    """Denoise with first-order (Euler) steps."""
    stepper, total = stepper or EulerDiffusionStep(), len(sigmas) - 1
    for i in range(total):
        progress(i, total)
        video, audio = _denoise(denoise_fn, video_state, audio_state, sigmas, i)
        video_state = replace(video_state, latent=stepper.step(video_state.latent, video, sigmas, i))
        audio_state = replace(audio_state, latent=stepper.step(audio_state.latent, audio, sigmas, i))
        _evaluated(video_state.latent, audio_state.latent, i + 1, total)
    progress(total, total)
    return video_state, audio_state


def euler_ancestral_denoising_loop(
    sigmas: np.ndarray,
    video_state: LatentState,
    audio_state: LatentState,
    denoise_fn: DenoisingFunc,
    *,
    generator: Generator,
    stepper: EulerAncestralDiffusionStep | None = None,
    progress: Progress = quiet,
) -> States:
    """Denoise with first-order steps and fresh noise after each but the last, in float32.

    The generator draws that noise for all tokens, kept ones too, in the latent's dtype: video, then audio.
    """
    stepper, total = stepper or EulerAncestralDiffusionStep(), len(sigmas) - 1
    for i in range(total):
        progress(i, total)
        video_x0, audio_x0 = denoise_fn(video_state, audio_state, sigmas, i)
        video = _renoised(stepper, video_state, video_x0, sigmas, i, generator)
        audio = _renoised(stepper, audio_state, audio_x0, sigmas, i, generator)
        video_state, audio_state = replace(video_state, latent=video), replace(audio_state, latent=audio)
        _evaluated(video, audio, i + 1, total)
    progress(total, total)
    return video_state, audio_state


def _renoised(
    stepper: EulerAncestralDiffusionStep,
    state: LatentState,
    denoised: mx.array,
    sigmas: np.ndarray,
    index: int,
    generator: Generator,
) -> mx.array:
    """The latent after a step; kept tokens are put back before it, and again after it."""
    mask, clean, dtype = state.denoise_mask, state.clean_latent, state.latent.dtype
    x0 = post_process_latent(denoised.astype(mx.float32), mask, clean)
    if sigmas[index + 1] == 0:
        return x0.astype(dtype)
    noise = generator.randn(state.latent.shape, dtype)
    after = stepper.step(state.latent, x0, sigmas, index, noise)
    return post_process_latent(after, mask, clean).astype(dtype)


def phi(j: int, neg_h: float) -> float:
    """φⱼ(z) = (eᶻ − Σₖ₍ₖ₌₀..ⱼ₋₁₎ zᵏ/k!) / zʲ, which solves a linear ODE exactly; 1/j! at 0."""
    if abs(neg_h) < 1e-10:
        return 1.0 / factorial(j)
    return (exp(neg_h) - sum(neg_h**k / factorial(k) for k in range(j))) / neg_h**j


def get_res2s_coefficients(h: float, c2: float = 0.5) -> tuple[float, float, float]:
    """(a21, b1, b2) of the exponential Runge-Kutta method with its middle at ``c2``, for a step ``h`` in log σ."""
    b2 = phi(2, -h) / c2
    return c2 * phi(1, -h * c2), phi(1, -h) - b2, b2


def res2s_audio_video_denoising_loop(
    sigmas: np.ndarray,
    video_state: LatentState,
    audio_state: LatentState,
    denoise_fn: DenoisingFunc,
    *,
    step_generator: Generator,
    substep_generator: Generator,
    bongmath_max_iter: int = 100,
    stepper: Res2sDiffusionStep | None = None,
    progress: Progress = quiet,
) -> States:
    """Denoise with second-order steps and fresh noise at each half step and step, in float64 on the host.

    The generators draw that noise: substep (video, audio), then step (video, audio). bongmath_max_iter: how often the
    start of a short step is refined; 0 leaves it as it is.
    """
    stepper, total = stepper or Res2sDiffusionStep(), len(sigmas) - 1
    if sigmas[-1] == 0:
        sigmas = np.array([*sigmas[:-1], LAST_SIGMA, 0.0], np.float32)
    for i in range(total):
        progress(i, total)
        states = [video_state, audio_state]
        sigma, sigma_next = np.float64(sigmas[i]), np.float64(sigmas[i + 1])
        h = -log(sigma_next / sigma)
        a21, b1, b2 = get_res2s_coefficients(h)
        half = np.array([sigma, np.sqrt(sigma * sigma_next)], np.float64)
        first = [_float64(x) for x in _denoise(denoise_fn, video_state, audio_state, sigmas, i)]
        anchors, middles, refine = [], [], h < 0.5 and sigma > 0.03
        for state, x0 in zip(states, first, strict=True):
            anchor = _float64(state.latent)
            middle = anchor + h * a21 * (x0 - anchor)
            middle = _with_noise(stepper, state, anchor, middle, half, 0, substep_generator)
            anchors.append(_refined(anchor, middle, x0, h * a21, bongmath_max_iter if refine else 0))
            middles.append(replace(state, latent=mx.array(middle).astype(state.latent.dtype)))
        second = [_float64(x) for x in _denoise(denoise_fn, middles[0], middles[1], half[1:].astype(np.float32), 0)]
        for k, state in enumerate(states):
            anchor = anchors[k]
            after = anchor + h * (b1 * (first[k] - anchor) + b2 * (second[k] - anchor))
            after = _with_noise(stepper, state, anchor, after, sigmas, i, step_generator)
            states[k] = replace(state, latent=mx.array(after).astype(state.latent.dtype))
        video_state, audio_state = states
        _evaluated(video_state.latent, audio_state.latent, i + 1, total)
    if sigmas[-1] == 0:
        video, audio = _denoise(denoise_fn, video_state, audio_state, sigmas, total)
        video_state, audio_state = replace(video_state, latent=video), replace(audio_state, latent=audio)
        _evaluated(video, audio, total, total)
    progress(total, total)
    return video_state, audio_state


def _float64(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def _refined(anchor: np.ndarray, middle: np.ndarray, x0: np.ndarray, step: float, max_iter: int) -> np.ndarray:
    """The start from which a first-order half step leads to ``middle``: iterated, until nothing changes."""
    for _ in range(max_iter):
        before, anchor = anchor, middle - step * (x0 - anchor)
        if np.array_equal(before, anchor):
            break
    return anchor


def _with_noise(
    stepper: Res2sDiffusionStep,
    state: LatentState,
    sample: np.ndarray,
    denoised: np.ndarray,
    sigmas: np.ndarray,
    index: int,
    generator: Generator,
) -> np.ndarray:
    """Take the step with fresh noise, in float64; kept tokens stay."""
    mask, clean = np.array(state.denoise_mask), np.array(state.clean_latent.astype(mx.float32))
    noised = stepper.step(sample, denoised, sigmas, index, noise=_get_new_noise(sample.shape, generator))
    kept: np.ndarray = noised * mask + clean * (1 - mask)
    return kept


def _get_new_noise(shape: tuple[int, ...], generator: Generator) -> np.ndarray:
    """float64 ``(B, T, C)``: mean 0 and standard deviation 1 (n − 1) over all, then again for each sample."""
    if len(shape) != 3:
        raise InputError(f"the shape of the noise is {shape}, expected (B, T, C)")
    noise = generator.randn64(shape)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    centred = noise - noise.mean(axis=(-2, -1), keepdims=True)
    standard: np.ndarray = centred / noise.std(axis=(-2, -1), ddof=1, keepdims=True)
    return standard
