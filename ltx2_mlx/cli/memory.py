"""The stages of a run, the memory that each takes, and what ``--low-memory`` reads from the files in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..config import (
    DiffusionDecoderConfig,
    LatentUpsamplerConfig,
    TransformerConfig,
    VideoVAEConfig,
    read_gemma_config,
    read_video_decoder_config,
)
from ..distributed.table import RULES, parts_of, sent, sent_of_passes, turns
from ..loading.checkpoint import Checkpoint
from ..loading.gemma import Gemma, read_gemma
from ..loading.hub import Remote
from ..loading.load import build
from ..loading.lora import LoraPathStrength
from ..loading.paging import in_pages
from ..loading.quantization import is_downcast
from ..loading.quantized import POLICIES, choose, quantized_bytes
from ..loading.weights import READ_AT_ONCE
from ..memory import Peaks
from ..pipelines.ic_lora import reference_downscale_factor
from ..pipelines.stages import audio_tools, video_tools
from ..types import VideoPixelShape
from ..vae_memory import (
    Pieces,
    can_share,
    choose_frames,
    choose_pieces,
    decode_budget,
    encode_memory,
    fitting_frames,
    fitting_pieces,
    share_memory,
    share_sent,
    shares,
    slab_size,
    tiles_memory,
)
from . import estimates
from .downloads import gemma_memory, gemma_name, gemma_of, header_of
from .info import gigabytes
from .recipes import RECIPES, Denoising
from .request import Request


@dataclass(frozen=True)
class Stage:
    """One part of the run: what it does, its expected peak of memory in bytes, and what takes less memory.

    name: that of the phase in ``Peaks``. weights: all that are in memory while it runs. reading: bytes that
    ``--low-memory`` reads from the files while it runs. picked: a sentence, where the stage is made in smaller pieces
    than usual to fit into ``--memory-limit``.
    """

    name: str
    what: str
    weights: int
    working: int
    remedy: str = "a smaller or shorter video"
    reading: int = 0
    picked: str = ""

    @property
    def memory(self) -> int:
        return self.weights + self.working


def stages(request: Request, files: Files, shape: VideoPixelShape, encodes: int) -> Iterator[Stage]:
    """The stages of a run that makes ``shape``, in order. encodes: how many prompts Gemma encodes."""
    recipe = RECIPES[request.pipeline]
    text = [_text(request, files, encodes)] if encodes and request.gemma_root is not None else []
    denoising = recipe.denoising(request, shape)
    made = denoising[-1].shape
    keeps = recipe.keeps_transformer and not (request.low_memory or request.placeholder)
    kept = files.weights(files.checkpoint, "transformer", request, request.loras).held if keeps else 0
    encoding = list(_encoding(request, files, denoising[0].shape, made, kept))
    yield from [*encoding, *text] if recipe.of_source else [*text, *encoding]
    for stage in denoising:
        if stage.name == "stage 2":
            yield _upsampling(request, files, made, kept)
        if not request.placeholder:
            yield _denoising(stage, request, files)
    if recipe.decodes_audio(request):
        yield _audio(request, files, made)
    yield _frames(request, files, made)


def lines(stages: Iterable[Stage], peaks: Peaks) -> Iterator[str]:
    """A line for each phase of a run that has ended, with its peak of memory beside what the plan said."""
    expected = {stage.name: stage.memory for stage in stages}
    for name, peak in peaks.phases.items():
        about = f", expected {gigabytes(expected[name])}" if name in expected else ""
        yield f"{name}: {gigabytes(peak)}{about}"
    yield f"peak of memory: {gigabytes(peaks.most)}"


# ---- weights ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Bytes of a network's weights. held: in memory at one time. read: from the files, each time that it runs."""

    held: int
    read: int = 0


def weights(
    checkpoint: Checkpoint, component: str, request: Request, loras: Iterable[LoraPathStrength] = (), paged: bool = True
) -> Weights:
    """The weights of a component. paged: with ``--low-memory`` its blocks are read when they are called, with what the
    LoRAs change in them; two of them are in memory."""
    size = _sizes(component, request)
    keys = checkpoint.components().get(component, {})
    infos = {name: checkpoint.tensors[key] for name, key in keys.items()}
    taken = {n: info.nbytes if info.dtype == "U32" else prod(info.shape) * size(n) for n, info in infos.items()}
    packed = _packed(component, checkpoint, request)
    taken |= packed
    if request.split > 1 and component in RULES:
        taken = _of_rank(component, checkpoint, keys, taken, request.split)
    beside = sum(_size_of(loras)) if packed or any(info.dtype == "U32" for info in infos.values()) else 0
    if not (paged and request.low_memory):
        return Weights(sum(taken.values()) + beside)
    module, keys = build(component, checkpoint)
    resident, pages = in_pages(module, keys)
    in_file = {name: checkpoint.tensors[key].nbytes for name, key in keys.items()}
    largest = sorted(max(_sum(taken, page), _sum(in_file, page)) for page in pages.values())
    read = sum(_sum(in_file, page) for page in pages.values())
    read += sum(_size_of(loras))
    return Weights(_sum(taken, resident) + sum(largest[-2:]) + 2 * beside // len(pages), read)


def _of_rank(
    component: str, checkpoint: Checkpoint, keys: Mapping[str, str], taken: Mapping[str, int], size: int
) -> dict[str, int]:
    """The bytes of each parameter on the rank that has most of it."""
    module, _ = build(component, checkpoint)
    shapes = {name: checkpoint.tensors[key].shape for name, key in keys.items() if name in taken}
    most, ranks = dict(taken), [parts_of(component, module, shapes, rank, size) for rank in range(size)]
    for name in ranks[0]:
        shape = shapes[name]
        most[name] = taken[name] * max(prod(parts[name].of(shape)) for parts in ranks) // max(prod(shape), 1)
    return most


def _packed(component: str, checkpoint: Checkpoint, request: Request) -> dict[str, int]:
    """The weights that are packed while they are loaded → their bytes."""
    how = POLICIES.get(request.quantization or "") if component == "transformer" else None
    if how is None:
        return {}
    module, _ = build(component, checkpoint)
    layers = dict(module.named_modules())
    return {
        f"{path}.weight": quantized_bytes(layers[path].weight.shape, how.bits, how.group_size, request.itemsize)
        for path in choose(module, how).layers
    }


def _size_of(loras: Iterable[LoraPathStrength]) -> Iterator[int]:
    return (path.stat().st_size for lora in loras if (path := Path(lora.path)).is_file())


@dataclass(frozen=True)
class Files:
    """The headers that a plan reads, and the weights of their networks: each is read and counted once, since a limit
    asks for the stages of many sizes. remote: the headers of files that are not on this machine."""

    checkpoint: Checkpoint
    remote: Mapping[str, Remote] = field(default_factory=dict)
    _known: dict[object, Weights] = field(default_factory=dict)
    _headers: dict[str, Checkpoint] = field(default_factory=dict)
    _gemmas: dict[str, Gemma] = field(default_factory=dict)

    def gemma(self, path: str) -> Gemma | None:
        """The headers of a Gemma; None for a folder that is not on this machine."""
        if (remote := self.remote.get(path)) is not None:
            return gemma_of(path, remote)
        return self._gemmas.get(path) or self._gemmas.setdefault(path, read_gemma(path))

    def upsampler(self, path: str) -> Checkpoint:
        return self._headers.get(path) or self._headers.setdefault(path, header_of(path, self.remote))

    def weights(
        self,
        header: Checkpoint,
        part: str,
        request: Request,
        loras: Iterable[LoraPathStrength] = (),
        paged: bool = True,
    ) -> Weights:
        """``weights`` of a component of one of these files."""
        paged, loras = paged and request.low_memory, tuple(loras)
        key = (part, request.dtype, request.quantization, request.split, paged, loras)
        if key not in self._known:
            self._known[key] = weights(header, part, request, loras, paged)
        return self._known[key]


def reading(checkpoint: Checkpoint, component: str, request: Request) -> int:
    """Bytes that reading a component takes beside its weights: for those on their way, about half of seven (it depends
    on the disk), what the file has; and where the axes of a convolution change after the dtype, that step as well."""
    tensors = [checkpoint.tensors[key] for key in checkpoint.components().get(component, {}).values()]
    dtype = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[request.dtype]
    moved = any(len(tensor.shape) > 2 for tensor in tensors)
    changed = bool(request.quantization) or any(tensor.dtype != dtype for tensor in tensors)
    steps = [
        tensor.nbytes * (moved or changed) + prod(tensor.shape) * request.itemsize * (moved and changed)
        for tensor in tensors
    ]
    return min(sum(sorted(steps)[-7:]) // 2, 2 * READ_AT_ONCE)


def _sum(sizes: Mapping[str, int], names: Iterable[str]) -> int:
    return sum(sizes[name] for name in names)


def _sizes(component: str, request: Request) -> Callable[[str], int]:
    """The bytes of each number of a parameter, by its path."""
    if component == "transformer" and request.quantization == "fp8-cast":
        return lambda name: 1 if is_downcast(name) else request.itemsize
    return lambda name: 4 if component == "vocoder" else request.itemsize


# ---- stages -------------------------------------------------------------------------------------------------------


def _text(request: Request, files: Files, encodes: int) -> Stage:
    """Gemma runs first, for every prompt; when it has been released, the connectors."""
    folder = files.gemma(str(request.gemma_root))
    if folder is None:
        remote = files.remote[str(request.gemma_root)]
        return Stage("prompts", f"{gemma_name(remote)}, 1024 tokens each", *gemma_memory(remote, request))
    config = read_gemma_config(folder.config)
    gemma = files.weights(folder, "gemma", request)
    connectors = files.weights(files.checkpoint, "embeddings_processor", request)
    states = estimates.hidden_states(config, request.itemsize)
    parts = [
        (gemma.held, states * (encodes - 1) + estimates.gemma(config, request.itemsize, request.low_memory)),
        (connectors.held, states * encodes + estimates.connectors(files.checkpoint, states, request.itemsize)),
    ]
    held = max(held for held, _ in parts)
    working = max(map(sum, parts)) - held
    what = f"{folder.name}, 1024 tokens each"
    what += f", {gigabytes(held)} of weights on each of {request.ranks} ranks" if request.ranks > 1 else ""
    what += f", reads {gigabytes(gemma.read + connectors.read)} for each prompt" if request.low_memory else ""
    remedy = "a --context file that was made on another machine"
    remedy = remedy if request.low_memory else f"--low-memory, or {remedy}"
    return Stage("prompts", what, held, working, remedy, (gemma.read + connectors.read) * encodes)


def _encoding(
    request: Request, files: Files, first: VideoPixelShape, last: VideoPixelShape, kept: int
) -> Iterator[Stage]:
    """What is given is encoded: images for both denoising stages, of ``first`` and ``last``, the videos for the first.
    kept: bytes of the transformer, which a pipeline that keeps it has loaded before its second stage."""
    config = VideoVAEConfig.from_metadata(files.checkpoint.config)
    encoder = files.weights(files.checkpoint, "video_encoder", request, paged=False).held
    recipe = RECIPES[request.pipeline]

    def encoded(frames: int, shape: VideoPixelShape) -> int:
        working = encode_memory(config, (1, 3, frames, shape.height, shape.width), request.itemsize)
        return max(working, reading(files.checkpoint, "video_encoder", request))

    if recipe.of_source:
        what = f"{first.frames} of {first.height}x{first.width}"
        yield Stage(
            "source", what, encoder, encoded(first.frames, first), "a smaller or shorter video, cut with ffmpeg"
        )
    if request.video_conditioning:
        scale = reference_downscale_factor(request.loras)
        small = first._replace(height=first.height // scale, width=first.width // scale)
        what = f"{small.frames} of {small.height}x{small.width}"
        yield Stage("references", what, encoder, encoded(small.frames, small))
    if "audio_encoder" in recipe.encodes:
        held = files.weights(files.checkpoint, "audio_encoder", request, paged=False).held
        working = estimates.spectrogram(files.checkpoint, audio_tools(first).target_shape.frames)
        yield Stage("sound", f"{first.frames / first.fps:.2f} s", held, working, "a shorter video")
    if request.images:
        what = f"{len(request.images)} of {last.height}x{last.width}"
        yield Stage("images", what, encoder + kept, encoded(1, last), "a smaller video")


def _upsampling(request: Request, files: Files, shape: VideoPixelShape, kept: int) -> Stage:
    """The latent at twice its size. The whole video encoder is loaded for its statistics."""
    header = files.upsampler(str(request.spatial_upsampler_path))
    encoder = files.weights(files.checkpoint, "video_encoder", request, paged=False).held
    upsampler = files.weights(header, "upsampler", request, paged=False).held
    cells = video_tools(shape).target_shape.token_count()
    working = estimates.upsampling(LatentUpsamplerConfig.from_metadata(header.config), cells, request.itemsize)
    working = max(working, reading(files.checkpoint, "video_encoder", request) - upsampler)  # which is read after it
    return Stage("upsampling", f"to {shape.height}x{shape.width}", encoder + upsampler + kept, working)


def _denoising(stage: Denoising, request: Request, files: Files) -> Stage:
    shape = stage.shape
    loras = [*request.loras]
    loras += request.distilled_lora if RECIPES[request.pipeline].second_order or stage.name == "stage 2" else []
    tokens, of_audio = video_tools(shape).target_shape.token_count(), audio_tools(shape).target_shape.token_count()
    count = f"{stage.steps} steps"
    count += f", {stage.evaluations} evaluations" if stage.evaluations != stage.steps else ""
    count += f" of {stage.passes} passes" if stage.passes > 1 else ""
    what = f"{shape.frames} frames of {shape.height}x{shape.width}, {tokens:,} + {of_audio:,} tokens, {count}"
    transformer = files.weights(files.checkpoint, "transformer", request, loras)
    what += f"; reads {gigabytes(transformer.read * stage.runs_of_a_step)} a step" if request.low_memory else ""
    if request.ranks > 1:
        what += f"; each of {request.ranks} ranks holds {gigabytes(transformer.held)} of weights"
        what += _shares(stage, request, files, tokens, of_audio)
    texts = estimates.contexts(files.checkpoint, request.itemsize) * len(RECIPES[request.pipeline].prompts(request))
    step = estimates.denoising(files.checkpoint, tokens, of_audio, request.itemsize, request.low_memory)
    working = texts + max(step, reading(files.checkpoint, "transformer", request))
    fewer = request.quantization or any(info.dtype == "U32" for info in files.checkpoint.tensors.values())
    smaller = Stage.remedy if fewer else f"--quantization q8 or q4, or {Stage.remedy}"
    smaller = smaller if request.low_memory else f"--low-memory, {smaller}"
    return Stage(stage.name, what, transformer.held, working, smaller, transformer.read * stage.runs)


def _shares(stage: Denoising, request: Request, files: Files, tokens: int, of_audio: int) -> str:
    """What a rank computes of a step, and sends to the others."""
    sizes = TransformerConfig.from_metadata(files.checkpoint.config), tokens, of_audio, request.itemsize
    if request.split > 1:
        return f" and sends {gigabytes(sent(*sizes, request.ranks) * stage.runs_of_a_step)} a step"
    if stage.passes == 1:
        return " and computes every step"
    sends = sent_of_passes(*sizes, stage.passes, request.ranks) * stage.runs_of_a_step // stage.passes
    share = len(turns(stage.passes, 0, request.ranks))
    return f", computes {share} of {stage.passes} passes at most and sends {gigabytes(sends)} a step"


def _audio(request: Request, files: Files, shape: VideoPixelShape) -> Stage:
    held = sum(
        files.weights(files.checkpoint, part, request, paged=False).held for part in ("audio_decoder", "vocoder")
    )
    working = estimates.audio(files.checkpoint, audio_tools(shape).target_shape.frames)
    what = f"{shape.frames / shape.fps:.2f} s"
    return Stage("audio", what, held, working, "--no-audio, a shorter video, or more frames a second")


def _frames(request: Request, files: Files, shape: VideoPixelShape) -> Stage:
    config, latent = read_video_decoder_config(files.checkpoint.config), tuple(video_tools(shape).target_shape)
    held = files.weights(files.checkpoint, "video_decoder", request, paged=False).held
    if isinstance(config, DiffusionDecoderConfig):
        return _diffused(config, latent, held, request, files, shape)
    picked, over = "", ""
    budget = decode_budget(request.low_memory) if request.memory_limit is None else request.memory_limit - held
    if request.ranks > 1:
        told = config, latent, request.itemsize, request.ranks
        if request.tiling_config is None and shares(*told, budget):
            what = f"{shape.frames} of {shape.height}x{shape.width}, over {request.ranks} ranks, each of which sends"
            what += f" {gigabytes(share_sent(*told))}"
            working = max(share_memory(*told), reading(files.checkpoint, "video_decoder", request))
            return Stage("frames", what, held, working)
        if request.tiling_config is None or not can_share(config, latent, request.ranks):
            over = ", on the first rank alone"
        else:
            over = f", each over {request.ranks} ranks"
    if (tiling := request.tiling_config) is not None:
        pieces = Pieces(slab_size(), tiling, tiles_memory(config, latent, tiling, request.itemsize))
    elif request.memory_limit is None:
        pieces = choose_pieces(config, latent, budget, request.itemsize)
    else:
        pieces = fitting_pieces(config, latent, budget, request.itemsize)
        if pieces.tiling is not None:
            picked = f"{_tiles(pieces)} for decoding the video, which are blended"
        elif pieces.slab < slab_size():
            picked = "smaller slabs for decoding the video: the same pixels"
    what = f"{shape.frames} of {shape.height}x{shape.width}, in {_tiles(pieces)}{over}"
    working = max(pieces.memory, reading(files.checkpoint, "video_decoder", request))
    return Stage("frames", what, held, working, picked=picked)


def _diffused(
    config: DiffusionDecoderConfig,
    latent: tuple[int, ...],
    held: int,
    request: Request,
    files: Files,
    shape: VideoPixelShape,
) -> Stage:
    """The frames of a diffusion decoder. Shorter slabs take less memory, and change no number."""
    if request.memory_limit is None:
        slab = choose_frames(config, latent, decode_budget(request.low_memory), request.itemsize)
    else:
        slab = fitting_frames(config, latent, request.memory_limit - held, request.itemsize)
    what = f"{shape.frames} of {shape.height}x{shape.width}, in slabs of {min(slab.frames, shape.frames)} frames"
    what += ", on the first rank alone" if request.ranks > 1 else ""
    return Stage("frames", what, held, max(slab.memory, reading(files.checkpoint, "video_decoder", request)))


def _tiles(pieces: Pieces) -> str:
    tiles = pieces.tiling
    if tiles is None or tiles.spatial_config is None or tiles.temporal_config is None:
        return "one piece"
    pixels, frames = tiles.spatial_config.tile_size_in_pixels, tiles.temporal_config.tile_size_in_frames
    return f"tiles of {pixels} pixels, {frames} frames"
