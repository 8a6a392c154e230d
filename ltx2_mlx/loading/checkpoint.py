"""Checkpoint files: which keys belong to which component, in one file or in several. No weight is read here.

A parameter's path in the file, after its component's prefix, is its attribute path in our code. So there is one table
of prefixes here and no table of names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from ..config import SUPPORTED_VERSIONS, LatentUpsamplerConfig
from ..config.reading import cut, parse_json
from ..distributed.table import Part
from ..errors import CheckpointError, ConfigError
from .header import Arrays, Tensors, read_header
from .kinds import kind_of_weights

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
# A file of its own → the components that it is for.
OWNERS = {
    "transformer_path": ("transformer",),
    "text_encoder_path": ("embeddings_processor",),
    "video_vae_path": ("video_encoder", "video_decoder", "video_statistics"),
    "audio_vae_path": ("audio_encoder", "audio_decoder", "audio_statistics", "vocoder"),
}
_WORDS = {
    "transformer": "the transformer",
    "embeddings_processor": "the text connectors",
    "video_encoder": "the video VAE",
    "video_decoder": "the video VAE",
    "audio_encoder": "the audio VAE",
    "audio_decoder": "the audio VAE",
    "vocoder": "the vocoder",
    "upsampler": "a latent upsampler",
}
# In a file of its own a component's keys may lack their prefix, or the first word of it.
_CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")
_PROJECTION = ("aggregate_embed.", "video_aggregate_embed.", "audio_aggregate_embed.")
_VAE = ("encoder.", "decoder.", "per_channel_statistics.")


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint in several files. Where a call takes the path of a checkpoint it takes this as well.

    checkpoint_path: has all that no other file has. text_encoder_path: the text projection and the connectors.
    audio_vae_path: the vocoder as well.
    """

    checkpoint_path: str | Path | None = None
    transformer_path: str | Path | None = None
    text_encoder_path: str | Path | None = None
    video_vae_path: str | Path | None = None
    audio_vae_path: str | Path | None = None

    def given(self) -> dict[str, str | Path]:
        """Field → path, for the files that are given."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def __str__(self) -> str:
        return ", ".join(map(str, dict.fromkeys(self.given().values())))


CheckpointPath = str | Path | CheckpointFiles


@dataclass(frozen=True)
class Checkpoint:
    """The header of a checkpoint; no weight is read. tensors: by their names in the official single file."""

    path: Path | CheckpointFiles
    metadata: dict[str, str]
    tensors: Tensors
    prefixes: ClassVar[dict[str, str]] = PREFIXES

    @cached_property
    def config(self) -> dict[str, Any]:
        """The network's description. Raises ConfigError where there is none."""
        text = self.metadata.get("config")
        if text is None:
            if kind := self.kind:
                raise ConfigError(f"{self.path}: {kind}")
            raise ConfigError(f"{self.path}: the metadata has no 'config', so the network is unknown. {_OFFICIAL}")
        return parse_json(text, f"{self.path}: the 'config' metadata", ConfigError)

    @property
    def kind(self) -> str | None:
        """What it is where it is no checkpoint of LTX-2, None where that is not known."""
        path = self.path if isinstance(self.path, Path) else Path()
        return kind_of_weights(path, {info.key: info.dtype for info in self.tensors.values()}, self.metadata)

    @property
    def version(self) -> str:
        """``model_version`` of the metadata; ``2.0`` where it is absent, as ltx-pipelines reads such a file."""
        version = self.metadata.get("model_version", "2.0")
        if release_of(version) not in map(release_of, SUPPORTED_VERSIONS):
            supported = f"{', '.join(SUPPORTED_VERSIONS[:-1])} or {SUPPORTED_VERSIONS[-1]}"
            raise ConfigError(f"{self.path}: model_version is {cut(version)!r}, expected {supported}")
        return version

    @property
    def gemma_needed(self) -> str | None:
        """The version of the text encoder that it was trained with; None where it does not say, as before 2.5."""
        return self._gemma_version("gemma_source_checkpoint")

    @property
    def gemma_version(self) -> str | None:
        """The version of the text encoder that it holds or is; None where it does not say, as Gemma 3's."""
        return self._gemma_version("gemma_config")

    def _gemma_version(self, key: str) -> str | None:
        text = self.metadata.get(key)
        if text is None:
            return None
        found = parse_json(text, f"{self.path}: the '{key}' metadata", ConfigError).get("gemma_version")
        return None if found is None else str(found)

    def components(self) -> dict[str, dict[str, str]]:
        """Component → {parameter path: key in the file}. Keys that belong to no component are under ``""``."""
        return self._components

    @cached_property
    def _components(self) -> dict[str, dict[str, str]]:
        result: dict[str, dict[str, str]] = {}
        longest = _longest(tuple(self.prefixes))
        bare = self.prefixes.get("", "") if LatentUpsamplerConfig.describes(self.config) else ""
        for key in self.tensors:
            prefix = found[0] if (found := longest(key)) else ""
            path = WITHIN.get(prefix, "") + key[len(prefix) :]
            result.setdefault(self.prefixes[prefix] if prefix else bare, {})[path] = key
        return result

    def holds(self, component: str) -> bool:
        """True where there are tensors of the component."""
        return component in self.components()

    def contents(self) -> str:
        """The components in words."""
        words = list(dict.fromkeys(_WORDS[part] for part in self.components() if part in _WORDS))
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing of LTX-2"

    def arrays(self, stream: mx.Stream | None = None, parts: Mapping[str, Part] | None = None) -> Arrays:
        """All tensors by their keys, or ``parts`` of some. Lazy: each is read when it is first used."""
        return Arrays(self.tensors, stream, parts)


def release_of(version: str) -> tuple[int, ...]:
    """The release of a ``model_version``, as numbers to compare: (2, 5) of "2.5.0" and of "2.5-1"; empty for what is no
    version. Source: upstream reads a dash as a point."""
    found = re.match(r"(\d{1,4})[.-](\d{1,4})(?:[.-]|$)", version)
    return tuple(map(int, found.groups())) if found else ()


def check_gemma_version(checkpoint: Checkpoint, gemma: Checkpoint) -> None:
    """Raises CheckpointError where a text encoder is not the one that a checkpoint was trained with. From 2.4 on both
    say which it is; where both do not, their shapes alone are compared."""
    needed, found = checkpoint.gemma_needed, gemma.gemma_version
    if needed == found:
        return
    wants = f"needs the text encoder {needed}"
    if needed is None:
        old = release_of(checkpoint.version) < (2, 4)
        wants = "needs Gemma 3" if old else "does not say which text encoder it needs (gemma_source_checkpoint)"
    raise CheckpointError(
        f"{checkpoint.path} {wants}, and {gemma.path} is {found or 'one that states no version, as Gemma 3 does not'}"
    )


def unstated(checkpoint: Checkpoint, gemma: Checkpoint) -> str | None:
    """A sentence where a checkpoint from 2.4 on and its text encoder both do not say which they are; None otherwise."""
    if checkpoint.gemma_needed or gemma.gemma_version or release_of(checkpoint.version) < (2, 4):
        return None
    return (
        f"{checkpoint.path} does not say which text encoder it needs (gemma_source_checkpoint), and {gemma.path} not "
        "which it is (gemma_version): only their shapes are compared"
    )


_OFFICIAL = "Use a checkpoint in the official single-file format"


def read_checkpoint(path: CheckpointPath) -> Checkpoint:
    """Read and check the header of a checkpoint, or of each of its files. Raises CheckpointError in one line."""
    if isinstance(path, CheckpointFiles):
        return merged(path)
    return checkpoint_of(Path(path), *read_header(Path(path)))


def checkpoint_of(path: Path, metadata: dict[str, str], tensors: Tensors) -> Checkpoint:
    """The checkpoint of one file's header."""
    return Checkpoint(path, metadata, _official(tensors, _guess(tensors)))


# ---- files of their own -------------------------------------------------------------------------------------------


def _guess(tensors: Tensors) -> str:
    """The file's place among those of a split checkpoint, by its keys; "" for whole ones and for all other files."""
    if any("lora" in key or key.endswith(".alpha") for key in tensors):
        return ""
    bare = [key.removeprefix("diffusion_model.") for key in tensors]
    if any(key.startswith("transformer_blocks.") for key in bare):
        return "transformer_path"
    if any(key.startswith((*_CONNECTORS, *_PROJECTION)) for key in bare):
        return "text_encoder_path"
    if any(key.endswith("decoder.conv_in_x_t.weight") for key in tensors):
        return "video_vae_path"  # a diffusion decoder, which has no convolutions
    kernels = [len(info.shape) for key, info in tensors.items() if key.startswith(_VAE) and len(info.shape) > 3]
    return {5: "video_vae_path", 4: "audio_vae_path"}.get(max(kernels, default=0), "")


def _official(tensors: Tensors, role: str) -> Tensors:
    """The tensors by their names in the official single file."""
    return {_official_name(key, role): info for key, info in tensors.items()}


def _official_name(key: str, role: str) -> str:
    if not role or key.startswith(tuple(prefix for prefix in PREFIXES if prefix)):
        return key
    bare = key.removeprefix("diffusion_model.")
    if role == "text_encoder_path" and bare.startswith(_PROJECTION):
        return f"text_embedding_projection.{bare}"
    if bare.startswith(_CONNECTORS) or role == "transformer_path":
        return f"model.diffusion_model.{bare}"
    if role.endswith("vae_path") and key.startswith(_VAE):
        return f"{'vae' if role == 'video_vae_path' else 'audio_vae'}.{key}"
    return key


def merged(
    files: CheckpointFiles, header: Callable[[Path], tuple[dict[str, str], Tensors]] = read_header
) -> Checkpoint:
    """One checkpoint of several files. Each prefix's keys come from the file that is for it, and otherwise from the
    first that has them; so do the sections of the config."""
    parts: dict[str, Checkpoint] = {}
    for role, path in files.given().items():
        metadata, tensors = header(Path(path))
        place = _guess(tensors) if role == "checkpoint_path" else role
        parts[role] = Checkpoint(Path(path), metadata, _official(tensors, place))
    if not parts:
        raise CheckpointError("no checkpoint: give a file")
    tensors, known = {}, tuple(prefix for prefix in PREFIXES if prefix)
    for prefix, component in PREFIXES.items():
        for part in _in_order(parts, component):
            own = {key: info for key, info in part.tensors.items() if prefix == _prefix(key, known)}
            tensors |= own
            if own:
                break
    for role, part in parts.items():
        components = OWNERS.get(role, ())
        if components and not any(_component(key, known) in components for key in part.tensors):
            held = ", ".join(dict.fromkeys(_WORDS[c] for k in part.tensors if (c := _component(k, known)) in _WORDS))
            upsamples = "config" in part.metadata and LatentUpsamplerConfig.describes(part.config)
            held = held or ("a latent upsampler" if upsamples else "nothing of LTX-2")
            found = part.kind or f"it holds {held}"
            raise CheckpointError(f"{part.path}: {found}, and --{role.replace('_', '-')} needs {_WORDS[components[0]]}")
    return Checkpoint(files, _merged_metadata(files, parts), tensors)


def _in_order(parts: Mapping[str, Checkpoint], component: str) -> list[Checkpoint]:
    """The files, that which is for the component first, then the whole one."""
    return sorted(parts.values(), key=lambda part: _rank(parts, part, component))


def _rank(parts: Mapping[str, Checkpoint], part: Checkpoint, component: str) -> int:
    role = next(role for role, other in parts.items() if other is part)
    return 0 if component in OWNERS.get(role, ()) else 1 if role == "checkpoint_path" else 2


def _prefix(key: str, known: tuple[str, ...]) -> str:
    return found[0] if (found := _longest(known)(key)) else ""


@cache
def _longest(prefixes: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    """Matches the longest of the prefixes that a key begins with."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, prefixes), key=len, reverse=True)))).match


def _component(key: str, known: tuple[str, ...]) -> str:
    prefix = _prefix(key, known)
    return PREFIXES[prefix] if prefix else ""


def _merged_metadata(files: CheckpointFiles, parts: Mapping[str, Checkpoint]) -> dict[str, str]:
    versions = {}
    for part in parts.values():
        if "model_version" in part.metadata:
            versions[release_of(part.version)] = part
    if len(versions) > 1:
        said = ", ".join(f"{part.path} is of version {'.'.join(map(str, v))}" for v, part in versions.items())
        raise CheckpointError(f"the files are of different versions: {said}. Give files of one")
    metadata = {}
    for part in versions.values():
        metadata["model_version"] = part.metadata["model_version"]
    for key in ("gemma_source_checkpoint", "gemma_config"):
        if stating := [part for part in parts.values() if key in part.metadata]:
            metadata[key] = stating[0].metadata[key]
    stated = [part for part in parts.values() if "config" in part.metadata]
    if stated:
        config: dict[str, Any] = {}
        for section in dict.fromkeys(name for part in stated for name in part.config):
            owner = next((c for c in _WORDS if SECTIONS.get(c, c) == section), "")
            first = next(part for part in _in_order(parts, owner) if part in stated and section in part.config)
            config[section] = first.config[section]
        metadata["config"] = json.dumps(config)
    return metadata
