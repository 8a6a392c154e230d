"""What a run will do, before anything is loaded: stages, files, memory, and every problem with its remedy.

Only headers of files are read.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import mlx.core as mx

from ..config import TransformerConfig, VideoVAEConfig
from ..diffusion.schedulers import LTX2Scheduler
from ..errors import InputError, LTX2Error
from ..loading.checkpoint import Checkpoint, read_checkpoint, read_gemma
from ..loading.hub import GEMMA_PATTERNS, resolve
from ..loading.load import build
from ..loading.lora import LoraPathStrength, lora_metadata, read_lora, report_on
from ..loading.quantization import check_policy, is_downcast
from ..media.images import decode_image
from ..media.reading import probe
from ..pipelines.constants import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
from ..pipelines.enhancement import library
from ..pipelines.prompts import load_contexts
from ..pipelines.retake import source_shape
from ..pipelines.stages import assert_resolution, audio_tools, check_images, video_tools
from ..types import VideoPixelShape
from ..video_vae import choose_tiling, decode_memory, memory_size
from .flags import RECIPES, guider_params
from .generate import DTYPES, tiling


@dataclass(frozen=True)
class Stage:
    """One part of the run: what it does, and the peak of memory that is expected of it, in bytes."""

    name: str
    what: str
    weights: int
    working: int

    @property
    def memory(self) -> int:
        return self.weights + self.working


@dataclass
class Plan:
    """files: what is read, with its size. problems: each a line that says what is wrong and what to do.

    missing: what could not be found, and is not looked into any further.
    """

    pipeline: str
    files: list[tuple[str, str, str]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: set[str | Path] = field(default_factory=set)

    @contextmanager
    def checking(self, file: str | Path | None = None) -> Iterator[None]:
        """What goes wrong within becomes a problem, and planning goes on; ``file`` is then known to be missing."""
        try:
            yield
        except LTX2Error as error:
            if file is not None:
                self.missing.add(file)
            if str(error) not in self.problems:
                self.problems.append(str(error))

    @property
    def memory(self) -> int:
        return max((stage.memory for stage in self.stages), default=0)


def plan(args: argparse.Namespace, download: bool = False) -> Plan:
    """The plan of the flags. Names on Hugging Face become paths in ``args``; download: fetch what is not here."""
    result = Plan(args.pipeline)
    _locate(args, result, download)
    checkpoint = _files(args, result)
    shape = _shape(args, result)
    _values(args, result, shape, checkpoint)
    if checkpoint is not None and shape is not None:
        for part in (_text_stage, _stages):
            with result.checking():
                result.stages += part(args, checkpoint, shape)
    _check_memory(args, result)
    return result


# ---- files --------------------------------------------------------------------------------------------------------


def _locate(args: argparse.Namespace, result: Plan, download: bool) -> None:
    for name, patterns in (("checkpoint_path", None), ("spatial_upsampler_path", None), ("gemma_root", GEMMA_PATTERNS)):
        if getattr(args, name, None) is not None:
            with result.checking(getattr(args, name)):
                setattr(args, name, str(resolve(getattr(args, name), patterns, download)))
    for name in ("lora", "distilled_lora"):
        for i, lora in enumerate(getattr(args, name, [])):
            with result.checking(lora.path):
                getattr(args, name)[i] = replace(lora, path=str(resolve(lora.path, download=download)))


def _files(args: argparse.Namespace, result: Plan) -> Checkpoint | None:
    checkpoint = None
    if args.checkpoint_path not in result.missing:
        with result.checking():
            checkpoint = read_checkpoint(args.checkpoint_path)
            size = gigabytes(sum(info.nbytes for info in checkpoint.tensors.values()))
            result.files.append(("checkpoint", str(args.checkpoint_path), f"version {checkpoint.version}, {size}"))
    for part in _parts(args) if checkpoint else ():
        with result.checking():
            build(part, checkpoint)
    if not args.placeholder:
        _text_files(args, result, checkpoint)
    upsampler = getattr(args, "spatial_upsampler_path", None)
    if upsampler and upsampler not in result.missing:
        with result.checking():
            module, _ = build("upsampler", read_checkpoint(upsampler))
            if (scale := module.config.spatial_scale) != 2:
                raise InputError(f"{upsampler} scales by {scale:g}; the second stage needs one that scales by 2")
            result.files.append(("upsampler", str(upsampler), _size(upsampler)))
    for lora in [*args.lora, *getattr(args, "distilled_lora", [])]:
        if lora.path in result.missing:
            continue
        with result.checking():
            _lora(lora, result, checkpoint)
    _media_files(args, result)
    with result.checking():
        _output(Path(args.output_path), args.no_audio)
    return checkpoint


def _parts(args: argparse.Namespace) -> list[str]:
    """The components that the run takes out of the checkpoint."""
    parts = ["video_decoder"] if args.placeholder else ["transformer", "embeddings_processor", "video_decoder"]
    if getattr(args, "images", ()) or "spatial_upsampler_path" in args or args.pipeline == "retake":
        parts.append("video_encoder")
    if args.pipeline in ("a2vid_two_stage", "retake"):
        parts.append("audio_encoder")
    if not args.no_audio and args.pipeline != "a2vid_two_stage":
        parts += ["audio_decoder", "vocoder"]
    return parts


def _text_files(args: argparse.Namespace, result: Plan, checkpoint: Checkpoint | None) -> None:
    prompts, known = [args.prompt, getattr(args, "negative_prompt", args.prompt)], {}
    if args.context and Path(args.context).exists() and checkpoint is not None:
        with result.checking():
            known = load_contexts(args.context, args.checkpoint_path)
            result.files.append(("contexts", str(args.context), f"{len(known)} prompts"))
    if all(prompt in known for prompt in prompts) and not args.enhance_prompt:
        return
    if args.gemma_root in result.missing:
        return
    if args.gemma_root is None:
        result.problems.append("--gemma-root is missing: the prompt's context is not in a --context file")
        return
    with result.checking():
        folder = read_gemma(args.gemma_root)
        build("gemma", folder)
        size = sum(info.nbytes for info in folder.tensors.values())
        result.files.append(("Gemma 3", str(args.gemma_root), gigabytes(size)))


def _lora(lora: LoraPathStrength, result: Plan, checkpoint: Checkpoint | None) -> None:
    opened = read_lora(lora)
    if checkpoint is None:
        return
    keys = checkpoint.components().get("transformer", {})
    report = report_on(opened, {name: checkpoint.tensors[key].shape for name, key in keys.items()})
    found = f"{report.matched} of {report.pairs} pairs fit, strength {report.strength:g}"
    result.files.append(("LoRA", str(lora.path), found))


def _media_files(args: argparse.Namespace, result: Plan) -> None:
    for image in getattr(args, "images", ()):
        with result.checking():
            height, width = decode_image(image.path).shape[:2]
            result.files.append(("image", image.path, f"{height}x{width} at frame {image.frame_idx}"))
    masks = [path for path, _ in getattr(args, "conditioning_attention_mask", ())]
    videos = [path for path, _ in getattr(args, "video_conditioning", ())] + masks
    for path in [*videos, *filter(None, [getattr(args, "audio_path", None), getattr(args, "video_path", None)])]:
        with result.checking():
            result.files.append(("media", path, str(probe(path))))


def _output(path: Path, silent: bool) -> None:
    if path.suffix not in (".mp4", ".wav", ""):
        raise InputError(f"{path}: ends in {path.suffix}; use .mp4, .wav, or a folder's name for PNG frames")
    if path.suffix == ".wav" and silent:
        raise InputError(f"{path} is for sound, and --no-audio makes none; leave one of them out")
    there = next(folder for folder in (path, *path.parents) if folder.exists())  # what is missing below it is made
    if there == path and path.suffix == "" and not path.is_dir():
        raise InputError(f"{path}: a file, and PNG frames go into a folder; give another name")
    if not os.access(there, os.W_OK) or not (there == path or there.is_dir()):
        raise InputError(f"{path}: {there} cannot be written to; give another path")


# ---- values -------------------------------------------------------------------------------------------------------


def _shape(args: argparse.Namespace, result: Plan) -> VideoPixelShape | None:
    """Of the result, None where it cannot be made."""
    with result.checking():
        if args.pipeline == "retake":
            return source_shape(args.video_path)
        if args.frame_rate <= 0:
            raise InputError(f"--frame-rate {args.frame_rate:g} is not above 0; films have 24")
        assert_resolution(args.height, args.width, args.num_frames, RECIPES[args.pipeline].two_stages)
        return VideoPixelShape(1, args.num_frames, args.height, args.width, args.frame_rate)
    return None


def _values(
    args: argparse.Namespace, result: Plan, shape: VideoPixelShape | None, checkpoint: Checkpoint | None
) -> None:
    with result.checking():
        check_policy(args.quantization[0] if args.quantization else None)
        if args.quantization and args.cross_attn_scale != 1.0:
            raise InputError("--cross-attn-scale changes weights, which --quantization has rounded; use one of them")
    with result.checking():
        check_images(getattr(args, "images", ()), getattr(args, "num_frames", 0))
    with result.checking():
        if args.seed < 0 and args.pipeline != "retake" and args.noise == "numpy":
            raise InputError(f"--seed {args.seed} is below 0")
    module, command = library(image=bool(getattr(args, "images", ())))
    if args.enhance_prompt and importlib.util.find_spec(module) is None:
        result.problems.append(f"--enhance-prompt needs {module.replace('_', '-')}: {command}")
    if args.pipeline == "retake" and not args.start_time < args.end_time:
        result.problems.append(f"--start-time {args.start_time:g} is not before --end-time {args.end_time:g}")
    with result.checking():
        _sigmas(args, shape)
    if args.pipeline == "ic_lora" and shape is not None:
        with result.checking():
            _check_reference_size(args, shape)
    if checkpoint is not None and not RECIPES[args.pipeline].distilled:
        with result.checking():
            layers = TransformerConfig.from_metadata(checkpoint.config).num_layers
            for stream in _guided_streams(args):
                if wrong := [b for b in guider_params(args, stream).stg_blocks or () if not 0 <= b < layers]:
                    raise InputError(f"--{stream}-stg-blocks {wrong[0]}: the model has blocks 0 to {layers - 1}")


def _guided_streams(args: argparse.Namespace) -> tuple[str, ...]:
    return ("video",) if args.pipeline == "a2vid_two_stage" else ("video", "audio")


def _check_reference_size(args: argparse.Namespace, shape: VideoPixelShape) -> None:
    for lora in args.lora:
        step = 64 * lora_metadata(lora.path).reference_downscale_factor
        if shape.height % step or shape.width % step:
            raise InputError(f"{lora.path}: its reference videos need --height and --width in multiples of {step}")


# ---- stages -------------------------------------------------------------------------------------------------------


def _sigmas(args: argparse.Namespace, shape: VideoPixelShape | None) -> list[float]:
    """The schedule of the first stage."""
    if RECIPES[args.pipeline].distilled or getattr(args, "distilled", False):
        return DISTILLED_SIGMA_VALUES
    if args.pipeline == "ti2vid_two_stages_hq" and shape is not None:
        half = shape._replace(height=shape.height // 2, width=shape.width // 2)
        return LTX2Scheduler().execute(args.num_inference_steps, video_tools(half).target_shape.token_count()).tolist()
    return LTX2Scheduler().execute(args.num_inference_steps).tolist()


def _passes(args: argparse.Namespace) -> int:
    """Passes through the transformer that a guided step takes."""
    if RECIPES[args.pipeline].distilled or getattr(args, "distilled", False):
        return 1
    guidance = [guider_params(args, stream) for stream in _guided_streams(args)]
    wanted = (
        any(g.cfg_scale != 1 for g in guidance),
        any(g.stg_scale != 0 for g in guidance),
        any(g.modality_scale != 1 for g in guidance),
    )
    return 1 + sum(wanted)


def _stages(args: argparse.Namespace, checkpoint: Checkpoint, shape: VideoPixelShape) -> Iterator[Stage]:
    itemsize = DTYPES[args.dtype].size
    if not args.placeholder:
        two = RECIPES[args.pipeline].two_stages
        first = shape._replace(height=shape.height // 2, width=shape.width // 2) if two else shape
        yield _denoising(
            "stage 1" if two else "denoising", args, checkpoint, first, _sigmas(args, shape), _passes(args)
        )
        if two and not getattr(args, "skip_stage_2", False):
            yield _denoising("stage 2", args, checkpoint, shape, STAGE_2_DISTILLED_SIGMA_VALUES, 1)
        elif two:
            shape = first
    if not args.no_audio and args.pipeline != "a2vid_two_stage":
        weights = _bytes(checkpoint, "audio_decoder", itemsize) + _bytes(checkpoint, "vocoder", 4)
        yield Stage("sound", f"{shape.frames / shape.fps:.2f} s", weights, 0)
    config, latent = VideoVAEConfig.from_metadata(checkpoint.config), tuple(video_tools(shape).target_shape)
    budget = memory_size() // (8 if args.low_memory else 2)
    tiles = tiling(args) or choose_tiling(config, latent, budget, itemsize)
    working = decode_memory(config, latent, itemsize)
    how = "in one piece" if tiles is None or tiles.spatial_config is None else f"in tiles of {_tiles(tiles)}"
    working = min(working, budget) if args.tiling != "none" else working
    decoder = _bytes(checkpoint, "video_decoder", itemsize)
    yield Stage("frames", f"{shape.frames} of {shape.height}x{shape.width}, {how}", decoder, working)


def _tiles(tiles: object) -> str:
    return f"{tiles.spatial_config.tile_size_in_pixels} pixels, {tiles.temporal_config.tile_size_in_frames} frames"


def _text_stage(args: argparse.Namespace, checkpoint: Checkpoint, shape: VideoPixelShape) -> Iterator[Stage]:
    itemsize = DTYPES[args.dtype].size
    if not args.placeholder and args.gemma_root and not (args.context and Path(args.context).exists()):
        folder = read_gemma(args.gemma_root)
        states = folder.config["text_config"]
        working = 1024 * states["hidden_size"] * (states["num_hidden_layers"] + 1) * itemsize * 2
        yield Stage("prompts", "Gemma 3, 1024 tokens each", _bytes(folder, "gemma", itemsize), working)


def _denoising(
    name: str,
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    shape: VideoPixelShape,
    sigmas: list[float],
    passes: int,
) -> Stage:
    tokens, sounds = (tools(shape).target_shape.token_count() for tools in (video_tools, audio_tools))
    evaluations = 2 if args.pipeline == "ti2vid_two_stages_hq" else 1
    count = f"{len(sigmas) - 1} steps" + (f" of {evaluations * passes} passes" if evaluations * passes > 1 else "")
    what = f"{shape.frames} frames of {shape.height}x{shape.width}, {tokens:,} + {sounds:,} tokens, {count}"
    working = transformer_memory(checkpoint, tokens, DTYPES[args.dtype].size)
    return Stage(name, what, _transformer_bytes(checkpoint, args), working)


def transformer_memory(checkpoint: Checkpoint, tokens: int, itemsize: int) -> int:
    """About the peak, in bytes, of one pass over ``tokens`` video tokens beside the weights.

    On an H200 the 19B model took 8.7 GB for 6,144 tokens and 12.0 GB for 24,576: 22 values of the inner width for each
    token, and a fifth of the weights' bytes (more with fp8-cast). On a CPU every head's scores are written out as well.
    """
    config = TransformerConfig.from_metadata(checkpoint.config)
    scores = 3 * config.num_attention_heads * tokens * (tokens + 1024) if mx.default_device().type == mx.cpu else 0
    return (22 * tokens * config.inner_dim + scores) * itemsize + _bytes(checkpoint, "transformer", itemsize) // 5


def _transformer_bytes(checkpoint: Checkpoint, args: argparse.Namespace) -> int:
    if not args.quantization:
        return _bytes(checkpoint, "transformer", DTYPES[args.dtype].size)
    return _bytes(checkpoint, "transformer", lambda name: 1 if is_downcast(name) else DTYPES[args.dtype].size)


def _bytes(checkpoint: Checkpoint, component: str, itemsize: int | Callable[[str], int]) -> int:
    """Bytes of a component's weights in memory."""
    size = itemsize if callable(itemsize) else lambda name: itemsize
    keys = checkpoint.components().get(component, {})
    return sum(prod(checkpoint.tensors[key].shape) * size(name) for name, key in keys.items())


def _check_memory(args: argparse.Namespace, result: Plan) -> None:
    available = memory_size()
    for stage in result.stages:
        if stage.memory > available:
            remedy = "a smaller or shorter video"
            if stage.name in ("stage 1", "stage 2", "denoising") and not args.quantization:
                remedy = "--quantization fp8-cast, or a smaller or shorter video"
            elif stage.name == "prompts":
                remedy = "contexts made on another machine (--context)"
            result.problems.append(
                f"{stage.name} takes about {gigabytes(stage.memory)} of {gigabytes(available)}: use {remedy}"
            )


# ---- words --------------------------------------------------------------------------------------------------------


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _size(path: str | Path) -> str:
    return gigabytes(Path(path).stat().st_size)


def show(plan: Plan) -> str:
    """The plan as text."""
    lines = [f"pipeline  {plan.pipeline}"]
    lines += [f"  {kind:<11}{path}  ({found})" for kind, path, found in plan.files]
    if plan.stages:
        lines += ["", f"{'stage':<11}{'memory':>10}  what"]
        lines += [f"{stage.name:<11}{gigabytes(stage.memory):>10}  {stage.what}" for stage in plan.stages]
        lines.append(f"peak about {gigabytes(plan.memory)} of {gigabytes(memory_size())}")
    if plan.problems:
        lines += ["", f"{len(plan.problems)} problem{'s' if len(plan.problems) > 1 else ''}:"]
        lines += [f"  - {problem}" for problem in plan.problems]
    return "\n".join(lines)
