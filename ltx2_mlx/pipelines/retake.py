"""Re-creates a time span of an existing video from a prompt; everything outside it stays."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..audio_vae import encode_audio
from ..diffusion.conditioning import FrozenStream, TemporalRegionMask
from ..diffusion.guiders import MultiModalGuiderParams
from ..diffusion.noisers import GaussianNoiser
from ..diffusion.schedulers import LTX2Scheduler
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..media.reading import decode_audio_from_file, get_videostream_metadata, load_video_conditioning
from ..tiling import TilingConfig
from ..types import Audio, VideoPixelShape
from . import checks, stages
from .constants import DISTILLED_SIGMA_VALUES
from .ledger import ModelLedger, Settings
from .ti2vid_one_stage import guided


class RetakePipeline:
    """The pipeline that changes a video. Source: ``ltx_pipelines.retake``."""

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
        video_path: str | Path,
        prompt: str,
        start_time: float,
        end_time: float,
        seed: int,
        negative_prompt: str = "",
        num_inference_steps: int = 40,
        video_guider_params: MultiModalGuiderParams | None = None,
        audio_guider_params: MultiModalGuiderParams | None = None,
        regenerate_video: bool = True,
        regenerate_audio: bool = True,
        enhance_prompt: bool = False,
        distilled: bool = False,
        tiling_config: TilingConfig | None = None,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio, of the source's size, rate and length.

        start_time, end_time: seconds. seed: negative for a random one. regenerate_video, regenerate_audio: False keeps
        that stream whole. distilled: eight steps without guidance, for a distilled checkpoint. A source without audio
        gets new audio for its whole length.
        """
        ledger = self.model_ledger
        checks.check_call(
            ledger,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            start_time=start_time,
            end_time=end_time,
            **({} if distilled else {"num_inference_steps": num_inference_steps}),
            video_guider_params=None if distilled else video_guider_params,
            audio_guider_params=None if distilled else audio_guider_params,
        )
        shape = source_shape(video_path)
        check_span(start_time, end_time, shape)
        seed = secrets.randbelow(2**31) if seed < 0 else seed
        generator = ledger.settings.noise(seed)
        span = (start_time, end_time, shape.fps)
        kept = FrozenStream(ledger.behaviour)
        video_mask = TemporalRegionMask(*span) if regenerate_video else kept
        audio_mask = TemporalRegionMask(*span) if regenerate_audio else kept
        initial_video = _encoded_video(ledger, video_path, shape)
        initial_audio = _encoded_audio(ledger, video_path, shape)
        prompts = [prompt] if distilled else [prompt, negative_prompt]
        contexts = stages.prompt_contexts(ledger, prompts, enhance_prompt, seed)
        if distilled:
            sigmas, asking = np.array(DISTILLED_SIGMA_VALUES, np.float32), stages.simple(contexts[0])
        else:
            sigmas, none = LTX2Scheduler().execute(num_inference_steps), MultiModalGuiderParams()
            positive, negative = contexts
            params = (video_guider_params or none, audio_guider_params or none)
            asking = guided(*params, positive, negative, ledger.behaviour)
        video, audio = stages.denoise_audio_video(
            ledger,
            "denoising",
            shape,
            GaussianNoiser(generator, ledger.behaviour),
            sigmas,
            asking,
            conditionings=[video_mask],
            audio_conditionings=[audio_mask] if initial_audio is not None else [],
            initial_video_latent=initial_video,
            initial_audio_latent=initial_audio,
        )
        return stages.decoded(ledger, video, audio, tiling_config, generator)


def check_span(start_time: float, end_time: float, shape: VideoPixelShape | None = None) -> None:
    """Raises InputError for a span of seconds that is empty, or has nothing in common with a video of ``shape``."""
    if not start_time < end_time:
        raise InputError(f"the start time, {start_time:g} s, is not before the end time, {end_time:g} s")
    if shape is not None and (start_time >= (duration := shape.frames / shape.fps) or end_time <= 0):
        raise InputError(
            f"the video lasts {duration:g} s, and nothing of it lies between {start_time:g} s and {end_time:g} s: "
            "change the start or end time"
        )


def source_shape(video_path: str | Path) -> VideoPixelShape:
    """Size, length and rate of a video that can be changed. Raises InputError for others, with what to do."""
    fps, frames, width, height = get_videostream_metadata(video_path)
    shape = {"height": height, "width": width, "num_frames": frames, "frame_rate": fps, "two_stages": False}
    if found := "; ".join(checks.problems(shape, lambda name: name.replace("_", " "))):
        raise InputError(f"{video_path}: {found}. Scale or cut it first, with ffmpeg for example")
    return VideoPixelShape(1, frames, height, width, fps)


def _encoded_video(ledger: ModelLedger, path: str | Path, shape: VideoPixelShape) -> mx.array:
    with ledger.settings.task("encoding the video"), ledger.settings.peaks.phase("source"):
        pixels = load_video_conditioning(path, shape.height, shape.width, shape.frames)
        latent = ledger.video_encoder()(mx.array(pixels).astype(ledger.settings.dtype))
        stages.evaluated(f"encoding {path}", latent)
        mx.clear_cache()
    return latent


def _encoded_audio(ledger: ModelLedger, path: str | Path, shape: VideoPixelShape) -> mx.array | None:
    """``(1, 8, T, 16)`` of the source's audio, cut to the video or filled up with zeros; None where it has none."""
    audio = decode_audio_from_file(path)
    if audio is None:
        return None
    # In bfloat16 the reference rounds the samples before the mel spectrogram, and so do we: its quiet parts are noise.
    waveform = audio.waveform.astype(ledger.settings.dtype)
    with ledger.settings.peaks.phase("sound"):
        latent = encode_audio(Audio(waveform, audio.sampling_rate), ledger.audio_encoder())
        frames = stages.audio_tools(shape).target_shape.frames
        latent = mx.pad(latent, [(0, 0), (0, 0), (0, max(0, frames - latent.shape[2])), (0, 0)])[:, :, :frames]
        stages.evaluated(f"encoding the audio of {path}", latent)
    return latent
