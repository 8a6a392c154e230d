"""Two stages with the second-order sampler and the distilled LoRA in both: fewer steps, each of two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..diffusion.noisers import GaussianNoiser
from ..diffusion.samplers import DenoisingLoop, res2s_audio_video_denoising_loop
from ..diffusion.schedulers import LTX2Scheduler
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import checks, stages
from .ledger import ModelLedger, Settings
from .ti2vid_one_stage import Guidance, guided

SUBSTEP_SEED = 10000  # the substeps' seed is this much above the steps'


def check_distilled_lora(loras: Sequence[LoraPathStrength]) -> None:
    """Raises InputError for more than one, or none: the reference takes the first and drops the others."""
    if len(loras) != 1:
        raise InputError(f"{len(loras)} distilled LoRAs were given, expected one")


class TI2VidTwoStagesHQPipeline:
    """The pipeline of two second-order stages. Source: ``ltx_pipelines.ti2vid_two_stages_hq``."""

    def __init__(
        self,
        *,
        checkpoint_path: CheckpointPath,
        distilled_lora: Sequence[LoraPathStrength],
        distilled_lora_strength_stage_1: float,
        distilled_lora_strength_stage_2: float,
        spatial_upsampler_path: str | Path,
        gemma_root: str | Path | None,
        loras: Sequence[LoraPathStrength] = (),
        settings: Settings | None = None,
    ):
        check_distilled_lora(distilled_lora)
        strengths = (distilled_lora_strength_stage_1, distilled_lora_strength_stage_2)
        with_distilled = [(*loras, replace(distilled_lora[0], strength=strength)) for strength in strengths]
        self.stage_1_model_ledger = ModelLedger(
            checkpoint_path, gemma_root, spatial_upsampler_path, with_distilled[0], settings or Settings()
        )
        self.stage_2_model_ledger = self.stage_1_model_ledger.with_loras(with_distilled[1])

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
        noise_seed: int | None = None,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio. height, width: multiples of 64.

        noise_seed: of the sampler's own noise. None takes a different one for each seed and stage; the reference takes
        −1, whatever the seed is.
        """
        ledger = self.stage_1_model_ledger
        checks.check_call(
            ledger,
            two_stages=True,
            prompt=prompt,
            tokens=True,
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

        def loop(stage: int) -> DenoisingLoop:
            first = seed + stage * 2 * SUBSTEP_SEED if noise_seed is None else noise_seed
            return partial(
                res2s_audio_video_denoising_loop,
                step_generator=ledger.settings.noise(first),
                substep_generator=ledger.settings.noise(first + SUBSTEP_SEED),
            )

        tokens = stages.video_tools(half).target_shape.token_count()
        video, audio = stages.denoise_audio_video(
            ledger,
            "stage 1",
            half,
            noiser,
            LTX2Scheduler().execute(num_inference_steps, tokens=tokens),
            guided(video_guider_params, audio_guider_params, positive, negative, ledger.behaviour),
            conditionings=stages.image_conditionings(ledger, images, half),
            loop=loop(1),
        )
        ledger = self.stage_2_model_ledger
        video, refined = stages.second_stage(
            ledger, whole, noiser, video, audio, stages.simple(positive), images, loop=loop(2)
        )
        audio = ledger.behaviour.audio(audio, refined)
        return stages.decoded(ledger, video, audio, tiling_config, generator)
