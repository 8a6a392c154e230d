"""The pipelines of the command line. A recipe is all that ``plan`` and ``generate`` know of a pipeline, so that they
cannot disagree about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np

from .. import pipelines
from ..diffusion.guiders import MultiModalGuider, MultiModalGuiderParams
from ..diffusion.schedulers import LTX2Scheduler
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath
from ..loading.lora import LoraPathStrength
from ..pipelines import a2vid_two_stage, checks, ic_lora, retake, ti2vid_two_stages_hq
from ..pipelines.constants import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
from ..pipelines.ledger import Settings
from ..pipelines.stages import Frames, video_tools
from ..tiling import TilingConfig
from ..types import Audio, ImageConditioningInput, VideoPixelShape
from . import flags, settings_file
from .request import Request
from .terminal import Parser

Result = tuple[Frames, Audio | None]


@dataclass(frozen=True)
class Denoising:
    """A denoising stage. shape: the size of its result, in pixels. evaluations: how often all of its steps together
    ask for a prediction. passes: runs of the transformer for each prediction. runs: of the transformer, in all: a
    guider can skip steps."""

    name: str
    shape: VideoPixelShape
    sigmas: np.ndarray
    evaluations: int
    passes: int
    runs: int

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def runs_of_a_step(self) -> int:
        """Runs of the transformer in a step that no guider skips."""
        return self.passes * (self.evaluations // max(self.steps, 1))


def half(shape: VideoPixelShape) -> VideoPixelShape:
    """The size of the first of two stages."""
    return shape._replace(height=shape.height // 2, width=shape.width // 2)


def _check_distilled_lora(request: Request) -> None:
    ti2vid_two_stages_hq.check_distilled_lora(request.distilled_lora)


def _check_references(request: Request) -> None:
    ic_lora.reference_shape(half(_asked_shape(request)), ic_lora.reference_downscale_factor(request.loras))


def _check_mask(request: Request) -> None:
    references = [path for path, _ in request.video_conditioning]
    for path, _ in request.conditioning_attention_mask:
        ic_lora.check_mask(path, references, request.num_frames)


def _check_audio(request: Request) -> None:
    video = request.num_frames / request.frame_rate
    duration = video if request.audio_max_duration is None else request.audio_max_duration
    a2vid_two_stage.read_audio(request.audio_path, request.audio_start_time, duration)


def _check_span(request: Request) -> None:
    retake.check_span(request.start_time, request.end_time)


def _check_source(request: Request) -> None:
    retake.check_span(request.start_time, request.end_time, retake.source_shape(request.video_path))


def _asked_shape(request: Request) -> VideoPixelShape:
    return VideoPixelShape(1, request.num_frames, request.height, request.width, request.frame_rate)


def _passes(guidance: Sequence[MultiModalGuider]) -> int:
    """The transformer runs once, and once for each kind of guidance."""
    kinds = (
        any(guider.do_unconditional_generation() for guider in guidance),
        any(guider.do_perturbed_generation() for guider in guidance),
        any(guider.do_isolated_modality_generation() for guider in guidance),
    )
    return 1 + sum(kinds)


@dataclass(frozen=True)
class Recipe:
    """One pipeline on the command line.

    add_flags: adds the pipeline's own flags to a parser. run: builds the pipeline and calls it. checks: each raises for
    something that the pipeline refuses, and reads no file; file_checks: the same, of files that are on this machine.
    two_stages: a request's size is that of the second stage, the first has half of it. distilled: a distilled model,
    with its own schedule and no guidance. second_order: the sampler takes two evaluations a step and one at the end,
    and its schedule is shifted by the number of tokens. encodes: the components that encode what is given, beside
    images. makes_audio: False where the audio is given. keeps_transformer: from one stage to the next,
    where memory allows. of_source: size, length and rate are those of a given video.
    """

    name: str
    about: str
    add_flags: Callable[[Parser], None]
    run: Callable[[Request, Settings], Result]
    two_stages: bool = True
    distilled: bool = False
    second_order: bool = False
    encodes: tuple[str, ...] = ()
    makes_audio: bool = True
    keeps_transformer: bool = False
    of_source: bool = False
    checks: tuple[Callable[[Request], None], ...] = ()
    file_checks: tuple[Callable[[Request], None], ...] = ()

    def guidance(self, request: Request) -> dict[str, MultiModalGuiderParams]:
        """Stream → its guidance, for the streams that have any."""
        if self.distilled or request.distilled:
            return {}
        streams = {"video": request.video_guidance, "audio": request.audio_guidance}
        return streams if self.makes_audio else {"video": streams["video"]}

    def prompts(self, request: Request) -> list[str]:
        """The prompts that are encoded."""
        return [request.prompt, request.avoided] if self.guidance(request) else [request.prompt]

    def components(self, request: Request) -> list[str]:
        """The components that a run takes out of the checkpoint."""
        parts = ["video_decoder", *self.encodes]
        if not request.placeholder:
            parts += ["transformer", "embeddings_processor"]
        if (request.images or self.two_stages or request.preview) and "video_encoder" not in parts:
            parts.append("video_encoder")  # the latent upsampler needs its statistics, and a preview what it encodes
        if self.decodes_audio(request):
            parts += ["audio_decoder", "vocoder"]
        return parts

    def decodes_audio(self, request: Request) -> bool:
        return self.makes_audio and request.audio

    def shape(self, request: Request) -> VideoPixelShape:
        """The video's size, length and rate. Raises InputError for a source that cannot be changed."""
        if self.of_source:
            return retake.source_shape(request.video_path)
        return _asked_shape(request)

    def problems(self, request: Request) -> Iterator[str]:
        """A sentence, with the flag, for each value that the pipeline's call would refuse."""
        arguments: dict[str, Any] = {"prompt": request.prompt, "cross_attn_scale": request.cross_attn_scale}
        names = (
            ["start_time", "end_time"] if self.of_source else ["height", "width", "num_frames", "frame_rate", "images"]
        )
        names += ["audio_start_time", "audio_max_duration", "video_conditioning", "conditioning_attention_mask"]
        if self.second_order:
            names += ["distilled_lora_strength_stage_1", "distilled_lora_strength_stage_2"]
        arguments |= {name: getattr(request, name) for name in names}
        arguments |= {"two_stages": self.two_stages, "tokens": self.second_order}
        if guidance := self.guidance(request):
            arguments |= {"num_inference_steps": request.steps}
            arguments["negative_prompt"] = request.avoided
            arguments |= {f"{stream}_guider_params": params for stream, params in guidance.items()}
        if not (self.of_source and request.seed < 0):  # a random one
            arguments["seed"] = request.seed
            if request.seed < 0 and request.noise == "numpy":
                yield f"--seed is {request.seed}, expected 0 or more"
        yield from checks.problems(arguments, flags.named)

    def sigmas(self, request: Request, shape: VideoPixelShape) -> np.ndarray:
        """The schedule of the first stage, which makes ``shape``."""
        if self.distilled or request.distilled:
            return np.array(DISTILLED_SIGMA_VALUES, np.float32)
        if self.second_order:
            return LTX2Scheduler().execute(request.steps, video_tools(shape).target_shape.token_count())
        return LTX2Scheduler().execute(request.steps)

    def denoising(self, request: Request, shape: VideoPixelShape) -> list[Denoising]:
        """The denoising stages of a video of ``shape``, in order."""
        first = half(shape) if self.two_stages else shape
        name = "stage 1" if self.two_stages else "denoising"
        stages = [self._stage(name, first, self.sigmas(request, first), self._guiders(request))]
        if self.two_stages and not request.skip_stage_2:
            stages.append(self._stage("stage 2", shape, np.array(STAGE_2_DISTILLED_SIGMA_VALUES, np.float32), []))
        return stages

    def passes(self, request: Request) -> int:
        """Runs of the transformer for each prediction, in the stage that is guided."""
        return _passes(self._guiders(request))

    def _guiders(self, request: Request) -> list[MultiModalGuider]:
        """The guider of each stream, of one that has no guidance too; empty for distilled models."""
        guidance = self.guidance(request)
        streams = ("video", "audio") if guidance else ()
        return [MultiModalGuider(guidance.get(stream, MultiModalGuiderParams())) for stream in streams]

    def _stage(
        self, name: str, shape: VideoPixelShape, sigmas: np.ndarray, guidance: Sequence[MultiModalGuider]
    ) -> Denoising:
        """A stage of which each evaluation runs the transformer once, and once for each kind of guidance."""
        steps = len(sigmas) - 1
        asked = [*range(steps), *[0] * steps, steps] if self.second_order else [*range(steps)]  # steps, as guiders see
        skipped = [step for step in asked if guidance and all(guider.should_skip_step(step) for guider in guidance)]
        passes = _passes(guidance)
        return Denoising(name, shape, sigmas, len(asked), passes, passes * (len(asked) - len(skipped)))


# ---- runs ---------------------------------------------------------------------------------------------------------


class _Asked(TypedDict):
    """The arguments of a call that all pipelines but retake take."""

    prompt: str
    seed: int
    height: int
    width: int
    num_frames: int
    frame_rate: float
    images: Sequence[ImageConditioningInput]
    enhance_prompt: bool
    tiling_config: TilingConfig | None


class _Guided(_Asked):
    negative_prompt: str
    num_inference_steps: int
    video_guider_params: MultiModalGuiderParams
    audio_guider_params: MultiModalGuiderParams


class _TwoStageFiles(TypedDict):
    """The arguments of the constructors of pipelines with a distilled LoRA."""

    checkpoint_path: CheckpointPath
    distilled_lora: Sequence[LoraPathStrength]
    spatial_upsampler_path: str
    gemma_root: str | None
    loras: Sequence[LoraPathStrength]
    settings: Settings


def _asked(request: Request) -> _Asked:
    return {
        "prompt": request.prompt,
        "seed": request.seed,
        "height": request.height,
        "width": request.width,
        "num_frames": request.num_frames,
        "frame_rate": request.frame_rate,
        "images": request.pictures,
        "enhance_prompt": request.enhance_prompt,
        "tiling_config": request.tiling_config,
    }


def _guided(request: Request) -> _Guided:
    return {
        **_asked(request),
        "negative_prompt": request.avoided,
        "num_inference_steps": request.steps,
        "video_guider_params": request.video_guidance,
        "audio_guider_params": request.audio_guidance,
    }


def _upsampler(request: Request) -> str:
    if request.spatial_upsampler_path is None:
        raise InputError("--spatial-upsampler-path is missing: two stages need a latent upsampler")
    return request.spatial_upsampler_path


def _two_stage_files(request: Request, settings: Settings) -> _TwoStageFiles:
    return {
        "checkpoint_path": request.checkpoint_path,
        "distilled_lora": request.distilled_lora,
        "spatial_upsampler_path": _upsampler(request),
        "gemma_root": request.gemma_root,
        "loras": request.loras,
        "settings": settings,
    }


def _distilled(request: Request, settings: Settings) -> Result:
    pipeline = pipelines.DistilledPipeline(
        distilled_checkpoint_path=request.checkpoint_path,
        gemma_root=request.gemma_root,
        spatial_upsampler_path=_upsampler(request),
        loras=request.loras,
        settings=settings,
    )
    return pipeline(**_asked(request))


def _one_stage(request: Request, settings: Settings) -> Result:
    pipeline = pipelines.TI2VidOneStagePipeline(
        checkpoint_path=request.checkpoint_path, gemma_root=request.gemma_root, loras=request.loras, settings=settings
    )
    return pipeline(**_guided(request))


def _two_stages(request: Request, settings: Settings) -> Result:
    return pipelines.TI2VidTwoStagesPipeline(**_two_stage_files(request, settings))(**_guided(request))


def _keyframes(request: Request, settings: Settings) -> Result:
    return pipelines.KeyframeInterpolationPipeline(**_two_stage_files(request, settings))(**_guided(request))


def _hq(request: Request, settings: Settings) -> Result:
    pipeline = pipelines.TI2VidTwoStagesHQPipeline(
        **_two_stage_files(request, settings),
        distilled_lora_strength_stage_1=request.distilled_lora_strength_stage_1,
        distilled_lora_strength_stage_2=request.distilled_lora_strength_stage_2,
    )
    return pipeline(**_guided(request), noise_seed=-1 if request.noise == "torch" else None)


def _ic_lora(request: Request, settings: Settings) -> Result:
    pipeline = pipelines.ICLoraPipeline(
        distilled_checkpoint_path=request.checkpoint_path,
        spatial_upsampler_path=_upsampler(request),
        gemma_root=request.gemma_root,
        loras=request.loras,
        settings=settings,
    )
    mask, strength = None, 1.0
    if request.conditioning_attention_mask:
        path, strength = request.conditioning_attention_mask[-1]
        mask = ic_lora.load_mask_video(path, half(_asked_shape(request)), settings.dtype)
    return pipeline(
        **_asked(request),
        video_conditioning=request.video_conditioning,
        skip_stage_2=request.skip_stage_2,
        conditioning_attention_mask=mask,
        conditioning_attention_strength=strength,
    )


def _a2vid(request: Request, settings: Settings) -> Result:
    return pipelines.A2VidPipelineTwoStage(**_two_stage_files(request, settings))(
        **_asked(request),
        negative_prompt=request.avoided,
        num_inference_steps=request.steps,
        video_guider_params=request.video_guidance,
        audio_path=request.audio_path,
        audio_start_time=request.audio_start_time,
        audio_max_duration=request.audio_max_duration,
    )


def _retake(request: Request, settings: Settings) -> Result:
    pipeline = pipelines.RetakePipeline(
        checkpoint_path=request.checkpoint_path, gemma_root=request.gemma_root, loras=request.loras, settings=settings
    )
    return pipeline(
        video_path=request.video_path,
        prompt=request.prompt,
        start_time=request.start_time,
        end_time=request.end_time,
        seed=request.seed,
        negative_prompt=request.avoided,
        num_inference_steps=request.steps,
        video_guider_params=request.video_guidance,
        audio_guider_params=request.audio_guidance,
        regenerate_video=not request.keep_video,
        regenerate_audio=not request.keep_audio,
        enhance_prompt=request.enhance_prompt,
        distilled=request.distilled,
        tiling_config=request.tiling_config,
    )


# ---- the table ----------------------------------------------------------------------------------------------------

DEFAULT = "distilled"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "distilled",
            "two stages of a distilled model, of 8 and 3 steps",
            flags.add_distilled,
            _distilled,
            distilled=True,
            keeps_transformer=True,
        ),
        Recipe(
            "ti2vid_one_stage",
            "one guided stage of the full model",
            flags.add_one_stage,
            _one_stage,
            two_stages=False,
        ),
        Recipe(
            "ti2vid_two_stages",
            "a guided stage at half the size, then three distilled steps at the full size",
            flags.add_two_stages,
            _two_stages,
        ),
        Recipe(
            "ti2vid_two_stages_hq",
            "two stages with a second-order sampler: fewer steps, of two evaluations each",
            flags.add_hq,
            _hq,
            second_order=True,
            checks=(_check_distilled_lora,),
        ),
        Recipe(
            "keyframe_interpolation",
            "two stages, a video that passes through the given images",
            flags.add_two_stages,
            _keyframes,
        ),
        Recipe(
            "ic_lora",
            "two stages of a distilled model that follow a reference video",
            flags.add_ic_lora,
            _ic_lora,
            distilled=True,
            file_checks=(_check_references, _check_mask),
        ),
        Recipe(
            "a2vid_two_stage",
            "two stages, a video for given audio",
            flags.add_a2vid,
            _a2vid,
            encodes=("audio_encoder",),
            file_checks=(_check_audio,),
            makes_audio=False,
        ),
        Recipe(
            "retake",
            "a time span of a video, re-created from a prompt",
            flags.add_retake,
            _retake,
            two_stages=False,
            of_source=True,
            encodes=("video_encoder", "audio_encoder"),
            checks=(_check_span,),
            file_checks=(_check_source,),
        ),
    )
}


def parser(command: str, name: str) -> Parser:
    """The parser of ``ltx2-mlx generate`` or ``plan`` for one pipeline."""
    recipe = RECIPES[name]
    made = flags.parser(command, name, recipe.about, recipe.add_flags, RECIPES, DEFAULT)
    made.elsewhere = _pipelines_with
    return made


def _pipelines_with(flag: str) -> str:
    """The pipelines that have a flag, in words; empty where none has it."""
    found = []
    for recipe in RECIPES.values():
        made = flags.parser("", recipe.name, recipe.about, recipe.add_flags, RECIPES, DEFAULT)
        found += [recipe.name] if flag in made.flags() else []
    return f"; --pipeline {' or '.join(found)} takes it" if found else ""


def parse_all(command: str, argv: Sequence[str]) -> tuple[Request, ...]:
    """The request of each video of ``ltx2-mlx generate`` or ``plan``. Reads no file but those of ``--config`` and of
    prompts, and exits with a message for wrong flags."""
    words = settings_file.merged(argv, command, DEFAULT, partial(parser, command))
    return flags.requests(parser(command, flags.chosen(words, command, RECIPES, DEFAULT)), words)


def parse(command: str, argv: Sequence[str]) -> Request:
    """The same for a command line of one video."""
    return parse_all(command, argv)[0]
