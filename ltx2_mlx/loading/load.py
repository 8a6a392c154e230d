"""Loads a component of a checkpoint as a module with its weights: strict, and whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..audio_vae import AudioDecoder, AudioEncoder
from ..config import (
    AudioVAEConfig,
    DiffusionDecoderConfig,
    EmbeddingsProcessorConfig,
    Gemma3TextConfig,
    GemmaTextConfig,
    LatentUpsamplerConfig,
    TransformerConfig,
    VideoVAEConfig,
    read_gemma_config,
    read_video_decoder_config,
    read_vocoder_config,
)
from ..config.reading import count_layers, cut
from ..diffusion_decoder import DiffusionVideoDecoder
from ..distributed.decoding import split_decoder
from ..distributed.layers import shard
from ..distributed.ranks import Ranks
from ..distributed.table import RULES, Part, parts_of
from ..errors import CheckpointError, ConfigError, InputError, WeightsError
from ..text.embeddings import EmbeddingsProcessor
from ..text.gemma3 import Gemma3TextModel
from ..text.gemma4 import Gemma4UnifiedTextModel
from ..transformer import LTXModel
from ..upsampler import LatentUpsampler
from ..video_vae import VideoDecoder, VideoEncoder
from ..vocoder import build_vocoder
from .checkpoint import OWNERS, WITHIN, Checkpoint, CheckpointFiles, CheckpointPath, read_checkpoint
from .gates import gates_of
from .gemma import GEMMA_PREFIXES, read_gemma
from .header import TensorInfo
from .lora import Lora, LoraPathStrength, LoraReport, fitted_to, rank_of, read_lora
from .paging import Pages, reader
from .quantization import amend_forward_with_upcast, beside, check_policy, scale_of
from .quantized import (
    PACKED,
    POLICIES,
    QuantizedLinear,
    amend_as_in_file,
    amend_with_packed,
    choose,
    packed_layers,
    said_of,
)
from .weights import FLOAT8, FLOATS, Weights, scale_key, scale_shapes

# Component → where another part's tensors belong in it.
SHARED = {
    "video_encoder": {"per_channel_statistics.": "video_statistics"},
    "video_decoder": {"per_channel_statistics.": "video_statistics"},
    "audio_encoder": {"per_channel_statistics.": "audio_statistics"},
    "audio_decoder": {"per_channel_statistics.": "audio_statistics"},
}


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Component:
    """How a component is described and built. read: the config metadata → its description. make: a description, and
    the component's keys with their shapes in the file → its module."""

    read: Callable[[dict[str, Any]], Any]
    make: Callable[[Any, Shapes], nn.Module]


def _make_embeddings_processor(parsed: EmbeddingsProcessorConfig, keys: Shapes) -> nn.Module:
    name = "video_aggregate_embed" if parsed.caption_proj_before_connector else "aggregate_embed"
    weight = f"feature_extractor.{name}.weight"
    if not keys.get(weight):
        raise WeightsError(f"embeddings_processor does not fit its config: missing text_embedding_projection.{name}")
    if not 0 < keys[weight][-1] <= 1 << 24:
        raise WeightsError(f"misshaped text_embedding_projection.{name}: {keys[weight]}")
    return EmbeddingsProcessor(parsed, flat_features=keys[weight][-1])


def _make_gemma(parsed: GemmaTextConfig) -> nn.Module:
    return Gemma3TextModel(parsed) if isinstance(parsed, Gemma3TextConfig) else Gemma4UnifiedTextModel(parsed)


def _video_decoder(parsed: VideoVAEConfig | DiffusionDecoderConfig) -> nn.Module:
    return DiffusionVideoDecoder(parsed) if isinstance(parsed, DiffusionDecoderConfig) else VideoDecoder(parsed)


COMPONENTS = {
    "transformer": Component(TransformerConfig.from_metadata, lambda parsed, keys: LTXModel(parsed)),
    "embeddings_processor": Component(EmbeddingsProcessorConfig.from_metadata, _make_embeddings_processor),
    "gemma": Component(read_gemma_config, lambda parsed, keys: _make_gemma(parsed)),
    "video_encoder": Component(VideoVAEConfig.from_metadata, lambda parsed, keys: VideoEncoder(parsed)),
    "video_decoder": Component(read_video_decoder_config, lambda parsed, keys: _video_decoder(parsed)),
    "upsampler": Component(LatentUpsamplerConfig.from_metadata, lambda parsed, keys: LatentUpsampler(parsed)),
    "audio_encoder": Component(AudioVAEConfig.from_metadata, lambda parsed, keys: AudioEncoder(parsed)),
    "audio_decoder": Component(AudioVAEConfig.from_metadata, lambda parsed, keys: AudioDecoder(parsed)),
    "vocoder": Component(read_vocoder_config, lambda parsed, keys: build_vocoder(parsed)),
}


Parts = list[tuple[str, nn.Module | mx.array]]


def _parts(value: Any, path: str = "", into: Parts | None = None) -> Parts:
    """Every module and every parameter with its path, in order: MLX's ``named_modules`` and ``parameters`` in one walk.
    A plan makes nine networks to compare them with their files."""
    into = [] if into is None else into
    if isinstance(value, nn.Module):
        into.append((path, value))
    children: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for name, child in children:
        place = f"{path}.{name}" if path else str(name)
        if isinstance(child, (dict, list)):
            _parts(child, place, into)
        elif isinstance(child, mx.array) and "._" not in f".{place}":
            into.append((place, child))
    return into


def not_used(module: nn.Module, keys: Iterable[str]) -> list[str]:
    """Those of a component's paths in a file that its network does without, in order."""
    return sorted(_unused(_parts(module), keys))


def _file_axes(parts: Parts) -> dict[str, tuple[int, ...]]:
    """Parameter path → how the file's axes are ordered here, from the leaf classes that store them otherwise."""
    owners = ((path, getattr(type(part), "from_file", {})) for path, part in parts)
    return {f"{path}.{name}" if path else name: axes for path, rules in owners for name, axes in rules.items()}


def _looked_up(parts: Parts) -> frozenset[str]:
    """Paths of tables whose rows are cast when they are taken, so that a wider copy of the whole is never needed."""
    owners = ((path, getattr(type(part), "looked_up", ())) for path, part in parts)
    return frozenset(f"{path}.{name}" if path else name for path, names in owners for name in names)


def _as_in_file(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(size for _, size in sorted(zip(axes, shape, strict=True))) if axes else shape


def _unused(parts: Parts, keys: Iterable[str]) -> set[str]:
    """Those of the keys' paths that released files hold beside the parameters of a class, and that it does not need."""
    owners = ((path, getattr(type(part), "unused_in_file", ())) for path, part in parts)
    globs = [f"{path}.{name}" if path else name for path, names in owners for name in names]
    return {name for name in keys if any(fnmatchcase(name, glob) for glob in globs)}


@dataclass(frozen=True)
class LoadReport:
    """The result of a load: every key of the component was used once, and every parameter was filled.

    packed: the number of layers whose weights are packed in ``bits``. unused: paths in the file that the network does
    without.
    """

    component: str
    path: Path | CheckpointFiles
    version: str
    tensors: int
    parameters: int
    file_dtypes: tuple[str, ...]
    dtype: str
    quantization: str | None = None
    packed: int = 0
    bits: str = ""
    loras: tuple[LoraReport, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = f", {self.packed} layers in {self.bits}" if self.packed else ""
        kept = f", blocks in float8 ({self.quantization})" if self.quantization and not kept else kept
        line = (
            f"{self.component}: {self.tensors} tensors, {self.parameters:,} parameters from {self.path} "
            f"(version {self.version}, {'/'.join(self.file_dtypes)} → {self.dtype}{kept}); 0 missing, 0 left over"
        )
        line += f"; not used: {cut(', '.join(self.unused))}" if self.unused else ""
        return "\n".join([line, *map(str, self.loras)])


def build(component: str, checkpoint: Checkpoint) -> tuple[nn.Module, dict[str, str]]:
    """The component's module with nothing loaded, and {parameter path: key}, checked against each other.

    Raises WeightsError naming every key that is missing, left over or of the wrong shape.
    """
    if component not in COMPONENTS:
        raise CheckpointError(f"the component is {component!r}, expected one of {', '.join(COMPONENTS)}")
    _ = checkpoint.version
    parts = checkpoint.components()
    keys = dict(parts.get(component, {}))
    for at, part in SHARED.get(component, {}).items():
        keys |= {at + name: key for name, key in parts.get(part, {}).items()}
    module = _module(component, checkpoint, keys)
    if component in PACKED:
        amend_as_in_file(module, {name: checkpoint.tensors[key] for name, key in keys.items()})
    inside = _parts(module)
    gates = gates_of(keys, checkpoint) if isinstance(module, DiffusionVideoDecoder) else set()
    for name in (_unused(inside, keys) | _fp8_scales(keys, checkpoint) | gates) & keys.keys():
        del keys[name]
    axes = _file_axes(inside)
    parameters = {name: part for name, part in inside if isinstance(part, mx.array)}
    expected = {name: _as_in_file(value.shape, axes.get(name)) for name, value in parameters.items()}
    if not parts.get(component):
        key = _key(component, next(iter(expected)), checkpoint)
        first = f"missing {key} and all else of {_NAMES.get(component, component)}"
        raise WeightsError(f"{checkpoint.path} holds {checkpoint.contents()} only: {first}. {_remedy(component)}")
    problems = [f"missing {_key(component, n, checkpoint)} {shape}" for n, shape in expected.items() if n not in keys]
    problems += [f"left over {cut(key)}" for name, key in keys.items() if name not in expected]
    for name, key in keys.items():
        shape = checkpoint.tensors[key].shape
        if name in expected and shape != expected[name]:
            problems.append(f"misshaped {key}: {shape} in the file, {expected[name]} in the network")
        wanted = ("U32",) if name in expected and parameters[name].dtype == mx.uint32 else FLOATS
        if checkpoint.tensors[key].dtype not in wanted:
            problems.append(f"{cut(key)} is {checkpoint.tensors[key].dtype}, expected {', '.join(wanted)}")
    if problems:
        if kind := checkpoint.kind:
            raise WeightsError(f"{checkpoint.path}: {kind}")
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise WeightsError(f"{checkpoint.path}: {component} does not fit its config: {shown}")
    return module, keys


_NAMES = {
    "transformer": "the transformer",
    "embeddings_processor": "the text projection and connectors",
    "gemma": "the text model",
    "video_encoder": "the video encoder",
    "video_decoder": "the video decoder",
    "audio_encoder": "the audio encoder",
    "audio_decoder": "the audio decoder",
    "vocoder": "the vocoder",
}


def _remedy(component: str) -> str:
    flag = next((role for role, owned in OWNERS.items() if component in owned), None)
    if flag is None:
        return "Use the official file"
    return f"Give the file that has it with --{flag.replace('_', '-')}, or a whole checkpoint"


def _module(component: str, checkpoint: Checkpoint, keys: dict[str, str]) -> nn.Module:
    """The module that the config describes. What a config claims is compared with the file before it is built: ten
    million layers would take for ever."""
    described = COMPONENTS[component]
    if component == "upsampler" and not LatentUpsamplerConfig.describes(checkpoint.config):
        said = checkpoint.kind or f"it holds {checkpoint.contents()}"
        raise ConfigError(f"{checkpoint.path}: not a latent upsampler: {said}")
    if component not in ("upsampler", "gemma") and LatentUpsamplerConfig.describes(checkpoint.config):
        raise ConfigError(
            f"{checkpoint.path}: a latent upsampler, not a checkpoint: it goes to --spatial-upsampler-path"
        )
    try:
        parsed = described.read(checkpoint.config)
    except ConfigError as error:
        raise _lacking(component, checkpoint, keys) or type(error)(f"{checkpoint.path}: {error}") from None
    if keys and count_layers(parsed) > len(keys):
        if kind := checkpoint.kind:
            raise WeightsError(f"{checkpoint.path}: {kind}")
        claims = f"its config claims {count_layers(parsed):,} layers, and the file has {len(keys):,} tensors for them"
        raise ConfigError(f"{checkpoint.path}: {component}: {claims}")
    try:
        return described.make(parsed, {k: checkpoint.tensors[v].shape for k, v in keys.items()})
    except CheckpointError as error:
        raise _lacking(component, checkpoint, keys) or type(error)(f"{checkpoint.path}: {error}") from None


def _lacking(component: str, checkpoint: Checkpoint, keys: dict[str, str]) -> WeightsError | None:
    """The error for a file that holds other parts only; None where it holds some of this one, or nothing."""
    if keys or not checkpoint.components().keys() - {""}:
        return None
    lacks = f"holds {checkpoint.contents()} only, without {_NAMES.get(component, component)}"
    return WeightsError(f"{checkpoint.path} {lacks}. {_remedy(component)}")


def weight_shapes(module: nn.Module, infos: Mapping[str, TensorInfo]) -> Shapes:
    """The shape of every parameter in the file; of a packed one as it would be without packing, and without its scales
    and biases. module: of ``build``."""
    packed = packed_layers(module)
    shapes = {name: info.shape for name, info in infos.items()}
    for path, layer in packed.items():
        shapes[f"{path}.weight"] = layer.shape
        for part in ("scales", "biases"):
            shapes.pop(f"{path}.{part}", None)
    return shapes


def check_packed(module: nn.Module, quantization: str | None, path: object) -> None:
    """Raises InputError where weights that the file has packed are to be quantized. module: of ``build``."""
    if quantization and (packed := packed_layers(module)):
        said = f"its weights are packed in {said_of(packed.values())} already"
        raise InputError(f"{path}: {said}; leave --quantization {quantization} out, or use the original file")


def _fp8_scales(keys: dict[str, str], checkpoint: Checkpoint) -> set[str]:
    """Paths of what stands beside float8 weights: their scales (used, see ``_read``), and what kernels that multiply in
    float8 take (not used). Raises WeightsError for a scale that cannot be applied."""
    dropped = {name for name in keys if name.rpartition(".")[2] == "scaled_fp8"}  # says that there are scales
    for name, key in keys.items():
        info = checkpoint.tensors[key]
        if not name.endswith(".weight") or info.dtype not in FLOAT8:
            continue
        scales = [other for other in scale_of(name) if other in keys]
        more = [other for other in beside(name) if other in keys]
        if more and not scales:
            raise WeightsError(f"{checkpoint.path}: {keys[more[0]]} stands without {key}_scale")
        for other in scales:
            scale = checkpoint.tensors[keys[other]]
            rows = info.shape[:1] if info.shape else ()
            if prod(scale.shape) != 1 and (prod(scale.shape) != prod(rows) or scale.shape[:1] != rows):
                said = f"{keys[other]} is {scale.shape}, expected one number for the weight or one for each of its rows"
                raise WeightsError(f"{checkpoint.path}: {said}")
            if scale.dtype not in FLOATS or scale.dtype in FLOAT8:
                raise WeightsError(f"{checkpoint.path}: {keys[other]} is {scale.dtype}, expected F32, F16 or BF16")
        if len(scales) > 1:
            raise WeightsError(f"{checkpoint.path}: {keys[scales[0]]} and {keys[scales[1]]} scale the same weight")
        dropped |= {*scales, *more}
    return dropped


def _key(component: str, name: str, checkpoint: Checkpoint) -> str:
    """The key in a checkpoint of a component's parameter."""
    prefixes = (
        p
        for p, c in (*checkpoint.prefixes.items(), *GEMMA_PREFIXES.items())
        if c == component and name.startswith(WITHIN.get(p, ""))
    )
    prefix = next(prefixes, "")
    return prefix + name.removeprefix(WITHIN.get(prefix, ""))


def _parts_in_files(
    component: str,
    module: nn.Module,
    checkpoint: Checkpoint,
    keys: dict[str, str],
    loras: tuple[Lora, ...],
    ranks: Ranks,
) -> tuple[dict[str, Part], tuple[Lora, ...]]:
    """Key in the checkpoint → the part of it that a rank reads; and the LoRAs, of which it reads the same parts."""

    def parts(shapes: Shapes) -> dict[str, Part]:
        return parts_of(component, module, shapes, ranks.rank, ranks.size)

    result = {}
    for name, part in parts({name: checkpoint.tensors[key].shape for name, key in keys.items()}).items():
        result[keys[name]] = part
        scale = scale_key(checkpoint, keys[name])
        if scale is not None and part.axis == 0 and prod(checkpoint.tensors[scale].shape) > 1:
            result[scale] = part
    own = []
    for lora in loras:
        if any(scale_key(checkpoint, keys[f"{layer}.weight"]) for layer in lora.pairs):
            raise InputError(f"{lora.path}: several ranks cannot add a LoRA to float8 weights that have scales")
        pairs = lora.pairs.keys_of.items()
        names = {f"{layer}.lora_{part}": key for layer, (a, b) in pairs for part, key in (("A", a), ("B", b))}
        cuts = parts({name: lora.pairs.arrays.tensors[key].shape for name, key in names.items()})
        own.append(replace(lora, pairs=lora.pairs.cut({names[name]: part for name, part in cuts.items()})))
    return result, tuple(own)


def load(
    component: str,
    path: CheckpointPath,
    dtype: mx.Dtype | None = None,
    loras: Iterable[LoraPathStrength] = (),
    quantization: str | None = None,
    paged: bool = False,
    ranks: Ranks | None = None,
) -> nn.Module:
    """Load one component of a checkpoint. Every weight is read now, and none is NaN or infinite.

    component: a name of ``COMPONENTS`` (``transformer``, ``gemma``, …).
    path: a ``.safetensors`` file with ``config`` metadata, or several; for ``gemma`` its Hugging Face folder, or the
    text encoder of LTX-2.5.
    dtype: of the parameters; the file's own when None (bfloat16 for what the file holds in float8).
    loras: fused into the transformer, tensor by tensor as it is read; beside layers whose weights are packed.
    quantization: ``fp8-cast`` keeps the large layers of the transformer in float8 (see ``quantization``); ``q8`` and
    ``q4`` pack those of the transformer or of Gemma in 8 or 4 bits (see ``quantized``), as a converted file has them.
    paged: leave the weights of repeated blocks in the file; each is read when the block is called, and dropped after.
    The result carries them as ``module.pages`` (see ``paging``). The first read of a block finds what is not finite.
    ranks: load this rank's part of the transformer or of a text model, and read no more of the file (see
    ``distributed``), or a video decoder that is each rank's for its frames; every rank must call the result at the same
    time.

    The result carries the report as ``module.load_report``. Raises CheckpointError (see ``errors``) when the file
    does not describe the component exactly: missing, left-over or misshaped keys, unknown config, unknown version;
    and when a LoRA does not fit. Warns where pairs of a LoRA fit no layer, and where a LoRA changes nothing.
    """
    check_policy(quantization)
    stream = reader() if paged else None
    opened = tuple(read_lora(lora, stream) for lora in loras)
    how = POLICIES.get(quantization or "")
    if component != "transformer" and (opened or (quantization and not (how and component in PACKED))):
        raise InputError(f"LoRAs and quantization apply to the transformer only, and the component is {component}")
    checkpoint = (
        read_checkpoint(path) if component != "gemma" or isinstance(path, CheckpointFiles) else read_gemma(path)
    )
    module, keys = build(component, checkpoint)
    infos = {name: checkpoint.tensors[key] for name, key in keys.items()}
    check_packed(module, quantization, checkpoint.path)
    shapes = weight_shapes(module, infos)
    fitted = [fitted_to(lora, shapes) for lora in opened]
    opened, reports = tuple(lora for lora, _ in fitted), tuple(report for _, report in fitted)
    for report in reports:
        if report.note:
            warnings.warn(str(report), stacklevel=2)
    if getattr(module, "float32", False):  # a network that computes in nothing else
        dtype = mx.float32
    packs = dict.fromkeys(choose(module, how).layers, how) if how else {}
    if how:
        amend_with_packed(module, packs)
    elif quantization:
        amend_forward_with_upcast(module, scale_shapes(checkpoint, keys))
    packed = packed_layers(module)
    for path, layer in packed.items():
        if isinstance(layer, QuantizedLinear) and (rank := rank_of(opened, path)):
            layer.put_beside(rank)
    parts: dict[str, Part] = {}
    if ranks is not None and component in RULES:
        parts, opened = _parts_in_files(component, module, checkpoint, keys, opened, ranks)
        shard(component, module, ranks)
    elif ranks is not None:
        split_decoder(module, ranks)
    source = Weights(
        checkpoint,
        keys,
        opened,
        dtype,
        None if how else quantization,
        _file_axes(_parts(module)),
        checkpoint.arrays(stream, parts),
        frozenset(packed),
        packs,
        _looked_up(_parts(module)),
    )
    pages = Pages(module, source, keys) if paged else None
    weights = source.read(keys if pages is None else pages.resident)
    if pages is not None:
        weights += pages.placeholders(module)
    module.load_weights(weights, strict=True)
    if pages is not None:
        module.pages = pages.attached(module)
    module.load_report = LoadReport(
        component=component,
        path=checkpoint.path,
        version=checkpoint.version,
        tensors=len(infos),
        parameters=sum(map(prod, shapes.values())),
        file_dtypes=tuple(sorted({info.dtype for info in infos.values()})),
        dtype=str(dtype or "as in the file").removeprefix("mlx.core."),
        quantization=quantization,
        packed=len(packed),
        bits=said_of(packed.values()),
        loras=reports,
        unused=tuple(not_used(module, checkpoint.components().get(component, ()))),
    )
    module.eval()
    return module
