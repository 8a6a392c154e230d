"""Ours as upstream computes it, by the calls of ``parity/sides/torch/upstream.py``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from .mlx import _listed, _Network, _Recorded, stand_in

Size = Sequence[int]


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")  # looked up when called, see sides/mlx.py


def _upstream() -> Any:
    return _product("diffusion.behaviour").UPSTREAM


def ancestral_coefficients(sigmas: mx.array, index: int, eta: float) -> np.ndarray:
    stepper, host = _product("diffusion.diffusion_steps").EulerAncestralDiffusionStep(eta), np.array(sigmas)
    return np.array(stepper.coefficients(float(host[index]), float(host[index + 1])))


def ancestral_step(
    sample: mx.array,
    denoised: mx.array,
    noise: mx.array,
    sigmas: mx.array,
    index: int,
    eta: float,
    s_noise: float = 1.0,
) -> mx.array:
    stepper = _product("diffusion.diffusion_steps").EulerAncestralDiffusionStep(eta, s_noise)
    stepped: mx.array = stepper.step(sample, denoised, np.array(sigmas), index, noise)
    return stepped


def euler_ancestral_denoising_loop(
    sigmas: mx.array, video: Any, audio: Any, targets: tuple[mx.array, mx.array], noise: list[mx.array]
) -> Any:
    calls: list[Any] = []
    drawn: list[Any] = []
    loop = _product("diffusion.samplers").euler_ancestral_denoising_loop
    generator = _Recorded(noise, drawn)
    states = loop(np.array(sigmas), video, audio, stand_in(targets, calls), generator=generator)
    return [state.latent for state in states], _listed(calls), _listed(drawn)


def _tools(size: Size, fps: float) -> Any:
    patchifier = _product("diffusion.patchifiers").VideoLatentPatchifier(1)
    shape = _product("types").VideoLatentShape(*size)
    tools = _product("diffusion.latent_state").VideoLatentTools
    return tools(patchifier, shape, fps, behaviour=_upstream(), marks_keyframes=True)


def video_positions(size: Size, fps: float, dtype: mx.Dtype) -> mx.array:
    positions: mx.array = _tools(size, fps).create_initial_state(dtype).positions
    return positions


def _with(item: Any, state: Any, size: Size, fps: float = 24.0) -> dict[str, Any]:
    """A state with a condition, of the marks that an empty one has."""
    tools = _tools(size, fps)
    marks = tools.create_initial_state(state.latent.dtype).keyframes_mask
    result = item.apply_to(replace(state, keyframes_mask=marks), tools)
    names = ("latent", "clean_latent", "denoise_mask", "positions", "keyframes_mask")
    return {name: getattr(result, name) for name in names}


def with_keyframe(
    state: Any, latent: mx.array, frame_idx: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByKeyframeIndex(latent, frame_idx, strength)
    return _with(item, state, size, fps)


def with_reference(
    state: Any, latent: mx.array, factor: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByReferenceLatent(latent, factor, strength)
    return _with(item, state, size, fps)


def with_replaced(state: Any, latent: mx.array, latent_idx: int, strength: float, size: Size) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByLatentIndex(latent, strength, latent_idx)
    return _with(item, state, size)


def noise_interpolated(noise: mx.array, state: Any, scale: float) -> mx.array:
    noiser = _product("diffusion.noisers").GaussianNoiser(_Recorded([noise], []), _upstream())
    latent: mx.array = noiser(state, scale).latent
    return latent


def guidance_in_float32(scales: dict[str, float], cond: mx.array, **others: mx.array) -> mx.array:
    guiders = _product("diffusion.guiders")
    guider = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(**scales))
    ordered = [others[f"uncond_{name}"] for name in ("text", "perturbed", "modality")]
    guided: mx.array = _upstream().guided(guider, cond, ordered)
    return guided


def frozen_stream(sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array) -> Any:
    network = _Network()
    denoise = _product("diffusion.denoisers").simple_denoising_func(v_context, a_context, network)
    frozen = _product("diffusion.conditioning").FrozenStream(_upstream()).apply_to(audio, None)
    results = [denoise(video, frozen, np.array(sigmas), i) for i in range(len(sigmas) - 1)]
    return results, _listed(network.calls)
