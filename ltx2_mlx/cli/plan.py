"""``ltx2-mlx plan``: the stages, files, memory and problems of a run, before anything is loaded.

Only headers of files are read. ``generate`` takes a plan, so that both check the same things.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from ..config import Gemma3TextConfig, LatentUpsamplerConfig, VideoVAEConfig
from ..config.reading import cut
from ..errors import InputError, LTX2Error, printable
from ..loading.checkpoint import Checkpoint, CheckpointFiles, CheckpointPath, read_checkpoint
from ..loading.gemma import check_gemma, read_gemma
from ..loading.hub import GEMMA_PATTERNS, on_hub, resolve
from ..loading.load import build, check_packed, weight_shapes
from ..loading.lora import LoraPathStrength, fitted_to, read_lora
from ..loading.quantization import check_policy
from ..loading.quantized import POLICIES
from ..media import outputs
from ..media.images import check_image
from ..media.reading import MediaInfo, probe, read_reference, read_source
from ..media.writing import aac_rate, check_encoding, frame_rate
from ..pipelines.checks import block_problems, not_utf8
from ..pipelines.constants import params_of
from ..pipelines.contexts import Contexts, load_contexts
from ..pipelines.enhancement import library
from ..pipelines.ledger import check_upsampler
from ..pipelines.prompts import check_text_models
from ..pipelines.stages import audio_tools, video_tools
from ..text.tokenizer import LTXVGemmaTokenizer
from ..tiling import TilingConfig
from ..types import VideoPixelShape
from ..vae_memory import choose_tiling, decode_memory, memory_size
from .flags import named
from .info import gigabytes
from .memory import transformer_memory, weights
from .recipes import RECIPES, Denoising, Recipe, half
from .request import DTYPES, Request


@dataclass(frozen=True)
class Stage:
    """One part of the run: what it does, its expected peak of memory in bytes, and what takes less memory.

    reading: bytes that ``--low-memory`` reads from the files while it runs.
    """

    name: str
    what: str
    weights: int
    working: int
    remedy: str = "a smaller or shorter video"
    reading: int = 0

    @property
    def memory(self) -> int:
        return self.weights + self.working


class Download(Enum):
    """The treatment of a name on Hugging Face whose files are not on this machine."""

    NEVER = "a problem"
    LATER = "left unresolved"
    NOW = "downloaded"


@dataclass
class Plan:
    """The stages, files, memory and problems of a run.

    request: with paths in the place of names, and the defaults of the checkpoint's version. files: (kind, path, what
    was found in it). problems: each a line that says what is wrong and what to do. notes: what is in the media files
    or the values that a user may not expect. encodes: how many prompts Gemma encodes. missing: the names of
    files that are not here, and are looked into no further; pending: those of them that can be downloaded.
    """

    request: Request
    files: list[tuple[str, str, str]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodes: int = 0
    missing: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)

    @contextmanager
    def checking(self) -> Iterator[None]:
        """An error within becomes a problem, and planning goes on."""
        try:
            yield
        except LTX2Error as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.request.pipeline]

    @property
    def memory(self) -> int:
        return max((stage.memory for stage in self.stages), default=0)


def plan(request: Request, download: bool = False) -> Plan:
    """The plan of a request. download: fetch what is not on this machine, once everything else has been checked and no
    problem was found."""
    if not download:
        return _planned(request, Download.NEVER)
    first = _planned(request, Download.LATER)
    return _planned(request, Download.NOW) if first.pending and not first.problems else first


def _planned(request: Request, download: Download) -> Plan:
    result = Plan(request)
    sound = _check_values(result)
    _locate(result, download)
    checkpoint = _files(result)
    shape = _check_against_files(result, checkpoint, sound)
    if checkpoint is not None and shape is not None:
        for part in (_text_stage, _stages):
            with result.checking():
                result.stages += part(result, checkpoint, shape)
    _check_memory(result)
    return result


# ---- values -------------------------------------------------------------------------------------------------------


def _check_values(result: Plan) -> bool:
    """Find every problem that can be known without a file. Returns True where the pipeline takes the values."""
    request, recipe = result.request, result.recipe
    refused = list(recipe.problems(request))
    result.problems += refused
    result.notes += _value_notes(request)
    for check in (
        _check_quantization,
        *recipe.checks,
        _check_enhancement,
        _check_gemma,
        _check_output,
        _check_context,
    ):
        with result.checking():
            check(request)
    return not refused


def _value_notes(request: Request) -> Iterator[str]:
    """What a user may not expect of the values."""
    if not request.prompt.strip():
        yield "--prompt is empty: the video follows no text"
    if request.seed < 0 and RECIPES[request.pipeline].of_source:
        yield f"--seed {request.seed} takes a random seed, another one in each run"
    elif request.seed < 0 and request.noise == "torch":
        yield f"--seed {request.seed} is PyTorch's seed of that number, not a random one"
    if request.low_memory and request.quantization in POLICIES:
        yield (
            f"--low-memory packs every block again in each pass with --quantization {request.quantization}: "
            "ltx2-mlx convert writes a file that is packed once, and is shorter to read"
        )
    if request.keep_video and request.keep_audio:
        yield "--keep-video and --keep-audio together leave nothing to re-create"


def _check_quantization(request: Request) -> None:
    check_policy(request.quantization)
    if request.quantization and request.cross_attn_scale != 1.0:
        raise InputError("--cross-attn-scale changes weights, which --quantization has rounded; use one of them")


def _check_enhancement(request: Request) -> None:
    module, command = library(image=bool(request.images))
    if request.enhance_prompt and importlib.util.find_spec(module) is None:
        raise InputError(f"--enhance-prompt needs {module.replace('_', '-')}: {command}")


def _check_gemma(request: Request) -> None:
    if request.placeholder or request.gemma_root is not None:
        return
    if request.enhance_prompt or request.context is None or not request.context.exists():
        raise InputError(_NO_GEMMA)


_NO_GEMMA = "--gemma-root is missing: the prompt has to be encoded by Gemma, as no --context file has it"


def check_outputs(request: Request) -> None:
    """Raises InputError for files that cannot be written, or must not be."""
    _check_output(request)
    _check_context(request)


def _check_output(request: Request) -> None:
    path = request.output_path
    if outputs.kind(path) == ".wav" and not request.audio:
        raise InputError(f"{path} is for audio, and --no-audio makes none; leave one of them out")
    checkpoint = request.checkpoint_path
    files = [request.gemma_root, request.spatial_upsampler_path, request.context]
    files += checkpoint.given().values() if isinstance(checkpoint, CheckpointFiles) else [checkpoint]
    files += [image.path for image in request.images]
    files += [path for path, _ in (*request.video_conditioning, *request.conditioning_attention_mask)]
    files += [lora.path for lora in (*request.loras, *request.distilled_lora)]
    files += [request.audio_path, request.video_path]
    outputs.check_output(path, overwrite=request.overwrite, inputs=filter(None, files))


def _check_context(request: Request) -> None:
    if request.context is not None:
        outputs.check_context(request.context, request.output_path)


# ---- files --------------------------------------------------------------------------------------------------------


def _locate(result: Plan, download: Download) -> None:
    """Put paths in the place of names on Hugging Face."""

    def path(reference: str, patterns: Sequence[str] | None = None) -> str:
        with result.checking():
            try:
                return str(resolve(reference, patterns, download is Download.NOW))
            except LTX2Error:
                result.missing.add(reference)
                if download is not Download.LATER or not on_hub(reference, patterns):
                    raise
                result.pending.append(reference)
        return reference

    def paths(loras: tuple[LoraPathStrength, ...]) -> tuple[LoraPathStrength, ...]:
        return tuple(replace(lora, path=path(str(lora.path))) for lora in loras)

    def checkpoint(reference: CheckpointPath) -> CheckpointPath:
        if isinstance(reference, CheckpointFiles):
            return CheckpointFiles(**{role: path(str(file)) for role, file in reference.given().items()})
        return path(str(reference))

    request = result.request
    upsampler, gemma = request.spatial_upsampler_path, request.gemma_root
    result.request = replace(
        request,
        checkpoint_path=checkpoint(request.checkpoint_path),
        spatial_upsampler_path=None if upsampler is None else path(upsampler),
        gemma_root=None if gemma is None else path(gemma, GEMMA_PATTERNS),
        loras=paths(request.loras),
        distilled_lora=paths(request.distilled_lora),
    )


def _files(result: Plan) -> Checkpoint | None:
    """Check every file that is here. Returns the checkpoint, where it can be read."""
    checkpoint = _checkpoint(result)
    request = result.request
    if not request.placeholder:
        _text_files(result, checkpoint)
    upsampler = request.spatial_upsampler_path
    if upsampler is not None and upsampler not in result.missing:
        with result.checking():
            header = read_checkpoint(upsampler)
            build("upsampler", header)
            check_upsampler(LatentUpsamplerConfig.from_metadata(header.config), upsampler)
            result.files.append(("upsampler", upsampler, gigabytes(Path(upsampler).stat().st_size)))
    for lora in [*request.loras, *request.distilled_lora]:
        if str(lora.path) not in result.missing:
            with result.checking():
                _lora(lora, result, checkpoint)
    _media_files(result)
    return checkpoint


def _checkpoint(result: Plan) -> Checkpoint | None:
    path = result.request.checkpoint_path
    given = path.given().values() if isinstance(path, CheckpointFiles) else [path]
    if result.missing.intersection(map(str, given)):
        return None
    checkpoint = None
    with result.checking():
        checkpoint = read_checkpoint(path)
        size = gigabytes(sum(info.nbytes for info in checkpoint.tensors.values()))
        result.files.append(("checkpoint", str(path), f"version {checkpoint.version}, {size}"))
        result.request = replace(result.request, defaults=params_of(checkpoint.version))
    if checkpoint is not None:
        for part in result.recipe.components(result.request):
            with result.checking():
                module, _ = build(part, checkpoint)
                if part == "transformer":
                    check_packed(module, result.request.quantization, checkpoint.path)
    return checkpoint


def _text_files(result: Plan, checkpoint: Checkpoint | None) -> None:
    request, known = result.request, {}
    if request.context is not None and request.context.exists():
        if checkpoint is None:  # it says which version the contexts must have
            return
        with result.checking():
            known = contexts(request)
            result.files.append(("contexts", str(request.context), f"{len(known)} prompts"))
    result.notes += _prompt_notes(request, result)
    new = {prompt for prompt in result.recipe.prompts(request) if prompt not in known}
    if not new and not request.enhance_prompt:
        return
    if request.gemma_root is None:
        with result.checking():
            raise InputError(_NO_GEMMA)
    elif request.gemma_root not in result.missing:
        with result.checking():
            folder = check_gemma(request.gemma_root)
            build("gemma", folder)
            if checkpoint is not None and checkpoint.holds("embeddings_processor"):
                check_text_models(folder, checkpoint)
            result.encodes = max(len(new), 1)
            size = sum(info.nbytes for info in folder.tensors.values())
            result.files.append(("Gemma 3", request.gemma_root, gigabytes(size)))


def contexts(request: Request) -> Contexts:
    """The contexts of the request's file: prompt → context. Raises CheckpointError for those of another run."""
    if request.context is None or request.placeholder or not request.context.exists():
        return {}
    return load_contexts(
        request.context,
        request.checkpoint_path,
        request.gemma_root,
        DTYPES[request.dtype],
        early_layers_only=request.early_layers_only,
    )


def _prompt_notes(request: Request, result: Plan) -> Iterator[str]:
    """A note for each prompt that is cut because it is too long."""
    if request.gemma_root is None or request.gemma_root in result.missing:
        return
    with suppress(LTX2Error):  # of the folder, which has its own check
        tokenizer = LTXVGemmaTokenizer(request.gemma_root)
        for flag, prompt in zip(("--prompt", "--negative-prompt"), result.recipe.prompts(request), strict=False):
            if not not_utf8(prompt) and (rest := tokenizer.beyond(prompt)):
                yield f"{flag} has more than {tokenizer.max_length:,} tokens, and is cut before: {cut(rest, 40)}"


def _lora(lora: LoraPathStrength, result: Plan, checkpoint: Checkpoint | None) -> None:
    opened = read_lora(lora)
    keys = checkpoint.components().get("transformer", {}) if checkpoint is not None else {}
    if checkpoint is None or not keys:  # there is no transformer to compare it with
        return
    module, keys = build("transformer", checkpoint)
    _, report = fitted_to(opened, weight_shapes(module, {name: checkpoint.tensors[key] for name, key in keys.items()}))
    found = f"{report.matched} of {report.pairs} pairs fit, strength {report.strength:g}"
    found += f"; {report.note}" if report.note else ""
    result.files.append(("LoRA", str(lora.path), found))


def _media_files(result: Plan) -> None:
    request = result.request
    for image in request.images:
        with result.checking():
            picture = check_image(image.path, image.crf)
            height, width = picture.pixels.shape[:2]
            result.files.append(("image", image.path, f"{height}x{width} at frame {image.frame_idx}"))
            result.notes += [f"{image.path} {note}" for note in picture.notes]
    for path, _ in (*request.video_conditioning, *request.conditioning_attention_mask):
        with result.checking():
            _media(result, path, read_reference(path, request.num_frames, request.frame_rate))
    if request.audio_path:
        with result.checking():
            given = probe(request.audio_path, video=False)
            _media(result, request.audio_path, given)
            result.notes += _length_notes(request, given)
    if request.video_path:
        with result.checking():
            source = read_source(request.video_path, memory_size())
            _media(result, request.video_path, source)
            result.notes += _span_notes(request, source)


def _span_notes(request: Request, source: MediaInfo) -> Iterator[str]:
    """A note where a retake's span goes beyond its video."""
    if source.frames and source.fps and request.end_time > (ends := float(source.frames / source.fps)):
        yield f"{request.video_path} ends at {ends:.2f} s: --end-time {request.end_time:g} is as good as that"


def _length_notes(request: Request, audio: MediaInfo) -> Iterator[str]:
    """A note where given audio is not as long as its video."""
    if audio.samples and audio.sample_rate and request.frame_rate > 0:
        video, rest = (
            request.num_frames / request.frame_rate,
            audio.samples / audio.sample_rate - request.audio_start_time,
        )
        taken = min(rest, video if request.audio_max_duration is None else request.audio_max_duration)
        if rest > taken + 0.01:
            yield f"{request.audio_path} goes on after the {taken:.2f} s that are used"
        if taken < video - 0.01:
            yield f"{request.audio_path} gives {taken:.2f} s of audio, and silence follows to {video:.2f} s"


def _media(result: Plan, path: str, found: MediaInfo) -> None:
    parts = []
    if found.frames and found.fps:
        parts.append(f"{found.frames} frames of {found.height}x{found.width}, {float(found.fps):g} per second")
    if found.samples and found.sample_rate:
        parts.append(f"{found.samples / found.sample_rate:.2f} s of audio at {found.sample_rate} Hz")
        if (
            outputs.kind(result.request.output_path) == ".mp4"
            and (rate := aac_rate(found.sample_rate)) != found.sample_rate
        ):
            result.notes.append(f"{path} has audio at {found.sample_rate} Hz, which an MP4 gets at {rate} Hz")
    result.files.append(("media", path, "; ".join(parts) or "neither video nor audio"))
    result.notes += [f"{path} {note}" for note in found.notes]


def _check_against_files(result: Plan, checkpoint: Checkpoint | None, sound: bool) -> VideoPixelShape | None:
    """Check the values against the files. Returns the shape of the video, where it can be made."""
    request, recipe, shape = result.request, result.recipe, None
    if not sound:
        return None
    with result.checking():
        shape = recipe.shape(request)
        recipe.sigmas(request, half(shape) if recipe.two_stages else shape)  # steps of the checkpoint's version
        if outputs.kind(request.output_path) == ".mp4":
            check_encoding(shape.height, shape.width)
            frame_rate(shape.fps)
    if shape is not None and not result.missing.intersection(str(lora.path) for lora in request.loras):
        for check in recipe.file_checks:
            with result.checking():
                check(request)
    if checkpoint is not None and not request.placeholder:
        guidance = {f"{stream}_guider_params": params for stream, params in recipe.guidance(request).items()}
        with result.checking():
            result.problems += block_problems(checkpoint, guidance, named)
    return shape


# ---- stages -------------------------------------------------------------------------------------------------------


def _text_stage(result: Plan, checkpoint: Checkpoint, shape: VideoPixelShape) -> Iterator[Stage]:
    request = result.request
    if result.encodes and request.gemma_root is not None:
        folder = read_gemma(request.gemma_root)
        states = Gemma3TextConfig.from_metadata(folder.config)
        working = 1024 * states.hidden_size * (states.num_hidden_layers + 1) * request.itemsize * 2
        remedy = "a --context file that was made on another machine"
        remedy = remedy if request.low_memory else f"--low-memory, or {remedy}"
        gemma = weights(folder, "gemma", request)
        connectors = weights(checkpoint, "embeddings_processor", request)
        what = "Gemma 3, 1024 tokens each"
        what += f", reads {gigabytes(gemma.read + connectors.read)} for each prompt" if request.low_memory else ""
        reading = (gemma.read + connectors.read) * result.encodes
        yield Stage("prompts", what, max(gemma.held, connectors.held), working, remedy, reading)


_AUDIO_SECOND = 200_000_000  # bytes that decoding a second of audio takes; a tiny vocoder takes 180 million


def _stages(result: Plan, checkpoint: Checkpoint, shape: VideoPixelShape) -> Iterator[Stage]:
    request, recipe = result.request, result.recipe
    denoising = recipe.denoising(request, shape)
    if not request.placeholder:
        for stage in denoising:
            loras = [*request.loras]
            loras += request.distilled_lora if recipe.second_order or stage.name == "stage 2" else []
            yield _denoising(stage, request, checkpoint, loras)
    made = denoising[-1].shape
    if recipe.decodes_audio(request):
        held = sum(weights(checkpoint, part, request, paged=False).held for part in ("audio_decoder", "vocoder"))
        seconds = made.frames / made.fps
        working = int(seconds * _AUDIO_SECOND)
        yield Stage("audio", f"{seconds:.2f} s", held, working, "a shorter video, or more frames a second")
    config, latent = VideoVAEConfig.from_metadata(checkpoint.config), tuple(video_tools(made).target_shape)
    budget = memory_size() // (8 if request.low_memory else 2)
    tiles = request.tiling_config or choose_tiling(config, latent, budget, request.itemsize)
    working = decode_memory(config, latent, request.itemsize)
    working = min(working, budget) if request.tiling != "none" else working
    decoder = weights(checkpoint, "video_decoder", request, paged=False).held
    yield Stage("frames", f"{made.frames} of {made.height}x{made.width}, {_tiles(tiles)}", decoder, working)


def _tiles(tiles: TilingConfig | None) -> str:
    if tiles is None or tiles.spatial_config is None or tiles.temporal_config is None:
        return "in one piece"
    pixels, frames = tiles.spatial_config.tile_size_in_pixels, tiles.temporal_config.tile_size_in_frames
    return f"in tiles of {pixels} pixels, {frames} frames"


def _denoising(stage: Denoising, request: Request, checkpoint: Checkpoint, loras: Sequence[LoraPathStrength]) -> Stage:
    shape = stage.shape
    tokens, of_audio = video_tools(shape).target_shape.token_count(), audio_tools(shape).target_shape.token_count()
    count = f"{stage.steps} steps"
    count += f", {stage.evaluations} evaluations" if stage.evaluations != stage.steps else ""
    count += f" of {stage.passes} passes" if stage.passes > 1 else ""
    what = f"{shape.frames} frames of {shape.height}x{shape.width}, {tokens:,} + {of_audio:,} tokens, {count}"
    transformer = weights(checkpoint, "transformer", request, loras)
    what += f"; reads {gigabytes(transformer.read * stage.runs_of_a_step)} a step" if request.low_memory else ""
    cast = request.quantization == "fp8-cast"
    unrounded = weights(checkpoint, "transformer", replace(request, quantization=None)) if cast else transformer
    working = transformer_memory(checkpoint, tokens, of_audio, request.itemsize, unrounded.held)
    fewer = request.quantization or any(info.dtype == "U32" for info in checkpoint.tensors.values())
    smaller = Stage.remedy if fewer else f"--quantization q8 or q4, or {Stage.remedy}"
    smaller = smaller if request.low_memory else f"--low-memory, {smaller}"
    return Stage(stage.name, what, transformer.held, working, smaller, transformer.read * stage.runs)


def _check_memory(result: Plan) -> None:
    available = memory_size()
    for stage in result.stages:
        if stage.memory > available:
            needed = f"{stage.name} takes about {gigabytes(stage.memory)} of {gigabytes(available)} of memory"
            result.problems.append(f"{needed}: use {stage.remedy}")


# ---- words --------------------------------------------------------------------------------------------------------


def show(plan: Plan) -> str:
    """The plan as text."""
    lines = [f"pipeline  {plan.request.pipeline}"]
    lines += [f"  {kind:<11}{path}  ({found})" for kind, path, found in plan.files]
    if plan.stages:
        lines += ["", f"{'stage':<11}{'memory':>10}  what"]
        lines += [f"{stage.name:<11}{gigabytes(stage.memory):>10}  {stage.what}" for stage in plan.stages]
        lines.append(f"peak about {gigabytes(plan.memory)} of {gigabytes(memory_size())}")
        if reading := sum(stage.reading for stage in plan.stages):
            lines.append(f"reads about {gigabytes(reading)} from the files in all: --low-memory keeps no weights")
    if plan.notes:
        lines += ["", *(f"note: {note}" for note in plan.notes)]
    if plan.problems:
        lines += ["", f"{len(plan.problems)} problem{'s' if len(plan.problems) > 1 else ''}:"]
        lines += [f"  - {problem}" for problem in plan.problems]
    return "\n".join(map(printable, lines))
