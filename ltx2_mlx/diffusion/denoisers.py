"""Denoising functions: a step calls the transformer once, or once for each kind of guidance.

Source: ``ltx_pipelines.utils.helpers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..types import LatentState, Modality
from .behaviour import V1_0_0, Behaviour
from .guiders import MultiModalGuider, MultiModalGuiderFactory
from .perturbations import BatchedPerturbationConfig, Perturbation, PerturbationConfig, PerturbationType
from .samplers import DenoisingFunc, Latents, timesteps_from_mask

# Latents, or 0 for those of a pass that no guider asks for.
Prediction = tuple[mx.array, mx.array] | tuple[float, float]
# Video and audio as the transformer takes them, and perturbations → the denoised latents of both.
Denoiser = Callable[[Modality | None, Modality | None, BatchedPerturbationConfig | None], Latents]
Pass = tuple[Modality, Modality, BatchedPerturbationConfig | None]  # what one call of a Denoiser gets


@runtime_checkable
class Sharing(Protocol):
    """A denoiser that is given all passes of a step at once, since several ranks share them."""

    def shared(self, passes: Sequence[Pass]) -> list[Latents]: ...


def modality_from_latent_state(state: LatentState, context: mx.array, sigma: float, enabled: bool = True) -> Modality:
    """``state`` as the transformer takes it, at noise level ``sigma``, or at its own. Tokens that share one
    timestep share its embedding, ``(B, 1, 1)``: a timestep for each would cost gigabytes at full size, for the same
    numbers."""
    mask, sigma = state.denoise_mask, sigma if state.sigma is None else state.sigma
    if mx.all(mask == mask[:, :1]).item():
        mask = mask[:, :1]
    return Modality(
        latent=state.latent,
        sigma=mx.full((state.latent.shape[0],), sigma, mx.float32),
        timesteps=timesteps_from_mask(mask, sigma),
        positions=state.positions,
        context=context,
        enabled=enabled,
        attention_mask=state.attention_mask,
        keyframes_mask=state.keyframes_mask,
    )


def simple_denoising_func(video_context: mx.array, audio_context: mx.array, transformer: Denoiser) -> DenoisingFunc:
    """One pass without guidance, for distilled models. Contexts: ``(B, S, C)``."""

    def denoise(video: LatentState, audio: LatentState, sigmas: np.ndarray, step_index: int) -> Latents:
        sigma = float(sigmas[step_index])
        return transformer(
            modality_from_latent_state(video, video_context, sigma),
            modality_from_latent_state(audio, audio_context, sigma),
            None,
        )

    return denoise


def multi_modal_guider_denoising_func(
    video_guider: MultiModalGuider,
    audio_guider: MultiModalGuider,
    v_context: mx.array,
    a_context: mx.array,
    transformer: Denoiser,
    behaviour: Behaviour = V1_0_0,
) -> DenoisingFunc:
    """Up to four passes a step, each with both streams: with the prompt, with the negative one, with some
    self-attention left out, and with the streams cut from each other."""
    return multi_modal_guider_factory_denoising_func(
        MultiModalGuiderFactory.constant(video_guider.params, video_guider.negative_context),
        MultiModalGuiderFactory.constant(audio_guider.params, audio_guider.negative_context),
        v_context,
        a_context,
        transformer,
        behaviour,
    )


def multi_modal_guider_factory_denoising_func(
    video_guider_factory: MultiModalGuiderFactory,
    audio_guider_factory: MultiModalGuiderFactory,
    v_context: mx.array,
    a_context: mx.array,
    transformer: Denoiser,
    behaviour: Behaviour = V1_0_0,
) -> DenoisingFunc:
    """Like ``multi_modal_guider_denoising_func``, with guidance that depends on the sigma.

    Make a new function for each denoising: it remembers the last result for the steps that a guider skips.
    """
    last: Latents | None = None

    def denoise(video: LatentState, audio: LatentState, sigmas: np.ndarray, step_index: int) -> Latents:
        nonlocal last
        sigma = float(sigmas[step_index])
        guiders = (video_guider_factory.build_from_sigma(sigma), audio_guider_factory.build_from_sigma(sigma))
        skipped = tuple(guider.should_skip_step(step_index) for guider in guiders)
        if last is not None and all(skipped):
            return last
        streams = (
            modality_from_latent_state(video, v_context, sigma, enabled=not skipped[0]),
            modality_from_latent_state(audio, a_context, sigma, enabled=not skipped[1]),
        )
        v_negative, a_negative = (guider.negative_context for guider in guiders)
        negative = (
            modality_from_latent_state(video, v_context if v_negative is None else v_negative, sigma),
            modality_from_latent_state(audio, a_context if a_negative is None else a_negative, sigma),
        )
        conditioned, *others = _passes(transformer, guiders, streams, negative)

        def guided(k: int) -> mx.array:
            if last is not None and skipped[k]:
                return last[k]
            return behaviour.guided(guiders[k], conditioned[k], [prediction[k] for prediction in others])

        last = guided(0), guided(1)
        return last

    return denoise


def _passes(
    transformer: Denoiser,
    guiders: tuple[MultiModalGuider, MultiModalGuider],
    streams: tuple[Modality, Modality],
    negative: tuple[Modality, Modality],
) -> tuple[Latents, Prediction, Prediction, Prediction]:
    """The four predictions of both streams, 0 for one that no guider asks for."""
    asked: dict[str, Pass] = {}

    def ask(name: str, video: Modality, audio: Modality, *skips: Perturbation) -> None:
        perturbations = BatchedPerturbationConfig([PerturbationConfig(list(skips))] * video.latent.shape[0])
        asked[name] = video, audio, perturbations if skips else None

    ask("conditioned", *streams)
    if any(guider.do_unconditional_generation() for guider in guiders):
        if any(guider.do_unconditional_generation() and guider.negative_context is None for guider in guiders):
            raise InputError(
                "guidance away from a negative prompt (cfg_scale other than 1) needs negative_context, and it is None"
            )
        ask("unconditioned", *negative)
    kinds = (PerturbationType.SKIP_VIDEO_SELF_ATTN, PerturbationType.SKIP_AUDIO_SELF_ATTN)
    skips = [
        Perturbation(kind, guider.params.stg_blocks)
        for kind, guider in zip(kinds, guiders, strict=True)
        if guider.do_perturbed_generation()
    ]
    if skips:
        ask("perturbed", *streams, *skips)
    if any(guider.do_isolated_modality_generation() for guider in guiders):
        cut = (PerturbationType.SKIP_A2V_CROSS_ATTN, PerturbationType.SKIP_V2A_CROSS_ATTN)
        ask("isolated", *streams, *(Perturbation(kind, None) for kind in cut))
    made = dict(zip(asked, predicted(transformer, list(asked.values())), strict=True))
    none: Prediction = (0.0, 0.0)
    unconditioned, perturbed, isolated = (made.get(name, none) for name in ("unconditioned", "perturbed", "isolated"))
    return made["conditioned"], unconditioned, perturbed, isolated


def predicted(transformer: Denoiser, passes: Sequence[Pass]) -> list[Latents]:
    """The prediction of each pass. Each is computed before the next, so that one pass at a time is in memory."""
    if isinstance(transformer, Sharing):
        return transformer.shared(passes)
    results = []
    for each in passes:
        results.append(transformer(*each))
        mx.eval(results[-1])
    return results
