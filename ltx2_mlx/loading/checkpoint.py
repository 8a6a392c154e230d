"""Checkpoint files: their headers, and which keys belong to which component. No weight is read here.

A parameter's path in the file, after its component's prefix, is its attribute path in our code. So there is one table
of prefixes here and no table of names.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from ..config import SUPPORTED_VERSIONS, LatentUpsamplerConfig
from ..errors import CheckpointError, ConfigError, WeightsError

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
# Component → the section of the config that describes it, where it has another name.
SECTIONS = {"video_encoder": "vae", "video_decoder": "vae", "audio_encoder": "audio_vae", "audio_decoder": "audio_vae"}
# Key prefix → path within its component, for a component that is spread over several prefixes.
WITHIN = {
    "model.diffusion_model.video_embeddings_connector.": "video_connector.",
    "model.diffusion_model.audio_embeddings_connector.": "audio_connector.",
    "text_embedding_projection.": "feature_extractor.",
}
# The same for the shards of a Gemma 3 folder. Only prompt enhancement uses the image tower, so it is not read here.
GEMMA_PREFIXES = {
    "language_model.model.": "gemma",
    "vision_tower.": "gemma_images",
    "multi_modal_projector.": "gemma_images",
}

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16}
_BITS |= {"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64}


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
            raise ConfigError(f"{self.path}: the metadata has no 'config', so the network is unknown. {_OFFICIAL}")
        try:
            config = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{self.path}: the 'config' metadata is not JSON ({error})") from None
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
            raise ConfigError(f"{self.path}: model_version is {version!r}, expected {supported}")
        return version

    def components(self) -> dict[str, dict[str, str]]:
        """Component → {parameter path: key in the file}. Keys that belong to no component are under ``""``."""
        result: dict[str, dict[str, str]] = {}
        by_length = sorted((p for p in self.prefixes if p), key=len, reverse=True)
        bare = self.prefixes.get("", "") if LatentUpsamplerConfig.describes(self.config) else ""
        for key in self.tensors:
            prefix = next((p for p in by_length if key.startswith(p)), "")
            path = WITHIN.get(prefix, "") + key[len(prefix) :]
            result.setdefault(self.prefixes[prefix] if prefix else bare, {})[path] = key
        return result

    def holds(self, component: str) -> bool:
        """True where the file has tensors of the component, or a section that describes it."""
        return component in self.components() or SECTIONS.get(component, component) in self.config

    def arrays(self) -> dict[str, mx.array]:
        """All tensors by their keys. Lazy: each is read when it is first used."""
        return _read_arrays(self.path)


_OFFICIAL = "Use a checkpoint in the official single-file format"


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint's header: format, sizes, offsets. Raises CheckpointError in one line."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, expected a .safetensors file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if size == 0:
                raise CheckpointError(f"{path}: empty file")
            if len(head) < 8 or length < 2:
                raise CheckpointError(f"{path}: not a safetensors file")
            if length > min(size - 8, 100_000_000):
                start = file.read(1)
                if start == b"{":
                    raise CheckpointError(
                        f"{path}: truncated or damaged: the header claims {length:,} bytes, the file has {size:,}"
                    )
                raise CheckpointError(f"{path}: not a safetensors file")
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
        raise CheckpointError(f"{path}: not a safetensors file (its header cannot be read)") from None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: not a safetensors file (its metadata is not a table of strings)")
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
        files = {file: _read_arrays(file) for file in dict.fromkeys(self.shards.values())}
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
            raise CheckpointError(f"{index}: it has no 'weight_map' from keys to files. {_GEMMA}")
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
        raise WeightsError(f"{folder}: {len(unknown)} unknown keys, the first is {unknown[0]}. {_GEMMA}")
    return result


_GEMMA = "Use the official google/gemma-3-12b-it folder, or one with the same keys"


def _read_arrays(path: Path) -> dict[str, mx.array]:
    try:
        arrays = mx.load(str(path), format="safetensors")
    except RuntimeError as error:  # F8_E5M2, say
        raise CheckpointError(f"{path}: MLX cannot read it ({error})") from None
    assert isinstance(arrays, dict)  # one array is what .npy files hold
    return arrays


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
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
