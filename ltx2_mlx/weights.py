"""Checkpoints: which keys belong to which component, and strict loading.

A parameter's path in the file, after its component's prefix, is its attribute path in our code. So there is one table
of prefixes here and no table of names.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .audio_vae import AudioDecoder, AudioEncoder
from .config import (
    SUPPORTED_VERSIONS,
    AudioVAEConfig,
    EmbeddingsProcessorConfig,
    Gemma3TextConfig,
    LatentUpsamplerConfig,
    TransformerConfig,
    VideoVAEConfig,
    read_vocoder_config,
)
from .errors import CheckpointError, ConfigError, WeightsError
from .text.embeddings import EmbeddingsProcessor
from .text.gemma3 import Gemma3TextModel
from .transformer import LTXModel
from .upsampler import LatentUpsampler
from .video_vae import VideoDecoder, VideoEncoder
from .vocoder import build_vocoder

# Key prefix → component. The longest match wins: the connectors' keys lie below the transformer's prefix.
PREFIXES = {
    "model.diffusion_model.": "transformer",
    "model.diffusion_model.video_embeddings_connector.": "embeddings_processor",
    "model.diffusion_model.audio_embeddings_connector.": "embeddings_processor",
    "text_embedding_projection.": "embeddings_processor",
    "vae.encoder.": "video_encoder",
    "vae.decoder.": "video_decoder",
    "vae.per_channel_statistics.": "video_statistics",
    "audio_vae.encoder.": "audio_encoder",
    "audio_vae.decoder.": "audio_decoder",
    "audio_vae.per_channel_statistics.": "audio_statistics",
    "vocoder.": "vocoder",
    "": "upsampler",  # in files of its own, whose config has no sections
}
# Component → where another part's tensors belong in it.
SHARED = {
    "video_encoder": {"per_channel_statistics.": "video_statistics"},
    "video_decoder": {"per_channel_statistics.": "video_statistics"},
    "audio_encoder": {"per_channel_statistics.": "audio_statistics"},
    "audio_decoder": {"per_channel_statistics.": "audio_statistics"},
}
# Component → the section of the config that describes it, where it has another name.
SECTIONS = {"video_encoder": "vae", "video_decoder": "vae", "audio_encoder": "audio_vae", "audio_decoder": "audio_vae"}
# Key prefix → path within its component, for a component that is spread over several prefixes.
WITHIN = {
    "model.diffusion_model.video_embeddings_connector.": "video_connector.",
    "model.diffusion_model.audio_embeddings_connector.": "audio_connector.",
    "text_embedding_projection.": "feature_extractor.",
}
# The same for the shards of a Gemma 3 folder. The image tower serves prompt enhancement alone, and is not read here.
GEMMA_PREFIXES = {
    "language_model.model.": "gemma",
    "vision_tower.": "gemma_images",
    "multi_modal_projector.": "gemma_images",
}

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16}
_BITS |= {"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64}


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


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file: its dtype by safetensors' name, its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """The header of a ``.safetensors`` checkpoint; no weight is read."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    unused_keys: tuple[str, ...] = field(default=())
    prefixes: ClassVar[dict[str, str]] = PREFIXES

    @cached_property
    def config(self) -> dict[str, Any]:
        """The network's description. Raises ConfigError where there is none."""
        text = self.metadata.get("config")
        if text is None:
            raise ConfigError(f"{self.path}: no 'config' in the metadata, so the network is unknown. {_OFFICIAL}")
        try:
            config = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{self.path}: the 'config' metadata is no JSON ({error})") from None
        if not isinstance(config, dict):
            raise ConfigError(
                f"{self.path}: the 'config' metadata is a JSON {type(config).__name__}, expected an object"
            )
        return config

    @property
    def version(self) -> str:
        """``model_version`` of the metadata; ``2.0`` where it is absent, as ltx-pipelines reads such a file."""
        version = self.metadata.get("model_version", "2.0")
        if not version.startswith(tuple(f"{v}" for v in SUPPORTED_VERSIONS)) or version[3:4] not in ("", "."):
            supported = " and ".join(SUPPORTED_VERSIONS)
            raise ConfigError(f"{self.path}: model_version is {version!r}, and {supported} are supported")
        return version

    def components(self) -> dict[str, dict[str, str]]:
        """Component → {parameter path: key in the file}. Keys of no component are under ``""``."""
        result: dict[str, dict[str, str]] = {}
        by_length = sorted((p for p in self.prefixes if p), key=len, reverse=True)
        bare = self.prefixes.get("", "") if LatentUpsamplerConfig.describes(self.config) else ""
        for key in self.tensors:
            prefix = next((p for p in by_length if key.startswith(p)), "")
            path = WITHIN.get(prefix, "") + key[len(prefix) :]
            result.setdefault(self.prefixes[prefix] if prefix else bare, {})[path] = key
        return result

    def holds(self, component: str) -> bool:
        """Whether the file has tensors of the component, or a section that describes it."""
        return component in self.components() or SECTIONS.get(component, component) in self.config

    def arrays(self) -> dict[str, mx.array]:
        """Every tensor by its key. Lazy: read when it is first used."""
        return mx.load(str(self.path), format="safetensors")


_OFFICIAL = "Use a checkpoint in the official single-file format"


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint's header: format, sizes, offsets. Raises CheckpointError in one line."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, expected one .safetensors file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if size == 0:
                raise CheckpointError(f"{path}: empty file")
            if len(head) < 8 or length < 2:
                raise CheckpointError(f"{path}: no safetensors file")
            if length > min(size - 8, 100_000_000):
                start = file.read(1)
                if start == b"{":
                    raise CheckpointError(
                        f"{path}: truncated or damaged: the header claims {length:,} bytes, the file has {size:,}"
                    )
                raise CheckpointError(f"{path}: no safetensors file")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", None) or {}
        tensors = {key: _tensor_info(entry, size - 8 - length) for key, entry in header.items()}
    except _TruncatedError as error:
        raise CheckpointError(f"{path}: truncated: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: no safetensors file (its header cannot be read)") from None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: no safetensors file (its metadata is no table of strings)")
    return Checkpoint(path, metadata, tensors)


@dataclass(frozen=True)
class GemmaFolder(Checkpoint):
    """A Gemma 3 folder as Hugging Face lays it out: ``config.json``, shards and their index. Only headers are read.

    shards: key → its file.
    """

    shards: dict[str, Path] = field(default_factory=dict)
    prefixes: ClassVar[dict[str, str]] = GEMMA_PREFIXES

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    @property
    def version(self) -> str:
        return str(self.config.get("model_type"))

    def arrays(self) -> dict[str, mx.array]:
        files = {file: mx.load(str(file), format="safetensors") for file in dict.fromkeys(self.shards.values())}
        return {key: files[file][key] for key, file in self.shards.items()}


def read_gemma(folder: str | Path) -> GemmaFolder:
    """Read and check the headers of a Gemma 3 folder. Raises CheckpointError in one line."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: {'a file' if folder.exists() else 'no such folder'}. {_GEMMA}")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise CheckpointError(f"{index}: no 'weight_map' from keys to files")
        headers = {name: read_checkpoint(folder / name) for name in sorted(set(named.values()))}
    elif (folder / "model.safetensors").exists():
        headers = {"model.safetensors": read_checkpoint(folder / "model.safetensors")}
        named = dict.fromkeys(headers["model.safetensors"].tensors, "model.safetensors")
    else:
        raise CheckpointError(f"{folder}: neither model.safetensors.index.json nor model.safetensors. {_GEMMA}")
    found = {key: name for name, header in headers.items() for key in header.tensors}
    if wrong := sorted(key for key in named.keys() | found.keys() if named.get(key) != found.get(key)):
        raise WeightsError(f"{folder}: index and shards do not agree on {len(wrong)} keys, the first is {wrong[0]}")
    tensors = {key: headers[name].tensors[key] for key, name in found.items()}
    result = GemmaFolder(folder, {}, tensors, shards={key: folder / name for key, name in found.items()})
    if unknown := sorted(result.components().get("", {})):
        raise WeightsError(f"{folder}: {len(unknown)} keys of no known part, the first is {unknown[0]}. {_GEMMA}")
    return result


_GEMMA = "Use the official google/gemma-3-12b-it folder, or one with the same keys"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a JSON {type(content).__name__}, expected an object")
    return content


class _TruncatedError(Exception):
    pass


def _tensor_info(entry: dict[str, Any], data_size: int) -> TensorInfo:
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if end > data_size:
        raise _TruncatedError(f"tensor data should end at byte {end:,} and ends at {data_size:,}")
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
        raise ValueError
    if (end - start) * 8 != prod(shape) * _BITS[entry["dtype"]]:
        raise ValueError
    return TensorInfo(entry["dtype"], shape, end - start)


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
    """What a load did: every key of the component was used once, and every parameter was filled."""

    component: str
    path: Path
    version: str
    tensors: int
    parameters: int
    file_dtypes: tuple[str, ...]
    dtype: str

    def __str__(self) -> str:
        return (
            f"{self.component}: {self.tensors} tensors, {self.parameters:,} parameters from {self.path} "
            f"(version {self.version}, {'/'.join(self.file_dtypes)} → {self.dtype}); 0 missing, 0 left over"
        )


def build(component: str, checkpoint: Checkpoint) -> tuple[nn.Module, dict[str, str]]:
    """The component's module with nothing loaded, and {parameter path: key}, checked against each other.

    Raises WeightsError naming every key that is missing, left over or of the wrong shape.
    """
    if component not in COMPONENTS:
        raise CheckpointError(f"no component '{component}'; there are: {', '.join(COMPONENTS)}")
    _ = checkpoint.version
    parts = checkpoint.components()
    keys = dict(parts.get(component, {}))
    for at, part in SHARED.get(component, {}).items():
        keys |= {at + name: key for name, key in parts.get(part, {}).items()}
    module = COMPONENTS[component](checkpoint.config, {k: checkpoint.tensors[v].shape for k, v in keys.items()})
    for name in _unused(module) & keys.keys():
        del keys[name]
    axes = _file_axes(module)
    expected = {name: _as_in_file(value.shape, axes.get(name)) for name, value in tree_flatten(module.parameters())}
    problems = [f"missing {_key(component, n)} {shape}" for n, shape in expected.items() if n not in keys]
    problems += [f"left over {key}" for name, key in keys.items() if name not in expected]
    for name, key in keys.items():
        shape = checkpoint.tensors[key].shape
        if name in expected and shape != expected[name]:
            problems.append(f"misshaped {key}: {shape} in the file, {expected[name]} in the network")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise WeightsError(f"{checkpoint.path}: {component} does not fit its config: {shown}")
    return module, keys


def _key(component: str, name: str) -> str:
    """The key in a checkpoint of a component's parameter."""
    prefixes = (
        p for p, c in (PREFIXES | GEMMA_PREFIXES).items() if c == component and name.startswith(WITHIN.get(p, ""))
    )
    prefix = next(prefixes, "")
    return prefix + name.removeprefix(WITHIN.get(prefix, ""))


def load(component: str, path: str | Path, dtype: mx.Dtype | None = None) -> nn.Module:
    """Load one component of an official checkpoint. Lazy: weights are read from the file when they are first used.

    component: a name of ``COMPONENTS`` (``transformer``, ``gemma``, …).
    path: a single-file ``.safetensors`` with ``config`` metadata; for ``gemma`` its Hugging Face folder.
    dtype: of the parameters; the file's own when None.

    The result carries the report as ``module.load_report``. Raises CheckpointError (see ``errors``) when the file
    does not describe the component exactly: missing, left-over or misshaped keys, unknown config, unknown version.
    """
    checkpoint = read_gemma(path) if component == "gemma" else read_checkpoint(path)
    module, keys = build(component, checkpoint)
    arrays = checkpoint.arrays()
    if getattr(module, "float32", False):  # a network that computes in nothing else
        dtype = mx.float32
    axes = _file_axes(module)
    weights = []
    for name, key in keys.items():
        array = arrays[key] if dtype is None else arrays[key].astype(dtype)
        weights.append((name, mx.contiguous(array.transpose(axes[name])) if name in axes else array))
    module.load_weights(weights, strict=True)
    infos = [checkpoint.tensors[key] for key in keys.values()]
    module.load_report = LoadReport(
        component=component,
        path=checkpoint.path,
        version=checkpoint.version,
        tensors=len(infos),
        parameters=sum(prod(info.shape) for info in infos),
        file_dtypes=tuple(sorted({info.dtype for info in infos})),
        dtype="as in the file" if dtype is None else str(dtype).removeprefix("mlx.core."),
    )
    module.eval()
    return module
