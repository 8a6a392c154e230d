"""LTX-2 in MLX: video with audio from a prompt.

A pipeline such as ``DistilledPipeline`` makes a video, ``encode_video`` writes it. ``load`` gives one network of an
official checkpoint. Everything that can go wrong is an ``LTX2Error``.

Names are imported when they are first used: ``import ltx2_mlx`` itself loads neither MLX nor FFmpeg.
"""
# ruff: noqa: I001  (it wants a statement for each "X as X")

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The public names by the module that defines them. Type checkers read the same names below.
_EXPORTS = {
    # networks and their files
    "loading.load": ("LoadReport", "load"),
    "loading.checkpoint": ("Checkpoint", "CheckpointFiles", "read_checkpoint"),
    "loading.lora": ("LoraMetadata", "LoraPathStrength", "LoraReport", "lora_metadata"),
    "loading.hub": ("resolve",),
    "transformer": ("LTXModel", "X0Model"),
    # pipelines, and how they run
    "pipelines": (
        "DEFAULT_NEGATIVE_PROMPT",
        "A2VidPipelineTwoStage",
        "DistilledPipeline",
        "ICLoraPipeline",
        "KeyframeInterpolationPipeline",
        "PipelineParams",
        "RetakePipeline",
        "Settings",
        "TI2VidOneStagePipeline",
        "TI2VidTwoStagesHQPipeline",
        "TI2VidTwoStagesPipeline",
        "detect_params",
    ),
    "pipelines.prompts": ("encode_prompts",),
    "pipelines.contexts": ("load_contexts", "save_contexts"),
    "diffusion.guiders": ("MultiModalGuiderFactory", "MultiModalGuiderParams"),
    "diffusion.noisers": ("TorchNoise",),
    "nn.noise": ("Generator",),
    "tiling": ("SpatialTilingConfig", "TemporalTilingConfig", "TilingConfig"),
    # between latents, pixels and waveforms
    "video_vae": ("decode_video",),
    "audio_vae": ("decode_audio", "encode_audio"),
    "upsampler": ("upsample_video",),
    # files of images, video and audio
    "media": ("decode_audio_from_file", "decode_video_from_file", "encode_video", "save_png_frames", "save_wav"),
    # types
    "types": (
        "Audio",
        "AudioLatentShape",
        "ImageConditioningInput",
        "LatentState",
        "Modality",
        "VideoLatentShape",
        "VideoPixelShape",
    ),
    "text.embeddings": ("EmbeddingsProcessorOutput",),
    "diffusion.perturbations": (
        "BatchedPerturbationConfig",
        "Perturbation",
        "PerturbationConfig",
        "PerturbationType",
    ),
    # errors
    "errors": (
        "CheckpointError",
        "ConfigError",
        "HubError",
        "InputError",
        "LTX2Error",
        "MediaError",
        "NotFiniteError",
        "RanksError",
        "WeightsError",
    ),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if TYPE_CHECKING:
    from .audio_vae import decode_audio as decode_audio, encode_audio as encode_audio
    from .diffusion.guiders import (
        MultiModalGuiderFactory as MultiModalGuiderFactory,
        MultiModalGuiderParams as MultiModalGuiderParams,
    )
    from .diffusion.noisers import TorchNoise as TorchNoise
    from .diffusion.perturbations import (
        BatchedPerturbationConfig as BatchedPerturbationConfig,
        Perturbation as Perturbation,
        PerturbationConfig as PerturbationConfig,
        PerturbationType as PerturbationType,
    )
    from .errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        HubError as HubError,
        InputError as InputError,
        LTX2Error as LTX2Error,
        MediaError as MediaError,
        NotFiniteError as NotFiniteError,
        RanksError as RanksError,
        WeightsError as WeightsError,
    )
    from .loading.hub import resolve as resolve
    from .loading.checkpoint import (
        Checkpoint as Checkpoint,
        CheckpointFiles as CheckpointFiles,
        read_checkpoint as read_checkpoint,
    )
    from .loading.load import LoadReport as LoadReport, load as load
    from .loading.lora import (
        LoraMetadata as LoraMetadata,
        LoraPathStrength as LoraPathStrength,
        LoraReport as LoraReport,
        lora_metadata as lora_metadata,
    )
    from .media import (
        decode_audio_from_file as decode_audio_from_file,
        decode_video_from_file as decode_video_from_file,
        encode_video as encode_video,
        save_png_frames as save_png_frames,
        save_wav as save_wav,
    )
    from .nn.noise import Generator as Generator
    from .pipelines import (
        DEFAULT_NEGATIVE_PROMPT as DEFAULT_NEGATIVE_PROMPT,
        A2VidPipelineTwoStage as A2VidPipelineTwoStage,
        DistilledPipeline as DistilledPipeline,
        ICLoraPipeline as ICLoraPipeline,
        KeyframeInterpolationPipeline as KeyframeInterpolationPipeline,
        PipelineParams as PipelineParams,
        RetakePipeline as RetakePipeline,
        Settings as Settings,
        TI2VidOneStagePipeline as TI2VidOneStagePipeline,
        TI2VidTwoStagesHQPipeline as TI2VidTwoStagesHQPipeline,
        TI2VidTwoStagesPipeline as TI2VidTwoStagesPipeline,
        detect_params as detect_params,
    )
    from .pipelines.contexts import (
        load_contexts as load_contexts,
        save_contexts as save_contexts,
    )
    from .pipelines.prompts import (
        encode_prompts as encode_prompts,
    )
    from .text.embeddings import EmbeddingsProcessorOutput as EmbeddingsProcessorOutput
    from .tiling import (
        SpatialTilingConfig as SpatialTilingConfig,
        TemporalTilingConfig as TemporalTilingConfig,
        TilingConfig as TilingConfig,
    )
    from .transformer import LTXModel as LTXModel, X0Model as X0Model
    from .types import (
        Audio as Audio,
        AudioLatentShape as AudioLatentShape,
        ImageConditioningInput as ImageConditioningInput,
        LatentState as LatentState,
        Modality as Modality,
        VideoLatentShape as VideoLatentShape,
        VideoPixelShape as VideoPixelShape,
    )
    from .upsampler import upsample_video as upsample_video
    from .video_vae import decode_video as decode_video
