"""From parsed flags to a file: the pipeline is built, run, and its frames and sound are written."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from .. import pipelines
from ..diffusion.noisers import TorchNoise
from ..errors import InputError
from ..media.writing import encode_video, save_png_frames, save_wav
from ..nn.noise import Generator
from ..pipelines.ic_lora import load_mask_video
from ..pipelines.ledger import Progress, Settings, quiet
from ..pipelines.prompts import load_contexts
from ..pipelines.retake import source_shape
from ..pipelines.stages import Frames
from ..tiling import TilingConfig
from ..types import Audio, VideoPixelShape
from .flags import guider_params

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
Result = tuple[Frames, Audio | None]


def generate(args: argparse.Namespace, progress: Progress = quiet) -> Path:
    """Make what the flags say, and return where it is. Nothing is left behind where it fails or is stopped."""
    output = Path(args.output_path)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output.parent}: cannot be made ({error.strerror}); give another path") from None
    frames, audio = run(args, settings_from(args, progress))
    if output.suffix == ".wav":
        if audio is None:
            raise InputError(f"{output} is for sound, and there is none; leave --no-audio out")
        save_wav(output, audio)
    elif output.suffix == ".mp4":
        encode_video(frames, frame_rate(args), audio, output, progress=progress)
    else:
        save_png_frames(output, frames)
        if audio is not None:
            save_wav(output / "sound.wav", audio)
    return output


def settings_from(args: argparse.Namespace, progress: Progress = quiet) -> Settings:
    context = Path(args.context) if args.context else None
    return Settings(
        dtype=DTYPES[args.dtype],
        quantization=args.quantization[0] if args.quantization else None,
        noise=TorchNoise if args.noise == "torch" else Generator,
        contexts=load_contexts(context, args.checkpoint_path) if context and context.exists() else {},
        context_path=context,
        progress=progress,
        low_memory=args.low_memory,
        audio=not args.no_audio,
        placeholder=args.placeholder,
        early_layers_only=args.early_layers_only,
        cross_attn_scale=args.cross_attn_scale,
    )


def frame_rate(args: argparse.Namespace) -> float:
    return source_shape(args.video_path).fps if args.pipeline == "retake" else args.frame_rate


def tiling(args: argparse.Namespace) -> TilingConfig | None:
    return {"auto": None, "default": TilingConfig.default(), "none": TilingConfig()}[args.tiling]


def run(args: argparse.Namespace, settings: Settings) -> Result:
    """Frames and sound of the pipeline that the flags name."""
    return _RUNS[args.pipeline](args, settings)


def _shared(args: argparse.Namespace) -> dict[str, object]:
    names = ("prompt", "seed", "height", "width", "num_frames", "frame_rate", "images", "enhance_prompt")
    return {name: getattr(args, name) for name in names} | {"tiling_config": tiling(args)}


def _guided(args: argparse.Namespace) -> dict[str, object]:
    return _shared(args) | {
        "negative_prompt": args.negative_prompt,
        "num_inference_steps": args.num_inference_steps,
        "video_guider_params": guider_params(args, "video"),
        "audio_guider_params": guider_params(args, "audio"),
    }


def _distilled(args: argparse.Namespace, settings: Settings) -> Result:
    files = (args.checkpoint_path, args.gemma_root, args.spatial_upsampler_path)
    return pipelines.DistilledPipeline(*files, args.lora, settings)(**_shared(args))


def _one_stage(args: argparse.Namespace, settings: Settings) -> Result:
    pipeline = pipelines.TI2VidOneStagePipeline(args.checkpoint_path, args.gemma_root, args.lora, settings)
    return pipeline(**_guided(args))


def _two_stages(cls: type) -> Callable[[argparse.Namespace, Settings], Result]:
    def run(args: argparse.Namespace, settings: Settings) -> Result:
        files = (args.checkpoint_path, args.distilled_lora, args.spatial_upsampler_path, args.gemma_root)
        return cls(*files, args.lora, settings)(**_guided(args))

    return run


def _hq(args: argparse.Namespace, settings: Settings) -> Result:
    pipeline = pipelines.TI2VidTwoStagesHQPipeline(
        args.checkpoint_path,
        args.distilled_lora,
        args.distilled_lora_strength_stage_1,
        args.distilled_lora_strength_stage_2,
        args.spatial_upsampler_path,
        args.gemma_root,
        args.lora,
        settings,
    )
    return pipeline(**_guided(args), noise_seed=-1 if args.noise == "torch" else None)


def _ic_lora(args: argparse.Namespace, settings: Settings) -> Result:
    files = (args.checkpoint_path, args.spatial_upsampler_path, args.gemma_root)
    pipeline = pipelines.ICLoraPipeline(*files, args.lora, settings)
    limits: dict[str, object] = {}
    if args.conditioning_attention_mask:
        path, strength = args.conditioning_attention_mask[-1]
        half = VideoPixelShape(1, args.num_frames, args.height // 2, args.width // 2, args.frame_rate)
        limits["conditioning_attention_mask"] = load_mask_video(path, half, settings.dtype)
        limits["conditioning_attention_strength"] = strength
    conditioning = {"video_conditioning": args.video_conditioning, "skip_stage_2": args.skip_stage_2}
    return pipeline(**_shared(args), **conditioning, **limits)


def _a2vid(args: argparse.Namespace, settings: Settings) -> Result:
    files = (args.checkpoint_path, args.distilled_lora, args.spatial_upsampler_path, args.gemma_root)
    return pipelines.A2VidPipelineTwoStage(*files, args.lora, settings)(
        **_shared(args),
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.num_inference_steps,
        video_guider_params=guider_params(args, "video"),
        audio_path=args.audio_path,
        audio_start_time=args.audio_start_time,
        audio_max_duration=args.audio_max_duration,
    )


def _retake(args: argparse.Namespace, settings: Settings) -> Result:
    pipeline = pipelines.RetakePipeline(args.checkpoint_path, args.gemma_root, args.lora, settings)
    return pipeline(
        args.video_path,
        args.prompt,
        args.start_time,
        args.end_time,
        args.seed,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.num_inference_steps,
        video_guider_params=guider_params(args, "video"),
        audio_guider_params=guider_params(args, "audio"),
        regenerate_video=not args.keep_video,
        regenerate_audio=not args.keep_audio,
        enhance_prompt=args.enhance_prompt,
        distilled=args.distilled,
        tiling_config=tiling(args),
    )


_RUNS = {
    "distilled": _distilled,
    "ti2vid_one_stage": _one_stage,
    "ti2vid_two_stages": _two_stages(pipelines.TI2VidTwoStagesPipeline),
    "ti2vid_two_stages_hq": _hq,
    "keyframe_interpolation": _two_stages(pipelines.KeyframeInterpolationPipeline),
    "ic_lora": _ic_lora,
    "a2vid_two_stage": _a2vid,
    "retake": _retake,
}
