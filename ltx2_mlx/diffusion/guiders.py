"""Guidance: what is added to the conditioned prediction, from predictions that lack something.

All deltas take and return denoised latents ``(B, T, C)`` in their own dtype. Source: ``ltx_core.components.guiders``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx

from ..errors import InputError


def projection_coef(to_project: mx.array, project_onto: mx.array) -> mx.array:
    """``(B, 1)``: how much of ``project_onto`` lies in ``to_project``, sample by sample."""
    return _dot(to_project, project_onto) / (_dot(project_onto, project_onto) + 1e-8)


def _dot(a: mx.array, b: mx.array) -> mx.array:
    """``(B, 1)`` in the dtype of ``a``, summed in float32 over one axis after the other: a single sum over all of a
    latent is three times as far off (tap: cfg_star)."""
    product = (a * b).astype(mx.float32)
    while product.ndim > 1:
        product = product.sum(axis=-1)
    return product[:, None].astype(a.dtype)


def _projected(to_project: mx.array, project_onto: mx.array) -> mx.array:
    """The part of ``to_project`` along ``project_onto``. The reference broadcasts this right for one sample only."""
    coefficient = projection_coef(to_project, project_onto)
    return coefficient.reshape(-1, *[1] * (project_onto.ndim - 1)) * project_onto


def _limited(guidance: mx.array, norm_threshold: float) -> mx.array:
    """Scaled down to an L2 norm of ``norm_threshold`` over the last three axes, where it is longer; 0 for no limit."""
    if norm_threshold <= 0:
        return guidance
    norm = mx.sqrt(mx.sum(mx.square(guidance.astype(mx.float32)), axis=(-1, -2, -3), keepdims=True))
    return guidance * mx.minimum(1.0, norm_threshold / norm.astype(guidance.dtype))


def _parallel_scaled(guidance: mx.array, cond: mx.array, eta: float) -> mx.array:
    """The part of ``guidance`` along ``cond`` times ``eta``, the part across it unchanged."""
    parallel = _projected(guidance, cond)
    return parallel * eta + (guidance - parallel)


@dataclass(frozen=True)
class CFGGuider:
    """Classifier-free guidance; 1 is none."""

    scale: float

    def delta(self, cond: mx.array, uncond: mx.array) -> mx.array:
        return (self.scale - 1) * (cond - uncond)

    def enabled(self) -> bool:
        return self.scale != 1.0


@dataclass(frozen=True)
class CFGStarRescalingGuider:
    """CFG with the unconditioned prediction rescaled to the conditioned one."""

    scale: float

    def delta(self, cond: mx.array, uncond: mx.array) -> mx.array:
        return (self.scale - 1) * (cond - _projected(cond, uncond))

    def enabled(self) -> bool:
        return self.scale != 1.0


@dataclass(frozen=True)
class STGGuider:
    """Spatio-temporal guidance away from a prediction with attention skipped; 0 is none."""

    scale: float

    def delta(self, pos_denoised: mx.array, perturbed_denoised: mx.array) -> mx.array:
        return self.scale * (pos_denoised - perturbed_denoised)

    def enabled(self) -> bool:
        return self.scale != 0.0


@dataclass(frozen=True)
class LtxAPGGuider:
    """Adaptive projected guidance: CFG with its part along the prediction weighted by ``eta``."""

    scale: float
    eta: float = 1.0
    norm_threshold: float = 0.0

    def delta(self, cond: mx.array, uncond: mx.array) -> mx.array:
        guidance = _limited(cond - uncond, self.norm_threshold)
        return _parallel_scaled(guidance, cond, self.eta) * (self.scale - 1)

    def enabled(self) -> bool:
        return self.scale != 1.0


@dataclass
class LegacyStatefulAPGGuider:
    """APG with momentum over the steps: one instance for each stream of each denoising."""

    scale: float
    eta: float
    norm_threshold: float = 5.0
    momentum: float = 0.0
    running_avg: mx.array | None = None

    def delta(self, cond: mx.array, uncond: mx.array) -> mx.array:
        guidance = cond - uncond
        if self.momentum != 0:
            if self.running_avg is not None:
                guidance = self.momentum * self.running_avg + guidance
            self.running_avg = guidance
        return _parallel_scaled(_limited(guidance, self.norm_threshold), cond, self.eta) * self.scale

    def enabled(self) -> bool:
        return self.scale != 0.0


@dataclass(frozen=True)
class MultiModalGuiderParams:
    """Scales of text (``cfg``, 1 is none), perturbation (``stg``, 0 is none) and other modality (1 is none) guidance.

    stg_blocks: blocks whose self-attention the perturbed pass skips. rescale_scale: how far the result's std is pulled
    to the conditioned prediction's, 0 to 1. skip_step: guide every ``skip_step + 1``-th step only.
    """

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: list[int] | None = field(default_factory=list)
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0


@dataclass(frozen=True)
class MultiModalGuider:
    """The guidance of one stream at one step. negative_context: ``(B, S, C)`` text of the unconditioned pass."""

    params: MultiModalGuiderParams
    negative_context: mx.array | None = None

    def calculate(
        self,
        cond: mx.array,
        uncond_text: mx.array | float,
        uncond_perturbed: mx.array | float,
        uncond_modality: mx.array | float,
    ) -> mx.array:
        """Guided prediction in the dtype of ``cond``; a pass that was not run is 0, and its scale the neutral one."""
        p = self.params
        pred = (
            cond
            + (p.cfg_scale - 1) * (cond - uncond_text)
            + p.stg_scale * (cond - uncond_perturbed)
            + (p.modality_scale - 1) * (cond - uncond_modality)
        )
        if p.rescale_scale != 0:
            factor = _std(cond) / _std(pred)
            pred = pred * (p.rescale_scale * factor + (1 - p.rescale_scale))
        return pred

    def do_unconditional_generation(self) -> bool:
        return not math.isclose(self.params.cfg_scale, 1.0)

    def do_perturbed_generation(self) -> bool:
        return not math.isclose(self.params.stg_scale, 0.0)

    def do_isolated_modality_generation(self) -> bool:
        return not math.isclose(self.params.modality_scale, 1.0)

    def should_skip_step(self, step: int) -> bool:
        return step % (self.params.skip_step + 1) != 0


def _std(x: mx.array) -> mx.array:
    """Over all elements, unbiased (n − 1) as torch's default is, accumulated in float32, in the dtype of ``x``."""
    return mx.std(x.astype(mx.float32), ddof=1).astype(x.dtype)


@dataclass(frozen=True)
class MultiModalGuiderFactory:
    """A guider for every sigma. Bins are (upper bound, params), bounds falling; each reaches down to the next."""

    negative_context: mx.array | None = None
    params_by_sigma: tuple[tuple[float, MultiModalGuiderParams], ...] = ()

    @classmethod
    def constant(
        cls, params: MultiModalGuiderParams, negative_context: mx.array | None = None
    ) -> MultiModalGuiderFactory:
        return cls(negative_context, ((math.inf, params),))

    @classmethod
    def from_dict(
        cls, sigma_to_params: Mapping[float, MultiModalGuiderParams], negative_context: mx.array | None = None
    ) -> MultiModalGuiderFactory:
        """``sigma_to_params``: upper bound of a bin → its parameters."""
        if not sigma_to_params:
            raise InputError("guidance by sigma needs at least one bin")
        bins = sorted(sigma_to_params.items(), key=lambda item: item[0], reverse=True)
        return cls(negative_context, tuple(bins))

    def params(self, sigma: float) -> MultiModalGuiderParams:
        """Those of the smallest bound that is at least ``sigma``; above all bounds, those of the largest."""
        at_least = [params for bound, params in self.params_by_sigma if bound >= float(sigma)]
        return at_least[-1] if at_least else self.params_by_sigma[0][1]

    def build_from_sigma(self, sigma: float) -> MultiModalGuider:
        return MultiModalGuider(self.params(sigma), self.negative_context)


def create_multimodal_guider_factory(
    params: MultiModalGuiderParams | MultiModalGuiderFactory, negative_context: mx.array | None = None
) -> MultiModalGuiderFactory:
    """A factory of constant parameters; a factory gets this negative context, where there is one."""
    if isinstance(params, MultiModalGuiderParams):
        return MultiModalGuiderFactory.constant(params, negative_context)
    return params if negative_context is None else replace(params, negative_context=negative_context)
