"""A video for given audio: its latent stays fixed in both stages, and the audio itself goes into the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from ..audio_vae import encode_audio
from ..diffusion.denoisers import multi_modal_guider_denoising_func
from ..diffusion.guiders import MultiModalGuider, MultiModalGuiderParams
from ..diffusion.noisers import GaussianNoiser
from ..diffusion.schedulers import LTX2Scheduler
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..media.reading import decode_audio_from_file
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import checks, stages
from .ledger import ModelLedger, Settings

logger = logging.getLogger(__name__)


class A2VidPipelineTwoStage:
    """The pipeline of given audio. Source: ``ltx_pipelines.a2vid_two_stage``.

    distilled_lora: fused in the second stage only, after the others.
    """

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
        video_guider_params: MultiModalGuiderParams,
        images: Sequence[ImageConditioningInput] = (),
        audio_path: str | Path,
        audio_start_time: float = 0.0,
        audio_max_duration: float | None = None,
        tiling_config: TilingConfig | None = None,
        enhance_prompt: bool = False,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio of the file from ``audio_start_time`` seconds on:
        ``audio_max_duration`` seconds of it, or as long as the video.

        Audio that is shorter than the video is followed by silence in what the model hears (the reference refuses it).
        """
        ledger = self.stage_1_model_ledger
        checks.check_call(
            ledger,
            two_stages=True,
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            video_guider_params=video_guider_params,
            audio_start_time=audio_start_time,
            audio_max_duration=audio_max_duration,
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=frame_rate,
            images=images,
        )
        generator = ledger.settings.noise(seed)
        noiser = GaussianNoiser(generator, ledger.behaviour)
        whole = VideoPixelShape(1, num_frames, height, width, frame_rate)
        half = whole._replace(height=height // 2, width=width // 2)
        duration = num_frames / frame_rate
        audio = read_audio(audio_path, audio_start_time, duration if audio_max_duration is None else audio_max_duration)
        positive, negative = stages.prompt_contexts(ledger, [prompt, negative_prompt], enhance_prompt, images=images)
        latent = _encoded(ledger, with_silence(audio, duration), whole)

        video, _ = stages.denoise_audio_video(
            ledger,
            "stage 1",
            half,
            noiser,
            LTX2Scheduler().execute(num_inference_steps),
            lambda transformer: multi_modal_guider_denoising_func(
                MultiModalGuider(video_guider_params, negative.video_encoding),
                MultiModalGuider(MultiModalGuiderParams()),
                *stages.both(positive),
                transformer,
                ledger.behaviour,
            ),
            conditionings=stages.image_conditionings(ledger, images, half),
            initial_audio_latent=latent,
            frozen_audio=True,
        )
        ledger = self.stage_2_model_ledger
        video, _ = stages.second_stage(
            ledger, whole, noiser, video, latent, stages.simple(positive), images, frozen_audio=True
        )
        frames, _ = stages.decoded(ledger, video, None, tiling_config, generator)
        kept = Audio(audio.waveform[0], audio.sampling_rate) if ledger.settings.audio else None
        return frames, kept


def read_audio(path: str | Path, start_time: float, max_duration: float) -> Audio:
    """``(1, channels, samples)`` of a file. Raises InputError where it has no audio from ``start_time`` seconds on."""
    audio = decode_audio_from_file(path, start_time, max_duration)
    if audio is None or audio.waveform.size == 0:
        raise InputError(f"{path} has no audio from {start_time:g} s on: give another file, or an earlier start")
    return audio


def with_silence(audio: Audio, duration: float) -> Audio:
    """``(B, channels, samples)`` followed by silence up to ``duration`` seconds, if it is shorter."""
    missing = round(duration * audio.sampling_rate) - audio.waveform.shape[-1]
    if missing <= 0:
        return audio
    logger.warning("the audio is %.2f s shorter than the video; silence follows it", missing / audio.sampling_rate)
    return Audio(mx.pad(audio.waveform, [(0, 0), (0, 0), (0, missing)]), audio.sampling_rate)


def _encoded(ledger: ModelLedger, audio: Audio, shape: VideoPixelShape) -> mx.array:
    """The latent ``(1, 8, T, 16)`` of the audio, cut to the length of the video."""
    frames = stages.audio_tools(shape).target_shape.frames
    with ledger.settings.peaks.phase("sound"):
        latent = encode_audio(audio, ledger.audio_encoder())
        if latent.shape[2] < frames:  # the encoder rounds down; the last latent frame is less than 40 ms
            latent = mx.concatenate([latent, mx.repeat(latent[:, :, -1:], frames - latent.shape[2], axis=2)], axis=2)
        latent = latent[:, :, :frames]
        stages.evaluated("encoding the audio", latent)
    return latent
