"""Loads a component of a checkpoint as a module with its weights: strict, lazy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..audio_vae import AudioDecoder, AudioEncoder
from ..config import (
    AudioVAEConfig,
    EmbeddingsProcessorConfig,
    Gemma3TextConfig,
    LatentUpsamplerConfig,
    TransformerConfig,
    VideoVAEConfig,
    read_vocoder_config,
)
from ..errors import CheckpointError, InputError, WeightsError
from ..text.embeddings import EmbeddingsProcessor
from ..text.gemma3 import Gemma3TextModel
from ..transformer import LTXModel
from ..upsampler import LatentUpsampler
from ..video_vae import VideoDecoder, VideoEncoder
from ..vocoder import build_vocoder
from .checkpoint import GEMMA_PREFIXES, PREFIXES, WITHIN, Checkpoint, read_checkpoint, read_gemma
from .lora import Lora, LoraPathStrength, LoraReport, fuse, fuse_scaled, read_lora, report_on
from .quantization import FP8, amend_forward_with_upcast, check_policy, from_fp8, is_downcast, to_fp8

# The dtypes of weights, by safetensors' names.
FLOATS = ("BF16", "F16", "F32", "F64", "F8_E4M3")
# Component → where another part's tensors belong in it.
SHARED = {
    "video_encoder": {"per_channel_statistics.": "video_statistics"},
    "video_decoder": {"per_channel_statistics.": "video_statistics"},
    "audio_encoder": {"per_channel_statistics.": "audio_statistics"},
    "audio_decoder": {"per_channel_statistics.": "audio_statistics"},
}


Shapes = dict[str, tuple[int, ...]]


def _build_transformer(config: dict[str, Any], keys: Shapes) -> nn.Module:
    return LTXModel(TransformerConfig.from_metadata(config))


def _build_embeddings_processor(config: dict[str, Any], keys: Shapes) -> nn.Module:
    parsed = EmbeddingsProcessorConfig.from_metadata(config)
    name = "video_aggregate_embed" if parsed.caption_proj_before_connector else "aggregate_embed"
    weight = f"feature_extractor.{name}.weight"
    if weight not in keys:
        raise WeightsError(f"embeddings_processor does not fit its config: missing text_embedding_projection.{name}")
    return EmbeddingsProcessor(parsed, flat_features=keys[weight][-1])


def _build_gemma(config: dict[str, Any], keys: Shapes) -> nn.Module:
    return Gemma3TextModel(Gemma3TextConfig.from_metadata(config))


# Component → its module, from the config metadata and the component's keys with their shapes in the file.
COMPONENTS: dict[str, Callable[[dict[str, Any], Shapes], nn.Module]] = {
    "transformer": _build_transformer,
    "embeddings_processor": _build_embeddings_processor,
    "gemma": _build_gemma,
    "video_encoder": lambda config, keys: VideoEncoder(VideoVAEConfig.from_metadata(config)),
    "video_decoder": lambda config, keys: VideoDecoder(VideoVAEConfig.from_metadata(config)),
    "upsampler": lambda config, keys: LatentUpsampler(LatentUpsamplerConfig.from_metadata(config)),
    "audio_encoder": lambda config, keys: AudioEncoder(AudioVAEConfig.from_metadata(config)),
    "audio_decoder": lambda config, keys: AudioDecoder(AudioVAEConfig.from_metadata(config)),
    "vocoder": lambda config, keys: build_vocoder(read_vocoder_config(config)),
}


def _file_axes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter path → how the file's axes are ordered here, from the leaf classes that store them otherwise."""
    owners = ((path, getattr(m, "from_file", {})) for path, m in module.named_modules())
    return {f"{path}.{name}" if path else name: axes for path, rules in owners for name, axes in rules.items()}


def _as_in_file(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(size for _, size in sorted(zip(axes, shape, strict=True))) if axes else shape


def _unused(module: nn.Module) -> set[str]:
    """Paths that released files hold beside the parameters of a leaf class, and that it does not need."""
    owners = ((path, getattr(m, "unused_in_file", ())) for path, m in module.named_modules())
    return {f"{path}.{name}" if path else name for path, names in owners for name in names}


@dataclass(frozen=True)
class LoadReport:
    """The result of a load: every key of the component was used once, and every parameter was filled."""

    component: str
    path: Path
    version: str
    tensors: int
    parameters: int
    file_dtypes: tuple[str, ...]
    dtype: str
    quantization: str | None = None
    loras: tuple[LoraReport, ...] = ()

    def __str__(self) -> str:
        kept = f", blocks in float8 ({self.quantization})" if self.quantization else ""
        line = (
            f"{self.component}: {self.tensors} tensors, {self.parameters:,} parameters from {self.path} "
            f"(version {self.version}, {'/'.join(self.file_dtypes)} → {self.dtype}{kept}); 0 missing, 0 left over"
        )
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
    module = COMPONENTS[component](checkpoint.config, {k: checkpoint.tensors[v].shape for k, v in keys.items()})
    for name in (_unused(module) | _fp8_scales(keys, checkpoint)) & keys.keys():
        del keys[name]
    axes = _file_axes(module)
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    expected = {name: _as_in_file(value.shape, axes.get(name)) for name, value in parameters.items()}
    problems = [f"missing {_key(component, n)} {shape}" for n, shape in expected.items() if n not in keys]
    problems += [f"left over {key}" for name, key in keys.items() if name not in expected]
    for name, key in keys.items():
        shape = checkpoint.tensors[key].shape
        if name in expected and shape != expected[name]:
            problems.append(f"misshaped {key}: {shape} in the file, {expected[name]} in the network")
        if checkpoint.tensors[key].dtype not in FLOATS:
            problems.append(f"{key} is {checkpoint.tensors[key].dtype}, expected {', '.join(FLOATS)}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise WeightsError(f"{checkpoint.path}: {component} does not fit its config: {shown}")
    return module, keys


def _fp8_scales(keys: dict[str, str], checkpoint: Checkpoint) -> set[str]:
    """Paths of the scales that stand beside float8 weights: of the weight (used, see ``_read``), and of the layer's
    input (for kernels that multiply in float8; not used). Raises WeightsError for one that cannot be applied."""
    scales = set()
    for name, key in keys.items():
        if not name.endswith(".weight") or checkpoint.tensors[key].dtype != "F8_E4M3":
            continue
        by_weight, by_input = f"{name}_scale", f"{name.removesuffix('weight')}input_scale"
        if by_input in keys and by_weight not in keys:
            raise WeightsError(f"{checkpoint.path}: {keys[by_input]} stands without {key}_scale")
        if by_weight in keys and prod(shape := checkpoint.tensors[keys[by_weight]].shape) != 1:
            raise WeightsError(f"{checkpoint.path}: {keys[by_weight]} is {shape}, expected one number for the weight")
        scales |= {by_weight, by_input}
    return scales


def _key(component: str, name: str) -> str:
    """The key in a checkpoint of a component's parameter."""
    prefixes = (
        p for p, c in (PREFIXES | GEMMA_PREFIXES).items() if c == component and name.startswith(WITHIN.get(p, ""))
    )
    prefix = next(prefixes, "")
    return prefix + name.removeprefix(WITHIN.get(prefix, ""))


def _read(
    checkpoint: Checkpoint,
    keys: dict[str, str],
    loras: tuple[Lora, ...],
    dtype: mx.Dtype | None,
    quantization: str | None,
) -> Iterator[tuple[str, mx.array]]:
    """Yield each parameter decoded, with the LoRAs added, in its dtype. Lazy."""
    arrays = checkpoint.arrays()
    for name, key in keys.items():
        array, scale = arrays[key], _scale(arrays, key)
        in_fp8 = checkpoint.tensors[key].dtype == "F8_E4M3"
        if quantization and is_downcast(name) and scale is not None:
            array, scale = fuse_scaled(loras, name, array, scale)
            yield f"{name}_scale", scale
            yield name, array
        elif quantization and is_downcast(name):
            yield name, fuse(loras, name, array if in_fp8 else to_fp8(array), FP8)
        else:
            if in_fp8:  # exact in bfloat16, except for its scale
                array = from_fp8(array, mx.bfloat16) if scale is None else from_fp8(array, mx.float32) * scale
            yield name, fuse(loras, name, array, dtype or (mx.bfloat16 if in_fp8 else array.dtype))


def _scale(arrays: dict[str, mx.array], key: str) -> mx.array | None:
    """The scale of a float8 weight, ``()`` float32. There is an ``input_scale`` as well, for kernels that multiply in
    float8: it is not part of the weight."""
    scale = arrays.get(f"{key}_scale")
    return None if scale is None else scale.astype(mx.float32).reshape(())


def load(
    component: str,
    path: str | Path,
    dtype: mx.Dtype | None = None,
    loras: Iterable[LoraPathStrength] = (),
    quantization: str | None = None,
) -> nn.Module:
    """Load one component of an official checkpoint. Lazy: weights are read from the file when they are first used.

    component: a name of ``COMPONENTS`` (``transformer``, ``gemma``, …).
    path: a single-file ``.safetensors`` with ``config`` metadata; for ``gemma`` its Hugging Face folder.
    dtype: of the parameters; the file's own when None (bfloat16 for what the file holds in float8).
    loras: fused into the transformer, tensor by tensor as it is read.
    quantization: ``fp8-cast`` keeps the large layers of the transformer in float8 (see ``quantization``).

    The result carries the report as ``module.load_report``. Raises CheckpointError (see ``errors``) when the file
    does not describe the component exactly: missing, left-over or misshaped keys, unknown config, unknown version;
    and when a LoRA does not fit. Warns where pairs of a LoRA fit no layer.
    """
    check_policy(quantization)
    opened = tuple(read_lora(lora) for lora in loras)
    if component != "transformer" and (opened or quantization):
        raise InputError(f"LoRAs and quantization apply to the transformer only, and the component is {component}")
    checkpoint = read_gemma(path) if component == "gemma" else read_checkpoint(path)
    module, keys = build(component, checkpoint)
    infos = {name: checkpoint.tensors[key] for name, key in keys.items()}
    reports = tuple(report_on(lora, {name: info.shape for name, info in infos.items()}) for lora in opened)
    for report in reports:
        if report.unmatched:
            warnings.warn(str(report), stacklevel=2)
    if getattr(module, "float32", False):  # a network that computes in nothing else
        dtype = mx.float32
    if quantization:
        scales = {f"{name}_scale" for name, key in keys.items() if f"{key}_scale" in checkpoint.tensors}
        amend_forward_with_upcast(module, scales)
    axes = _file_axes(module)
    weights = [
        (name, mx.contiguous(array.transpose(axes[name])) if name in axes else array)
        for name, array in _read(checkpoint, keys, opened, dtype, quantization)
    ]
    module.load_weights(weights, strict=True)
    module.load_report = LoadReport(
        component=component,
        path=checkpoint.path,
        version=checkpoint.version,
        tensors=len(infos),
        parameters=sum(prod(info.shape) for info in infos.values()),
        file_dtypes=tuple(sorted({info.dtype for info in infos.values()})),
        dtype=str(dtype or "as in the file").removeprefix("mlx.core."),
        quantization=quantization,
        loras=reports,
    )
    module.eval()
    return module
