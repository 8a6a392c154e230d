"""``ltx2-mlx plan``: the stages, files, memory and problems of a run, before anything is loaded.

Only headers of files are read. ``generate`` takes a plan, so that both check the same things.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.nn as nn

from ..config import DiffusionDecoderConfig, LatentUpsamplerConfig
from ..config.reading import cut
from ..diffusion.behaviour import behaviour_of
from ..diffusion_decoder import check_tiling
from ..distributed.table import RULES, SIZES, check_ranks, parts_of, shapes_of
from ..errors import InputError, LTX2Error
from ..loading.checkpoint import Checkpoint, CheckpointFiles, CheckpointPath, release_of, unstated
from ..loading.gemma import Gemma, check_gemma
from ..loading.hub import GEMMA_PATTERNS, Remote, look_up, on_hub, resolve
from ..loading.load import build, check_packed, weight_shapes
from ..loading.lora import LoraPathStrength, fitted_to, read_lora
from ..loading.quantization import check_policy
from ..loading.quantized import POLICIES
from ..media import outputs
from ..media.encoding import check_encoding
from ..media.images import check_image
from ..media.reading import MediaInfo, probe, read_reference, read_source
from ..media.writing import aac_rate, frame_rate
from ..pipelines.checks import block_problems, not_utf8
from ..pipelines.constants import params_of
from ..pipelines.contexts import Contexts, load_contexts
from ..pipelines.enhancement import check_writes, library
from ..pipelines.ledger import check_upsampler
from ..pipelines.prompts import check_text_models
from ..text.tokenizer import LTXVGemmaTokenizer
from ..types import VideoPixelShape
from ..vae_memory import memory_size
from .downloads import check_disk, gemma_of, header_of
from .flags import named
from .info import gigabytes
from .limit import fitted
from .memory import Files, Stage, stages
from .parallel import check_parallel, not_shared
from .preview import check_preview
from .recipes import RECIPES, Recipe, half
from .request import DTYPES, Request


@dataclass
class Plan:
    """The stages, files, memory and problems of a run.

    request: with paths in the place of names, and the defaults of the checkpoint's version. files: (kind, path, what
    was found in it). problems: each a line that says what is wrong and what to do. notes: what is in the media files
    or the values that a user may not expect. encodes: how many prompts Gemma encodes. missing: the names of
    files that are not here; remote: those of them that can be downloaded, with their sizes and headers. others: further
    videos, which differ in their prompts, seeds and outputs.
    """

    request: Request
    others: tuple[Request, ...] = ()
    files: list[tuple[str, str, str]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodes: int = 0
    missing: set[str] = field(default_factory=set)
    remote: dict[str, Remote] = field(default_factory=dict)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The request of each video, with paths in the place of names."""
        own = ("prompt", "seed", "output_path", "preview")
        return (
            self.request,
            *(replace(self.request, **{name: getattr(other, name) for name in own}) for other in self.others),
        )

    @property
    def prompts(self) -> list[str]:
        """The prompts of all videos that are encoded, each once."""
        return list(dict.fromkeys(prompt for each in self.requests for prompt in self.recipe.prompts(each)))

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


Confirm = Callable[[Sequence[str], str, Request], None]


def plan(
    request: Request, *others: Request, download: bool = False, confirm: Confirm = lambda names, size, request: None
) -> Plan:
    """The plan of a request, or of several that differ in their prompts, seeds and outputs.

    download: fetch what is not on this machine, once everything else has been checked, no problem was found, and
    ``confirm`` has returned, which is called with the names and their size in words.
    """
    result = _chosen(request, others)
    if not (download and result.remote) or result.problems:
        return result
    confirm(list(result.remote), gigabytes(sum(remote.size for remote in result.remote.values())), request)
    return _planned(replace(request, parallel=result.request.parallel), others, download=True)


def _chosen(request: Request, others: tuple[Request, ...]) -> Plan:
    """The plan, with what several processes share: the passes of a step, where these can be dealt out and every process
    has the memory for whole networks; their layers otherwise."""
    if request.ranks == 1 or request.parallel is not None:
        return _planned(request, others, download=False)
    split, shared = replace(request, parallel="tensor"), replace(request, parallel="guidance")
    if not_shared(request):
        return _planned(split, others, download=False)
    result = _planned(shared, others, download=False)
    if not result.problems and result.request.low_memory == request.low_memory:
        return result
    other = _planned(split, others, download=False)
    return result if len(result.problems) < len(other.problems) else other  # heads that cannot be split are one


def _planned(request: Request, others: tuple[Request, ...], download: bool) -> Plan:
    result = Plan(request, others)
    found = [_check_values(result, each) for each in result.requests]  # of every one, also after the first problem
    sound = all(found)
    _locate(result, download)
    checkpoint = _files(result)
    shape = _check_against_files(result, checkpoint, sound)
    if checkpoint is not None and shape is not None:
        with suppress(LTX2Error) if result.problems else result.checking():  # a bad file is a problem already
            _fit(result, checkpoint)
    with result.checking():
        check_disk(sum(remote.size for remote in result.remote.values()))
    return result


def _fit(result: Plan, checkpoint: Checkpoint) -> None:
    """The stages and their memory, and what ``--memory-limit`` picks."""
    files = Files(checkpoint, result.remote)
    found = fitted(
        result.request, lambda request: list(stages(request, files, result.recipe.shape(request), result.encodes))
    )
    result.request, result.stages = found.request, found.stages
    result.problems += found.problems
    result.notes += [
        f"--memory-limit {gigabytes(found.request.memory_limit or 0)} picks {pick}" for pick in found.picked
    ]


# ---- values -------------------------------------------------------------------------------------------------------


def _check_values(result: Plan, request: Request) -> bool:
    """Find every problem that can be known without a file. Returns True where the pipeline takes the values."""
    recipe = result.recipe
    refused = list(recipe.problems(request))
    result.problems += [problem for problem in refused if problem not in result.problems]
    result.notes += [note for note in _value_notes(request) if note not in result.notes]
    for check in (
        _check_quantization,
        _check_ranks,
        *recipe.checks,
        _check_enhancement,
        _check_gemma,
        _check_output,
        _check_codec,
        _check_context,
        _check_preview,
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


def _check_ranks(request: Request) -> None:
    check_ranks(request.ranks)
    check_parallel(request)
    if request.ranks > 1 and request.enhance_prompt:
        raise InputError("--enhance-prompt is for one process: several ranks would each write another prompt")
    if request.ranks > 1 and request.seed < 0 and RECIPES[request.pipeline].of_source:
        raise InputError(f"--seed {request.seed} draws a seed, and each rank would draw another one: give a seed")


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
    _check_preview(request)


def _check_output(request: Request) -> None:
    path = request.output_path
    if outputs.kind(path) == ".wav" and not request.audio:
        raise InputError(f"{path} is for audio, and --no-audio makes none; leave one of them out")
    outputs.check_output(path, overwrite=request.overwrite, inputs=inputs(request))


def _check_preview(request: Request) -> None:
    path, every = request.preview, request.preview_every
    if every is not None and (path is None or every < 1):
        wrong = "has no effect without --preview" if path is None else "expected 1 or more"
        raise InputError(f"--preview-every {cut(str(every))}: {wrong}")
    if path is None:
        return
    if request.placeholder:
        raise InputError("--preview shows the steps of denoising, and --placeholder has none; use one of them")
    read = [*inputs(request), *([request.context] if request.context else [])]
    check_preview(path, request.output_path, overwrite=request.overwrite, inputs=read)


def inputs(request: Request) -> list[str | Path]:
    """The files that are read."""
    checkpoint = request.checkpoint_path
    files: list[str | Path | None] = [request.gemma_root, request.spatial_upsampler_path, request.context]
    files += checkpoint.given().values() if isinstance(checkpoint, CheckpointFiles) else [checkpoint]
    files += [image.path for image in request.images]
    files += [path for path, _ in (*request.video_conditioning, *request.conditioning_attention_mask)]
    files += [lora.path for lora in (*request.loras, *request.distilled_lora)]
    files += [request.audio_path, request.video_path]
    return [file for file in files if file]


def _check_codec(request: Request) -> None:
    if (suffix := outputs.kind(request.output_path)) in outputs.MOVIES:
        request.encoding.check(suffix)
    elif given := [flag for flag in ("codec", "crf", "preset") if getattr(request, flag) is not None]:
        raise InputError(f"--{given[0]} has no effect on {request.output_path}, which holds no compressed video")


def _check_context(request: Request) -> None:
    if request.context is not None:
        outputs.check_context(request.context, request.output_path)


# ---- files --------------------------------------------------------------------------------------------------------


def _locate(result: Plan, download: bool) -> None:
    """Put paths in the place of names on Hugging Face."""

    def path(reference: str, patterns: Sequence[str] | None = None) -> str:
        with result.checking():
            try:
                return str(resolve(reference, patterns, download))
            except LTX2Error:
                result.missing.add(reference)
                if download or not on_hub(reference, patterns):
                    raise
                result.remote[reference] = remote = look_up(reference, patterns)
                result.files.append(("download", reference, gigabytes(remote.size)))
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
    if upsampler is not None and (upsampler not in result.missing or upsampler in result.remote):
        with result.checking():
            header = header_of(upsampler, result.remote)
            build("upsampler", header)
            check_upsampler(LatentUpsamplerConfig.from_metadata(header.config), upsampler)
            if upsampler not in result.remote:
                result.files.append(("upsampler", upsampler, gigabytes(Path(upsampler).stat().st_size)))
    for lora in [*request.loras, *request.distilled_lora]:
        if str(lora.path) not in result.missing:
            with result.checking():
                _lora(lora, result, checkpoint)
    _media_files(result)
    return checkpoint


def _checkpoint(result: Plan) -> Checkpoint | None:
    path = result.request.checkpoint_path
    if (result.missing - result.remote.keys()) & _names(path):
        return None
    checkpoint = None
    with result.checking():
        checkpoint = header_of(path, result.remote)
        size = gigabytes(sum(info.nbytes for info in checkpoint.tensors.values()))
        result.files.append(("checkpoint", str(path), f"version {checkpoint.version}, {size}"))
        behaviour = behaviour_of(result.request.behaviour, release_of(checkpoint.version)).name
        result.request = replace(result.request, defaults=params_of(checkpoint.version), behaviour=behaviour)
    if checkpoint is not None:
        for part in result.recipe.components(result.request):
            with result.checking():
                module, _ = build(part, checkpoint)
                if part == "transformer":
                    check_packed(module, result.request.quantization, checkpoint.path)
                _check_split(part, module, result.request)
    return checkpoint


def _check_split(component: str, module: nn.Module, request: Request) -> None:
    """Raises InputError for a network that cannot be split over the ranks."""
    if request.split in SIZES and component in RULES:
        parts_of(component, module, shapes_of(module), 0, request.split)


def _text_files(result: Plan, checkpoint: Checkpoint | None) -> None:
    request, known = result.request, {}
    if request.context is not None and request.context.exists():
        if checkpoint is None or result.remote.keys() & _names(request.checkpoint_path):
            return  # its text side must be that of the contexts
        with result.checking():
            known = contexts(request)
            result.files.append(("contexts", str(request.context), f"{len(known)} prompts"))
    result.notes += _prompt_notes(request, result)
    new = {prompt for prompt in result.prompts if prompt not in known}
    if not new and not request.enhance_prompt:
        return
    if request.gemma_root is None:
        with result.checking():
            raise InputError(_NO_GEMMA)
    elif (remote := result.remote.get(request.gemma_root)) is not None:
        result.encodes = max(len(new), 1)
        with result.checking():
            if (encoder := gemma_of(request.gemma_root, remote)) is not None:
                build("gemma", encoder)
                _check_pair(result, encoder, checkpoint)
    elif request.gemma_root not in result.missing:
        with result.checking():
            if request.enhance_prompt:
                check_writes(request.gemma_root)
            folder = check_gemma(request.gemma_root)
            module, _ = build("gemma", folder)
            _check_split("gemma", module, request)
            _check_pair(result, folder, checkpoint)
            result.encodes = max(len(new), 1)
            size = sum(info.nbytes for info in folder.tensors.values())
            result.files.append((folder.name, request.gemma_root, gigabytes(size)))


def _check_pair(result: Plan, gemma: Gemma, checkpoint: Checkpoint | None) -> None:
    """Raises CheckpointError where a text encoder does not belong to a checkpoint; a note where nobody can say."""
    if checkpoint is None or not checkpoint.holds("embeddings_processor"):
        return
    check_text_models(gemma, checkpoint)
    if note := unstated(checkpoint, gemma):
        result.notes.append(note)


def _names(path: CheckpointPath) -> set[str]:
    """The files of a checkpoint, as they are named."""
    return set(map(str, path.given().values())) if isinstance(path, CheckpointFiles) else {str(path)}


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


_PROMPTS = ("--prompt", "--negative-prompt")


def _prompt_notes(request: Request, result: Plan) -> Iterator[str]:
    """A note for each prompt that is cut because it is too long."""
    if request.gemma_root is None or request.gemma_root in result.missing:
        return
    with suppress(LTX2Error):  # of the folder, which has its own check
        tokenizer = LTXVGemmaTokenizer(request.gemma_root)
        pairs = [(f, p) for r in result.requests for f, p in zip(_PROMPTS, result.recipe.prompts(r), strict=False)]
        for flag, prompt in dict.fromkeys(pairs):
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
    for image in request.pictures:
        with result.checking():
            picture = check_image(image.path, image.crf or 0)
            height, width = picture.pixels.shape[:2]
            result.files.append(("image", image.path, f"{height}x{width} at frame {image.frame_idx}, CRF {image.crf}"))
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
        if rest <= 0:
            return  # a problem
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
            outputs.kind(result.request.output_path) in outputs.MOVIES
            and (rate := aac_rate(found.sample_rate)) != found.sample_rate
        ):
            result.notes.append(f"{path} has audio at {found.sample_rate} Hz, which a video gets at {rate} Hz")
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
        if (suffix := outputs.kind(request.output_path)) in outputs.MOVIES:
            check_encoding(shape.height, shape.width, request.encoding, suffix)
            frame_rate(shape.fps)
    if shape is not None and not result.missing.intersection(str(lora.path) for lora in request.loras):
        for check in recipe.file_checks:
            with result.checking():
                check(request)
    if checkpoint is not None and DiffusionDecoderConfig.describes(checkpoint.config):
        with result.checking():
            check_tiling(request.tiling_config)
    if checkpoint is not None and not request.placeholder:
        guidance = {f"{stream}_guider_params": params for stream, params in recipe.guidance(request).items()}
        with result.checking():
            result.problems += block_problems(checkpoint, guidance, named)
    return shape
