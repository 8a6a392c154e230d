"""One guided stage of the full model at the full size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..diffusion.behaviour import Behaviour
from ..diffusion.denoisers import multi_modal_guider_factory_denoising_func
from ..diffusion.guiders import MultiModalGuiderFactory, MultiModalGuiderParams, create_multimodal_guider_factory
from ..diffusion.noisers import GaussianNoiser
from ..diffusion.schedulers import LTX2Scheduler
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..text.embeddings import EmbeddingsProcessorOutput
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import checks, stages
from .ledger import ModelLedger, Settings

Guidance = MultiModalGuiderParams | MultiModalGuiderFactory


def guided(
    video: Guidance,
    audio: Guidance,
    positive: EmbeddingsProcessorOutput,
    negative: EmbeddingsProcessorOutput,
    behaviour: Behaviour,
) -> stages.Asking:
    """Denoising with guidance of both streams, away from the negative prompt."""
    factories = (
        create_multimodal_guider_factory(video, negative.video_encoding),
        create_multimodal_guider_factory(audio, negative.audio_encoding),
    )
    contexts = stages.both(positive)
    return lambda transformer: multi_modal_guider_factory_denoising_func(*factories, *contexts, transformer, behaviour)


class TI2VidOneStagePipeline:
    """The pipeline of one guided stage. Source: ``ltx_pipelines.ti2vid_one_stage``."""

    def __init__(
        self,
        *,
        checkpoint_path: CheckpointPath,
        gemma_root: str | Path | None,
        loras: Sequence[LoraPathStrength] = (),
        settings: Settings | None = None,
    ):
        self.model_ledger = ModelLedger(checkpoint_path, gemma_root, None, tuple(loras), settings or Settings())

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
        enhance_prompt: bool = False,
        tiling_config: TilingConfig | None = None,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio. height, width: multiples of 32 from 64 on.

        The reference takes no tiling_config here and decodes in one piece; None lets our decoder choose by memory.
        """
        ledger = self.model_ledger
        checks.check_call(
            ledger,
            two_stages=False,
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
        positive, negative = stages.prompt_contexts(ledger, [prompt, negative_prompt], enhance_prompt, seed, images)
        shape = VideoPixelShape(1, num_frames, height, width, frame_rate)
        video, audio = stages.denoise_audio_video(
            ledger,
            "denoising",
            shape,
            GaussianNoiser(generator, ledger.behaviour),
            LTX2Scheduler().execute(num_inference_steps),
            guided(video_guider_params, audio_guider_params, positive, negative, ledger.behaviour),
            conditionings=stages.image_conditionings(ledger, images, shape),
        )
        return stages.decoded(ledger, video, audio, tiling_config, generator)
