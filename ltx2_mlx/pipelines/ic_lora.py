"""Two distilled stages; the first follows a reference video (depth, pose, edges …) through an in-context LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..diffusion.conditioning import (
    ConditioningItemAttentionStrengthWrapper,
    VideoConditionByReferenceLatent,
)
from ..diffusion.noisers import GaussianNoiser
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength, lora_metadata
from ..media.reading import load_video_conditioning, probe
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from ..video_vae import VideoEncoder, crop_frames
from . import checks, stages
from .constants import DISTILLED_SIGMA_VALUES
from .ledger import ModelLedger, Settings


class ICLoraPipeline:
    """The pipeline of in-context LoRAs. Source: ``ltx_pipelines.ic_lora``. loras: fused in the first stage only."""

    def __init__(
        self,
        *,
        distilled_checkpoint_path: CheckpointPath,
        spatial_upsampler_path: str | Path,
        gemma_root: str | Path | None,
        loras: Sequence[LoraPathStrength],
        settings: Settings | None = None,
    ):
        self.stage_1_model_ledger = ModelLedger(
            distilled_checkpoint_path, gemma_root, spatial_upsampler_path, tuple(loras), settings or Settings()
        )
        self.stage_2_model_ledger = self.stage_1_model_ledger.with_loras(())
        self.reference_downscale_factor = reference_downscale_factor(loras)

    def __call__(
        self,
        *,
        prompt: str,
        seed: int,
        height: int,
        width: int,
        num_frames: int,
        frame_rate: float,
        images: Sequence[ImageConditioningInput],
        video_conditioning: Sequence[tuple[str | Path, float]],
        enhance_prompt: bool = False,
        tiling_config: TilingConfig | None = None,
        conditioning_attention_strength: float = 1.0,
        skip_stage_2: bool = False,
        conditioning_attention_mask: mx.array | None = None,
    ) -> tuple[stages.Frames, Audio | None]:
        """Frames in chunks of uint8 ``(F, H, W, 3)``, and the audio. height, width: multiples of 64.

        video_conditioning: (path, strength) of each reference video. conditioning_attention_strength: how far the video
        and its references attend to each other, 0 to 1; conditioning_attention_mask: the same by region, times that,
        ``(1, 1, F, H, W)`` in pixels of the reference. skip_stage_2: the result has half the height and width.
        """
        ledger = self.stage_1_model_ledger
        checks.check_call(
            ledger,
            two_stages=True,
            prompt=prompt,
            video_conditioning=video_conditioning,
            conditioning_attention_strength=conditioning_attention_strength,
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=frame_rate,
            images=images,
        )
        whole = VideoPixelShape(1, num_frames, height, width, frame_rate)
        half = whole._replace(height=height // 2, width=width // 2)
        reference = reference_shape(half, self.reference_downscale_factor)
        generator = ledger.settings.noise(seed)
        noiser = GaussianNoiser(generator, ledger.behaviour)
        (context,) = stages.prompt_contexts(ledger, [prompt], enhance_prompt, seed, images)

        encoder = ledger.video_encoder()
        conditionings = stages.image_conditionings(ledger, images, half, video_encoder=encoder)
        for path, strength in video_conditioning:
            latent = _encoded(ledger, encoder, path, reference)
            mask = _attention_mask(latent, conditioning_attention_strength, conditioning_attention_mask)
            item = VideoConditionByReferenceLatent(latent, self.reference_downscale_factor, strength)
            conditionings.append(_limited(item, mask))
        del encoder
        video, audio = stages.denoise_audio_video(
            ledger,
            "stage 1",
            half,
            noiser,
            np.array(DISTILLED_SIGMA_VALUES, np.float32),
            stages.simple(context),
            conditionings=conditionings,
        )
        if skip_stage_2:
            return stages.decoded(ledger, video, audio, tiling_config, generator)
        ledger = self.stage_2_model_ledger
        video, audio = stages.second_stage(ledger, whole, noiser, video, audio, stages.simple(context), images)
        return stages.decoded(ledger, video, audio, tiling_config, generator)


def reference_downscale_factor(loras: Sequence[LoraPathStrength]) -> int:
    """The factor by which reference videos are smaller than the first stage, as the LoRAs were trained. Raises
    InputError where they do not agree."""
    factors = {lora_metadata(lora.path).reference_downscale_factor for lora in loras} - {1}
    if len(factors) > 1:
        sizes = ", ".join(f"1/{factor}" for factor in sorted(factors))
        raise InputError(f"the LoRAs need reference videos of different sizes ({sizes}): use them one at a time")
    return factors.pop() if factors else 1


def reference_shape(target: VideoPixelShape, factor: int) -> VideoPixelShape:
    """The size of reference videos in pixels: that of the first stage, ``target``, divided by ``factor``."""
    step = 32 * factor
    if target.height % step or target.width % step:
        raise InputError(
            f"this LoRA's reference videos are 1/{factor} of the first stage's {target.height}x{target.width}, "
            f"which must then be multiples of {step}: make height and width multiples of {2 * step}"
        )
    return target._replace(height=target.height // factor, width=target.width // factor)


def _encoded(ledger: ModelLedger, encoder: VideoEncoder, path: str | Path, shape: VideoPixelShape) -> mx.array:
    """The latent of a reference video: as many frames as both it and the target have, cut to 8k + 1."""
    with ledger.settings.task(f"encoding {Path(path).name}"), ledger.settings.peaks.phase("references"):
        pixels = mx.array(load_video_conditioning(path, shape.height, shape.width, shape.frames))
        latent = encoder(crop_frames(pixels).astype(ledger.settings.dtype))
        stages.evaluated(f"encoding {path}", latent)
    return latent


def _limited(item: stages.VideoItem, mask: float | mx.array | None) -> stages.VideoItem:
    return item if mask is None else ConditioningItemAttentionStrengthWrapper(item, mask)


def _attention_mask(latent: mx.array, strength: float, mask: mx.array | None) -> float | mx.array | None:
    """The attention strength: one for each token of the latent, one for all, or None for full attention."""
    if mask is not None:
        _, _, f, h, w = latent.shape
        return downsample_mask_to_latent(mask, (f, h, w)) * strength
    return strength if strength < 1.0 else None


def downsample_mask_to_latent(mask: mx.array, size: tuple[int, int, int]) -> mx.array:
    """``(B, 1, F, H, W)`` in pixels → ``(B, f·h·w)``: means over what a latent cell covers, the first frame alone."""
    B, _, F, H, W = mask.shape
    f, h, w = size
    if H % h or W % w or not covers(F, f):
        raise InputError(f"an attention mask of {F} frames of {H}x{W} does not fit a latent of {f}x{h}x{w}")
    small = mask.reshape(B, F, h, H // h, w, W // w).mean(axis=(3, 5))
    first = small[:, :1]
    if F > 1 and f > 1:
        rest = small[:, 1:].reshape(B, f - 1, (F - 1) // (f - 1), h, w).mean(axis=2)
        first = mx.concatenate([first, rest], axis=1)
    return first.reshape(B, f * h * w)


def covers(frames: int, latent_frames: int) -> bool:
    """True where each latent frame after the first has the same number of a mask's frames."""
    return latent_frames <= frames and (latent_frames == 1 or (frames - 1) % (latent_frames - 1) == 0)


def check_mask(mask: str | Path, references: Sequence[str | Path], num_frames: int) -> None:
    """Raises InputError for a mask video whose frames cannot be laid over those of the reference videos."""
    found = probe(mask, audio=False, frame_cap=num_frames).frames or 0
    for path in references:
        frames = probe(path, audio=False, frame_cap=num_frames).frames or 0
        if frames and not covers(found, (frames - 1) // 8 + 1):
            raise InputError(
                f"{mask} has {found} of the {frames} frames that are taken of {path}: give a mask of as many frames"
            )


def load_mask_video(path: str | Path, shape: VideoPixelShape, dtype: mx.Dtype = mx.float32) -> mx.array:
    """A mask ``(1, 1, F, H, W)`` in [0, 1] from a grey video, scaled to ``shape``."""
    pixels = mx.array(load_video_conditioning(path, shape.height, shape.width, shape.frames)).astype(dtype)
    # rounded once: a mean in half precision rounds the sum too (tap: ic_lora.first.call.conditioning_attention_mask)
    grey = pixels.astype(mx.float32).mean(axis=1, keepdims=True).astype(dtype)
    return mx.clip((grey + 1) / 2, 0, 1)
