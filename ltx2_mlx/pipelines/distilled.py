"""Two stages of a distilled model without guidance: eight steps at half the size, then three at the full size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..diffusion.noisers import GaussianNoiser
from ..diffusion.samplers import DenoisingLoop, euler_ancestral_denoising_loop, euler_denoising_loop
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import checks, stages
from .constants import DISTILLED_SIGMA_VALUES
from .ledger import ModelLedger, Settings

ANCESTRAL_FROM = (2, 5)  # models of this version and later are sampled with fresh noise in the first stage
ANCESTRAL_SEED = 10000  # that noise's seed is this much above the video's


def first_loop(ledger: ModelLedger, seed: int) -> DenoisingLoop:
    """The loop of the first stage. The second is deterministic for every version, as in ltx-pipelines 1.2.0; 1.4.0
    takes ancestral steps in both, and is not followed here."""
    if ledger.release < ANCESTRAL_FROM:
        return euler_denoising_loop
    return partial(euler_ancestral_denoising_loop, generator=ledger.settings.noise(seed + ANCESTRAL_SEED))


class DistilledPipeline:
    """The distilled pipeline. Source: ``ltx_pipelines.distilled``. loras: fused in both stages."""

    def __init__(
        self,
        *,
        distilled_checkpoint_path: CheckpointPath,
        gemma_root: str | Path | None,
        spatial_upsampler_path: str | Path,
        loras: Sequence[LoraPathStrength] = (),
        settings: Settings | None = None,
    ):
        self.model_ledger = ModelLedger(
            distilled_checkpoint_path, gemma_root, spatial_upsampler_path, tuple(loras), settings or Settings()
        )

    def __call__(
        self,
        *,
        prompt: str,
        seed: int,
        height: int,
        width: int,
        num_frames: int,
        frame_rate: float,
        images: Sequence[ImageConditioningInput] = (),
        tiling_config: TilingConfig | None = None,
        enhance_prompt: bool = False,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio. height, width: multiples of 64.

        num_frames: 8k + 1. tiling_config: None lets the decoder choose by memory. Raises InputError for what cannot be
        made.
        """
        ledger = self.model_ledger
        checks.check_call(
            ledger,
            two_stages=True,
            prompt=prompt,
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=frame_rate,
            images=images,
        )
        generator = ledger.settings.noise(seed)
        noiser = GaussianNoiser(generator, ledger.behaviour)
        (context,) = stages.prompt_contexts(ledger, [prompt], enhance_prompt, images=images)
        whole = VideoPixelShape(1, num_frames, height, width, frame_rate)
        half = whole._replace(height=height // 2, width=width // 2)
        keep = not (ledger.settings.low_memory or ledger.settings.placeholder)

        conditionings = stages.image_conditionings(ledger, images, half)
        with ledger.settings.peaks.phase("stage 1"):
            transformer = ledger.transformer() if keep else None
        video, audio = stages.denoise_audio_video(
            ledger,
            "stage 1",
            half,
            noiser,
            np.array(DISTILLED_SIGMA_VALUES, np.float32),
            stages.simple(context),
            conditionings=conditionings,
            loop=first_loop(ledger, seed),
            transformer=transformer,
        )
        video, audio = stages.second_stage(
            ledger, whole, noiser, video, audio, stages.simple(context), images, transformer=transformer
        )
        del transformer
        return stages.decoded(ledger, video, audio, tiling_config, generator)
