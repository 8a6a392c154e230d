"""A guided stage of the full model at half the size, then three steps at the full size with the distilled LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from ..diffusion.noisers import GaussianNoiser
from ..diffusion.schedulers import LTX2Scheduler
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import checks, stages
from .ledger import ModelLedger, Settings
from .ti2vid_one_stage import Guidance, guided


class TI2VidTwoStagesPipeline:
    """The pipeline of two stages. Source: ``ltx_pipelines.ti2vid_two_stages``.

    distilled_lora: fused in the second stage only, after the others.
    """

    placing = staticmethod(stages.replacing_the_first_frame)

    def __init__(
        self,
        *,
        checkpoint_path: CheckpointPath,
        distilled_lora: Sequence[LoraPathStrength],
        spatial_upsampler_path: str | Path,
        gemma_root: str | Path | None,
        loras: Sequence[LoraPathStrength] = (),
        settings: Settings | None = None,
    ):
        self.stage_1_model_ledger = ModelLedger(
            checkpoint_path, gemma_root, spatial_upsampler_path, tuple(loras), settings or Settings()
        )
        self.stage_2_model_ledger = self.stage_1_model_ledger.with_additional_loras(tuple(distilled_lora))

    def kept_audio(self, ledger: ModelLedger, first: mx.array, second: mx.array) -> mx.array:
        """The latent of the audio that is decoded, of those of both stages."""
        return ledger.behaviour.audio(first, second)

    def __call__(
        self,
        *,
        prompt: str,
        negative_prompt: str,
        seed: int,
        height: int,
        width: int,
        num_frames: int,
        frame_rate: float,
        num_inference_steps: int,
        video_guider_params: Guidance,
        audio_guider_params: Guidance,
        images: Sequence[ImageConditioningInput] = (),
        tiling_config: TilingConfig | None = None,
        enhance_prompt: bool = False,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio. height, width: multiples of 64."""
        ledger = self.stage_1_model_ledger
        checks.check_call(
            ledger,
            two_stages=True,
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            video_guider_params=video_guider_params,
            audio_guider_params=audio_guider_params,
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=frame_rate,
            images=images,
        )
        generator = ledger.settings.noise(seed)
        noiser = GaussianNoiser(generator, ledger.behaviour)
        positive, negative = stages.prompt_contexts(ledger, [prompt, negative_prompt], enhance_prompt, seed, images)
        whole = VideoPixelShape(1, num_frames, height, width, frame_rate)
        half = whole._replace(height=height // 2, width=width // 2)

        video, audio = stages.denoise_audio_video(
            ledger,
            "stage 1",
            half,
            noiser,
            LTX2Scheduler().execute(num_inference_steps),
            guided(video_guider_params, audio_guider_params, positive, negative, ledger.behaviour),
            conditionings=stages.image_conditionings(ledger, images, half, self.placing),
        )
        ledger = self.stage_2_model_ledger
        video, refined = stages.second_stage(
            ledger, whole, noiser, video, audio, stages.simple(positive), images, self.placing
        )
        audio = self.kept_audio(ledger, audio, refined)
        return stages.decoded(ledger, video, audio, tiling_config, generator)
