"""Attentions that a forward pass leaves out, for each sample of the batch.

Spatio-temporal guidance skips self-attention in some blocks; modality guidance cuts the audio-video attention.
Mirrors ``ltx_core.guidance.perturbations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import mlx.core as mx


class PerturbationType(Enum):
    """The attention that is left out."""

    SKIP_A2V_CROSS_ATTN = "skip_a2v_cross_attn"
    SKIP_V2A_CROSS_ATTN = "skip_v2a_cross_attn"
    SKIP_VIDEO_SELF_ATTN = "skip_video_self_attn"
    SKIP_AUDIO_SELF_ATTN = "skip_audio_self_attn"


@dataclass(frozen=True)
class Perturbation:
    """Skip attention ``type`` in the listed blocks, or in all of them when ``blocks`` is None."""

    type: PerturbationType
    blocks: list[int] | None

    def is_perturbed(self, perturbation_type: PerturbationType, block: int) -> bool:
        return self.type is perturbation_type and (self.blocks is None or block in self.blocks)


@dataclass(frozen=True)
class PerturbationConfig:
    """The perturbations of one sample."""

    perturbations: list[Perturbation] | None

    def is_perturbed(self, perturbation_type: PerturbationType, block: int) -> bool:
        return any(p.is_perturbed(perturbation_type, block) for p in self.perturbations or ())

    @staticmethod
    def empty() -> PerturbationConfig:
        return PerturbationConfig([])


@dataclass(frozen=True)
class BatchedPerturbationConfig:
    """One PerturbationConfig for each sample of the batch."""

    perturbations: list[PerturbationConfig]

    def mask_like(self, perturbation_type: PerturbationType, block: int, values: mx.array) -> mx.array:
        """``(B, 1, …)`` in the dtype and rank of ``values``: 0 for the samples that are perturbed, 1 for the others."""
        keep = [0.0 if p.is_perturbed(perturbation_type, block) else 1.0 for p in self.perturbations]
        return mx.array(keep, dtype=values.dtype).reshape(-1, *[1] * (values.ndim - 1))

    def any_in_batch(self, perturbation_type: PerturbationType, block: int) -> bool:
        return any(p.is_perturbed(perturbation_type, block) for p in self.perturbations)

    def all_in_batch(self, perturbation_type: PerturbationType, block: int) -> bool:
        return all(p.is_perturbed(perturbation_type, block) for p in self.perturbations)

    @staticmethod
    def empty(batch_size: int) -> BatchedPerturbationConfig:
        return BatchedPerturbationConfig([PerturbationConfig.empty()] * batch_size)
