"""The request that a command line states: made once from its flags, frozen, and passed on to all that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..diffusion.guiders import MultiModalGuiderParams
from ..diffusion.noisers import TorchNoise
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..media.encoding import Encoding
from ..nn.noise import Generator
from ..pipelines.constants import LTX_2_3_PARAMS, PipelineParams
from ..tiling import TilingConfig
from ..types import ImageConditioningInput

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
NOISE: dict[str, Callable[[int], Generator]] = {"numpy": Generator, "torch": TorchNoise}
TILINGS = {"auto": None, "default": TilingConfig.default(), "none": TilingConfig()}
Strengths = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Request:
    """A field for each flag, by its name; what a pipeline has no flag for keeps its default here.

    checkpoint_path (all files of the checkpoint), gemma_root, spatial_upsampler_path and LoRAs: a path, or a name on
    Hugging Face until ``plan`` puts the path in its place. defaults: those of the checkpoint's version, which ``plan``
    reads from its header. They stand in for num_inference_steps, stg_blocks, negative_prompt and an image's CRF where
    these are None: see ``steps``, ``video_guidance``, ``audio_guidance``, ``avoided``, ``pictures``. behaviour: None
    until ``plan`` puts the name of the version's in its place. arguments: the flags as they were parsed, which
    ``settings_file`` records.
    """

    pipeline: str
    checkpoint_path: CheckpointPath
    prompt: str
    output_path: Path
    gemma_root: str | None = None
    negative_prompt: str | None = ""
    enhance_prompt: bool = False
    seed: int = 42
    # The video's size in pixels, its length and its rate. A retake has those of its source.
    height: int = 0
    width: int = 0
    num_frames: int = 0
    frame_rate: float = 0.0
    images: tuple[ImageConditioningInput, ...] = ()
    # Denoising
    defaults: PipelineParams = LTX_2_3_PARAMS
    num_inference_steps: int | None = None
    video_guider_params: MultiModalGuiderParams = field(default_factory=MultiModalGuiderParams)
    audio_guider_params: MultiModalGuiderParams = field(default_factory=MultiModalGuiderParams)
    loras: tuple[LoraPathStrength, ...] = ()
    distilled: bool = False
    # Two stages
    spatial_upsampler_path: str | None = None
    distilled_lora: tuple[LoraPathStrength, ...] = ()
    distilled_lora_strength_stage_1: float = 0.25
    distilled_lora_strength_stage_2: float = 0.5
    # In-context LoRAs
    video_conditioning: Strengths = ()
    conditioning_attention_mask: Strengths = ()
    skip_stage_2: bool = False
    # A video for given audio
    audio_path: str = ""
    audio_start_time: float = 0.0
    audio_max_duration: float | None = None
    # A retake
    video_path: str = ""
    start_time: float = 0.0
    end_time: float = 0.0
    keep_video: bool = False
    keep_audio: bool = False
    # How it runs
    audio: bool = True
    decode_budget: int | None = None  # of memory beside the video decoder's weights: ``plan`` fills it in for a limit
    overwrite: bool = False
    dtype: str = "bfloat16"
    quantization: str | None = None
    low_memory: bool = False
    memory_limit: int | None = None  # in bytes
    noise: str = "numpy"
    behaviour: str | None = None
    tiling: str = "auto"
    context: Path | None = None
    # How the video is compressed; None for what was not given
    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    metadata: bool = True
    arguments: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    placeholder: bool = False
    cross_attn_scale: float = 1.0
    early_layers_only: bool = False
    # While it runs
    preview: Path | None = None
    preview_every: int | None = None
    quiet: bool = False
    json: bool = False
    yes: bool = False
    ranks: int = 1  # processes that make the video together
    parallel: str | None = None  # what they share: ``plan`` puts the way in the place of None
    beside: int = 1  # of them, those that have their memory from this machine, with this one
    hosts: Path | None = None
    assumed: tuple[str, ...] = ()  # names on Hugging Face in the place of flags that were not given
    from_settings: bool = False  # some of its flags are another's, read from a file

    @property
    def steps(self) -> int:
        return self.defaults.num_inference_steps if self.num_inference_steps is None else self.num_inference_steps

    @property
    def avoided(self) -> str:
        return self.defaults.negative_prompt if self.negative_prompt is None else self.negative_prompt

    @property
    def pictures(self) -> tuple[ImageConditioningInput, ...]:
        crf = self.defaults.image_crf
        return tuple(image._replace(crf=crf) if image.crf is None else image for image in self.images)

    @property
    def video_guidance(self) -> MultiModalGuiderParams:
        return _with_blocks(self.video_guider_params, self.defaults.video_guider_params)

    @property
    def audio_guidance(self) -> MultiModalGuiderParams:
        return _with_blocks(self.audio_guider_params, self.defaults.audio_guider_params)

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.codec or Encoding.codec, self.crf, self.preset)

    @property
    def itemsize(self) -> int:
        """Bytes of one value of weights and latents."""
        return DTYPES[self.dtype].size

    @property
    def split(self) -> int:
        """The processes that the transformer and the text models are split over."""
        return 1 if self.parallel == "guidance" else self.ranks

    @property
    def tiling_config(self) -> TilingConfig | None:
        return TILINGS[self.tiling]


def _with_blocks(given: MultiModalGuiderParams, defaults: MultiModalGuiderParams) -> MultiModalGuiderParams:
    return replace(given, stg_blocks=defaults.stg_blocks) if given.stg_blocks is None else given
