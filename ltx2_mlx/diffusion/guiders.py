"""Guidance: the conditioned prediction is moved away from predictions that lack something.

Source: ``ltx_core.components.guiders``. Of its guiders this is the one that ltx-pipelines uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx

from ..errors import InputError


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
    """The standard deviation of all elements, unbiased (n − 1) as in torch, computed in float32."""
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
            raise InputError("sigma_to_params is empty: guidance by sigma needs at least one bin")
        bins = sorted(sigma_to_params.items(), key=lambda item: item[0], reverse=True)
        return cls(negative_context, tuple(bins))

    def params(self, sigma: float) -> MultiModalGuiderParams:
        """The parameters of the smallest bound that is at least ``sigma``; above all bounds, of the largest."""
        at_least = [params for bound, params in self.params_by_sigma if bound >= float(sigma)]
        return at_least[-1] if at_least else self.params_by_sigma[0][1]

    def build_from_sigma(self, sigma: float) -> MultiModalGuider:
        return MultiModalGuider(self.params(sigma), self.negative_context)


def create_multimodal_guider_factory(
    params: MultiModalGuiderParams | MultiModalGuiderFactory, negative_context: mx.array | None = None
) -> MultiModalGuiderFactory:
    """Make a factory from constant parameters; a given factory gets the negative context, where there is one."""
    if isinstance(params, MultiModalGuiderParams):
        return MultiModalGuiderFactory.constant(params, negative_context)
    return params if negative_context is None else replace(params, negative_context=negative_context)
