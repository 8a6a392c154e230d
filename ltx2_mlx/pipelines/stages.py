"""The stages that the pipelines share. Each function is one stage, and releases what it loads before it returns.

Source: ``ltx_pipelines.utils.helpers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import mlx.core as mx
import numpy as np

from ..audio_vae import decode_audio
from ..diffusion.conditioning import ConditioningItem, VideoConditionByKeyframeIndex, VideoConditionByLatentIndex
from ..diffusion.denoisers import Denoiser, simple_denoising_func
from ..diffusion.latent_state import AudioLatentTools, VideoLatentTools
from ..diffusion.noisers import GaussianNoiser
from ..diffusion.patchifiers import AudioPatchifier, VideoLatentPatchifier
from ..diffusion.samplers import DenoisingFunc, DenoisingLoop, euler_denoising_loop
from ..distributed.decoding import decode_over
from ..errors import InputError, NotFiniteError
from ..media.images import load_image_conditioning
from ..nn.finite import all_finite
from ..nn.noise import Generator
from ..text.embeddings import EmbeddingsProcessorOutput
from ..tiling import TilingConfig
from ..transformer import X0Model
from ..types import Audio, AudioLatentShape, ImageConditioningInput, LatentState, VideoLatentShape, VideoPixelShape
from ..upsampler import upsample_video
from ..vae_memory import decode_budget
from ..video_vae import VideoEncoder, decode_video
from .constants import STAGE_2_DISTILLED_SIGMA_VALUES, VIDEO_LATENT_CHANNELS
from .contexts import save_contexts
from .enhancement import enhance_prompt as enhanced
from .ledger import ModelLedger
from .preview import reported
from .prompts import encode_prompts

Frames = Iterator[np.ndarray]
VideoItem = ConditioningItem[VideoLatentTools]
Tools = TypeVar("Tools", bound=VideoLatentTools | AudioLatentTools)
Asking = Callable[[Denoiser], DenoisingFunc]


# ---- text ---------------------------------------------------------------------------------------------------------


def prompt_contexts(
    ledger: ModelLedger,
    prompts: Sequence[str],
    enhance_first_prompt: bool = False,
    enhance_prompt_seed: int = 42,
    images: Sequence[ImageConditioningInput] = (),
) -> list[EmbeddingsProcessorOutput]:
    """A context for each prompt: that of the settings, or a new one. Gemma is loaded only if a prompt has none.

    images: those of the video; Gemma sees the first of them beside the prompt that it enhances.
    """
    settings, prompts = ledger.settings, list(prompts)
    if settings.placeholder:
        return [EmbeddingsProcessorOutput(mx.zeros((1, 0, 0)), mx.zeros((1, 0, 0)), mx.zeros((1, 0)))] * len(prompts)
    if enhance_first_prompt:
        with settings.task("enhancing the prompt"), settings.peaks.phase("enhancing"):
            shown = images[0].path if images else None
            prompts[0] = enhanced(prompts[0], _gemma(ledger), image_path=shown, seed=enhance_prompt_seed)
        settings.progress(f"enhanced prompt: {prompts[0]}", 1, 1)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in settings.contexts]
    made = {}
    if missing:
        with settings.peaks.phase("prompts"):
            outputs = encode_prompts(
                missing,
                ledger.checkpoint_path,
                _gemma(ledger),
                settings.dtype,
                early_layers_only=settings.early_layers_only,
                low_memory=settings.low_memory,
                ranks=settings.split,
                progress=lambda done, total: settings.progress("encoding the prompts", done, total),
            )
        made = dict(zip(missing, outputs, strict=True))
        if settings.context_path is not None:
            kept = {**settings.contexts, **made}
            save_contexts(
                settings.context_path,
                list(kept),
                list(kept.values()),
                ledger.checkpoint_path,
                _gemma(ledger),
                early_layers_only=settings.early_layers_only,
            )
    return [made[prompt] if prompt in made else settings.contexts[prompt] for prompt in prompts]


def _gemma(ledger: ModelLedger) -> str | Path:
    if ledger.gemma_root_path is None:
        raise InputError("gemma_root is missing, and not every prompt has a context: give the folder of Gemma 3")
    return ledger.gemma_root_path


# ---- images -------------------------------------------------------------------------------------------------------

Placing = Callable[[ImageConditioningInput, mx.array], VideoItem]


def replacing_the_first_frame(image: ImageConditioningInput, latent: mx.array) -> VideoItem:
    """Puts an image at frame 0 in the place of the first latent frame, and adds any other as a keyframe."""
    if image.frame_idx == 0:
        return VideoConditionByLatentIndex(latent, image.strength, 0)
    return added_as_keyframe(image, latent)


def added_as_keyframe(image: ImageConditioningInput, latent: mx.array) -> VideoItem:
    """Adds an image as a keyframe, at frame 0 too."""
    return VideoConditionByKeyframeIndex(latent, image.frame_idx, image.strength)


def image_conditionings(
    ledger: ModelLedger,
    images: Sequence[ImageConditioningInput],
    shape: VideoPixelShape,
    placing: Placing = replacing_the_first_frame,
    video_encoder: VideoEncoder | None = None,
) -> list[VideoItem]:
    """A conditioning item for each image: scaled and cropped to ``shape``, encoded, and placed by ``placing``."""
    if not images:
        return []
    items: list[VideoItem] = []
    with ledger.settings.peaks.phase("images"):
        encoder = video_encoder or ledger.video_encoder()
        for i, image in enumerate(images):
            ledger.settings.progress("encoding the images", i, len(images))
            crf = ledger.params.image_crf if image.crf is None else image.crf
            pixels = load_image_conditioning(image.path, shape.height, shape.width, crf=crf)
            latent = encoder(mx.array(pixels).astype(ledger.settings.dtype))
            evaluated(f"encoding {image.path}", latent)
            items.append(placing(image, latent))
    ledger.settings.progress("encoding the images", len(images), len(images))
    return items


def evaluated(task: str, latent: mx.array) -> None:
    """Evaluate a latent. Raises NotFiniteError, with the task, where it holds NaN or ∞."""
    finite = all_finite(latent)
    mx.eval(latent, finite)
    if not finite.item():
        raise NotFiniteError(f"{task} gave NaN or infinite numbers: the dtype is too narrow (try --dtype float32)")


# ---- denoising ----------------------------------------------------------------------------------------------------


def video_tools(shape: VideoPixelShape, keyframes: bool = False) -> VideoLatentTools:
    target = VideoLatentShape.from_pixel_shape(shape, VIDEO_LATENT_CHANNELS)
    return VideoLatentTools(VideoLatentPatchifier(patch_size=1), target, shape.fps, keyframes=keyframes)


def audio_tools(shape: VideoPixelShape) -> AudioLatentTools:
    return AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape.from_video_pixel_shape(shape))


def create_noised_state(
    tools: Tools,
    conditionings: Sequence[ConditioningItem[Tools]],
    noiser: GaussianNoiser,
    dtype: mx.Dtype,
    noise_scale: float = 1.0,
    initial_latent: mx.array | None = None,
) -> LatentState:
    """The state that denoising starts from: the initial latent (or zeros), its conditionings, and noise."""
    state = tools.create_initial_state(dtype, initial_latent)
    for item in conditionings:
        state = item.apply_to(state, tools)
    return noiser(state, noise_scale)


def both(context: EmbeddingsProcessorOutput) -> tuple[mx.array, mx.array]:
    """The contexts of video and audio. Raises InputError where there is none for audio."""
    if context.audio_encoding is None:
        raise InputError("the context has no audio part, and pipelines denoise video and audio together")
    return context.video_encoding, context.audio_encoding


def simple(context: EmbeddingsProcessorOutput) -> Asking:
    """Denoising without guidance."""
    return lambda transformer: simple_denoising_func(*both(context), transformer)


def denoise_audio_video(
    ledger: ModelLedger,
    name: str,
    output_shape: VideoPixelShape,
    noiser: GaussianNoiser,
    sigmas: np.ndarray,
    asking: Asking,
    *,
    conditionings: Sequence[VideoItem] = (),
    audio_conditionings: Sequence[ConditioningItem[AudioLatentTools]] = (),
    loop: DenoisingLoop = euler_denoising_loop,
    noise_scale: float = 1.0,
    initial_video_latent: mx.array | None = None,
    initial_audio_latent: mx.array | None = None,
    frozen_audio: bool = False,
    transformer: X0Model | None = None,
) -> tuple[mx.array, mx.array]:
    """Latents ``(1, 128, F, H, W)`` and ``(1, 8, T, 16)`` from noise, along ``sigmas``.

    name: of this stage, in the progress. noise_scale: where the schedule starts. frozen_audio: the initial audio is
    given and stays. transformer: one that is already loaded; otherwise the ledger's, released before this returns.
    """
    settings = ledger.settings
    behaviour = ledger.behaviour
    of_video = replace(video_tools(output_shape, ledger.marks_keyframes), behaviour=behaviour)
    of_audio = audio_tools(output_shape)
    video = create_noised_state(of_video, conditionings, noiser, settings.dtype, noise_scale, initial_video_latent)
    audio_scale = 0.0 if frozen_audio else noise_scale
    audio = create_noised_state(
        of_audio, audio_conditionings, noiser, settings.dtype, audio_scale, initial_audio_latent
    )
    if frozen_audio:
        audio = behaviour.frozen(replace(audio, denoise_mask=mx.zeros_like(audio.denoise_mask)))
    if not settings.placeholder:
        with settings.peaks.phase(name):
            denoise_fn = asking(cast(Denoiser, transformer or ledger.transformer()))  # both streams in, and both out
            denoise_fn, progress = reported(settings, name, of_video, denoise_fn)
            try:
                video, audio = loop(sigmas, video, audio, denoise_fn, progress=progress)
            except NotFiniteError as error:
                raise NotFiniteError(f"{name}: {error}") from None
            del denoise_fn, progress
    latents = (
        of_video.unpatchify(of_video.clear_conditioning(video)).latent,
        of_audio.unpatchify(of_audio.clear_conditioning(audio)).latent,
    )
    mx.eval(latents)
    if transformer is None:
        mx.clear_cache()
    return latents


def second_stage(
    ledger: ModelLedger,
    output_shape: VideoPixelShape,
    noiser: GaussianNoiser,
    video: mx.array,
    audio: mx.array,
    asking: Asking,
    images: Sequence[ImageConditioningInput] = (),
    placing: Placing = replacing_the_first_frame,
    *,
    loop: DenoisingLoop = euler_denoising_loop,
    frozen_audio: bool = False,
    transformer: X0Model | None = None,
) -> tuple[mx.array, mx.array]:
    """Latents of the full size, from those of a first stage at half of it: upsampled, noised to the schedule's first
    sigma and denoised in three steps. The other arguments are those of ``denoise_audio_video``."""
    sigmas = np.array(STAGE_2_DISTILLED_SIGMA_VALUES, np.float32)
    larger = upsampled(ledger, video)
    return denoise_audio_video(
        ledger,
        "stage 2",
        output_shape,
        noiser,
        sigmas,
        asking,
        conditionings=image_conditionings(ledger, images, output_shape, placing),
        loop=loop,
        noise_scale=float(sigmas[0]),
        initial_video_latent=larger,
        initial_audio_latent=audio,
        frozen_audio=frozen_audio,
        transformer=transformer,
    )


def upsampled(ledger: ModelLedger, latent: mx.array) -> mx.array:
    """``(1, 128, F, H, W)`` at twice the height and width. Only the statistics of the video encoder are read."""
    with ledger.settings.task("upsampling"), ledger.settings.peaks.phase("upsampling"):
        larger = upsample_video(latent[:1], ledger.video_encoder(), ledger.spatial_upsampler())
        evaluated("upsampling", larger)
        mx.clear_cache()
    return larger


# ---- to pixels and samples ----------------------------------------------------------------------------------------


def decoded(
    ledger: ModelLedger,
    video_latent: mx.array,
    audio_latent: mx.array | None,
    tiling_config: TilingConfig | None,
    generator: Generator,
) -> tuple[Frames, Audio | None]:
    """The frames, decoded as they are asked for: uint8 ``(F, H, W, 3)`` in chunks; and the audio, decoded now."""
    audio = None
    if audio_latent is not None and ledger.settings.audio:
        audio = _decoded_audio(ledger, audio_latent)
        mx.clear_cache()
    return _decoded_video(ledger, video_latent, tiling_config, generator), audio


def _decoded_audio(ledger: ModelLedger, latent: mx.array) -> Audio:
    with ledger.settings.task("decoding the audio"), ledger.settings.peaks.phase("audio"):
        audio = decode_audio(latent, ledger.audio_decoder(), ledger.vocoder())
        if not mx.isfinite(audio.waveform).all().item():
            raise NotFiniteError(
                "decoding the audio gave NaN or infinite samples: a weight or a number in the flags is out of range"
            )
    return audio


def _decoded_video(
    ledger: ModelLedger, latent: mx.array, tiling_config: TilingConfig | None, generator: Generator
) -> Frames:
    settings, total = ledger.settings, VideoLatentShape(*latent.shape).upscale().frames
    settings.progress("decoding the video", 0, total)
    budget = settings.decode_budget or decode_budget(settings.low_memory)
    done = 0
    with settings.peaks.phase("frames"):
        decoder = ledger.video_decoder()
        if settings.ranks is None:
            chunks = decode_video(latent, decoder, tiling_config, generator, memory_budget=budget)
        else:
            chunks = decode_over(settings.ranks, latent, decoder, tiling_config, generator, budget)
        del decoder
        for chunk in chunks:
            frames = np.array(chunk)
            done += len(frames)
            settings.progress("decoding the video", done, total)
            yield frames
    mx.clear_cache()
