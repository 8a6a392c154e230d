"""Gemma in files: a folder of Gemma 3 or 4 as Hugging Face lays them out, in every layout that keeps the text model's
weights whole, or the one file of LTX-2.5's text encoder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..config import is_gemma4
from ..config.reading import cut, parse_json, read_json
from ..errors import CheckpointError, ConfigError, WeightsError
from ..text.tokenizer import IN_FILE, LTXVGemmaTokenizer
from .checkpoint import Checkpoint
from .header import Tensors, read_header
from .kinds import BY_MLX, check_regular, kind_of_file, packed

# Prefix → component, the official one first; then those of transformers 5, and of models that were saved without their
# head or their images. Only prompt enhancement uses the image tower and the head, so these are not read here.
GEMMA_PREFIXES = {
    "language_model.model.": "gemma",
    "model.language_model.": "gemma",
    "language_model.": "gemma",
    "model.": "gemma",
    "": "gemma",
    "vision_tower.": "gemma_images",
    "model.vision_tower.": "gemma_images",
    "multi_modal_projector.": "gemma_images",
    "model.multi_modal_projector.": "gemma_images",
    "lm_head.": "gemma_head",
    "language_model.lm_head.": "gemma_head",
}
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_WEIGHTS = re.compile(r"\.(gguf|bin|pth?|ckpt|npz|h5|msgpack|onnx|incomplete|part|aria2|crdownload)$")
_LONGEST_NAME = 255  # bytes, on every file system that is common
# What Gemma 4 has beside its text model: as transformers names it, and as LTX-2.5's file does.
_GEMMA4_PREFIXES = GEMMA_PREFIXES | {
    "model.vision_embedder.": "gemma_images",
    "model.embed_vision.": "gemma_images",
    "model.embed_audio.": "gemma_audio",
}
_FILE_PREFIXES = {
    "model.": "gemma",
    "model.language_model.": "gemma",
    "lm_head.": "gemma_head",
    "vision_model.": "gemma_images",
    "multi_modal_projector.": "gemma_images",
    "audio_projector.": "gemma_audio",
    "text_embedding_projection.": "text_projection",  # read as a part of the checkpoint
    "hf_asset__": "gemma_assets",
    "tokenizer_json": "gemma_assets",
    "": "",
}
_WITHIN_TEXT = re.compile(r"(layers\.\d+|embed_tokens|norm)\.")
# Gemma 3 has 262,145 tokens and 262,208 embeddings; Gemma 2, the nearest other model, has 256,000 tokens.
_LEAST_USED = 0.98
_QUANTIZED = ("quantization", "quantization_config")
_GEMMA = "Use the official google/gemma-3-12b-it folder, or one with the same weights"
_ENCODER = "Use the official text encoder of LTX-2.5"


@dataclass(frozen=True)
class Gemma(Checkpoint):
    """A Gemma, of which only headers are read."""

    path: Path

    @cached_property
    def stated(self) -> dict[str, Any]:
        """All of its config."""
        raise NotImplementedError

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config without how the weights are packed: each layer's shapes say that."""
        return {key: value for key, value in self.stated.items() if key not in _QUANTIZED}

    @property
    def name(self) -> str:
        """``Gemma 3`` or ``Gemma 4``."""
        return f"Gemma {4 if is_gemma4(self.stated) else 3}"

    @property
    def version(self) -> str:
        return str(self.config.get("model_type"))

    @property
    def gemma_version(self) -> str | None:
        found = self.config.get("gemma_version")
        return None if found is None else str(found)

    @property
    def kind(self) -> None:
        """Nothing beyond what ``read_gemma`` says."""

    @property
    def known(self) -> dict[str, str]:
        """Prefix → component."""
        return self.prefixes

    @property
    def remedy(self) -> str:
        """What to get in the place of a bad one."""
        return _GEMMA

    def components(self) -> dict[str, dict[str, str]]:
        by_length = sorted(self.known, key=len, reverse=True)
        result: dict[str, dict[str, str]] = {}
        for key in self.tensors:
            prefix = next(prefix for prefix in by_length if key.startswith(prefix))
            path, component = key[len(prefix) :], self.known[prefix]
            if component == "gemma" and not _WITHIN_TEXT.match(path):
                component = ""
            other = result.setdefault(component, {}).setdefault(path, key)
            if component == "gemma" and other != key:
                raise WeightsError(f"{self.path}: {cut(other)} and {cut(key)} are the same weight twice. {self.remedy}")
        return result


@dataclass(frozen=True)
class GemmaFolder(Gemma):
    """A folder: ``config.json``, and one file or shards with their index."""

    prefixes: ClassVar[dict[str, str]] = GEMMA_PREFIXES

    @cached_property
    def stated(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    @property
    def known(self) -> dict[str, str]:
        return _GEMMA4_PREFIXES if is_gemma4(self.stated) else GEMMA_PREFIXES


@dataclass(frozen=True)
class GemmaFile(Gemma):
    """The text encoder of LTX-2.5 in one file: Gemma 4 with its config in the metadata (``gemma_config``) and its
    tokenizer among the tensors, and the text projection, which is a part of the checkpoint."""

    prefixes: ClassVar[dict[str, str]] = _FILE_PREFIXES

    @cached_property
    def stated(self) -> dict[str, Any]:
        return parse_json(self.metadata[CONFIG], f"{self.path}: the '{CONFIG}' metadata", ConfigError)

    @property
    def remedy(self) -> str:
        return _ENCODER


CONFIG = "gemma_config"


def is_gemma_file(path: str | Path) -> bool:
    """True for a readable file whose metadata describe a Gemma."""
    if not os.path.isfile(path):
        return False
    try:
        return CONFIG in read_header(Path(path))[0]
    except CheckpointError:
        return False


def read_gemma(path: str | Path) -> Gemma:
    """Read and check the headers of a Gemma folder, or of a text encoder of LTX-2.5. Raises CheckpointError in one
    line."""
    return _read_file(Path(path)) if os.path.isfile(path) else _read_folder(Path(path))


def _read_file(path: Path) -> GemmaFile:
    result = GemmaFile(path, *read_header(path))
    if CONFIG not in result.metadata:
        said = f"a file without '{CONFIG}' in its metadata"
        raise CheckpointError(f"{path}: {said}. {_GEMMA}; for LTX-2.5 its text encoder")
    if not is_gemma4(result.stated):
        found = cut(repr(result.stated.get("model_type")))
        raise ConfigError(f"{path}: model_type of '{CONFIG}' is {found}, expected gemma4_unified. {_ENCODER}")
    _check_packing(result)
    if not any(name in result.tensors for name in IN_FILE):
        raise WeightsError(f"{path}: it holds no tokenizer (tensor {IN_FILE[0]}). {_ENCODER}")
    if unknown := sorted(result.components().get("", {})):
        raise WeightsError(f"{path}: {len(unknown)} unknown keys, the first is {cut(unknown[0])}. {_ENCODER}")
    return result


def _read_folder(folder: Path) -> GemmaFolder:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: {_no_folder(folder)}. {_GEMMA}")
    refuse_code(folder)
    tensors: Tensors = {}
    for file in _weights(folder):
        for key, info in read_header(file)[1].items():
            if key in tensors:
                raise WeightsError(f"{folder}: {cut(key)} is in {tensors[key].file.name} and in {file.name}")
            tensors[key] = info
    result = GemmaFolder(folder, {}, tensors)
    _check_kind(result)
    _check_index(folder, tensors)
    if unknown := sorted(result.components().get("", {})):
        raise WeightsError(f"{folder}: {len(unknown)} unknown keys, the first is {cut(unknown[0])}. {_GEMMA}")
    return result


def check_gemma(path: str | Path) -> Gemma:
    """All that can be known of a Gemma before it is used: headers, config, tokenizer. Raises CheckpointError."""
    result = read_gemma(path)
    tokenizer = LTXVGemmaTokenizer(result.path)
    tokens, rows = tokenizer.vocabulary, _rows(result)
    if not _LEAST_USED * rows <= tokens <= rows:
        raise CheckpointError(
            f"{tokenizer.file}: {tokens:,} tokens, and the weights know {rows:,}: the tokenizer is of "
            f"another model. {result.remedy}"
        )
    return result


def _rows(gemma: Gemma) -> int:
    """The number of tokens that the weights have an embedding for."""
    key = gemma.components().get("gemma", {}).get("embed_tokens.weight")
    if key is None:
        raise WeightsError(f"{gemma.path}: it has no embed_tokens.weight. {gemma.remedy}")
    return gemma.tensors[key].shape[0] if gemma.tensors[key].shape else 0


def refuse_code(folder: str | Path) -> None:
    """Raises CheckpointError for a folder whose config names code to run: mlx-lm runs what ``model_file`` names, and
    transformers what ``auto_map`` names."""
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        file = Path(folder) / name
        if file.exists():
            for key in ("model_file", "auto_map"):
                if read_json(file).get(key):
                    raise CheckpointError(f"{file}: '{key}' names code that would be run. {_GEMMA}")


def _no_folder(path: Path) -> str:
    if not path.exists():
        return "no such folder"
    try:
        check_regular(path)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    return "not a folder"


def _weights(folder: Path) -> list[Path]:
    """The files of weights, by the index where there is one. They are all in the folder itself."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return _without_index(folder)
    files = []
    for name in sorted(set(_named(index).values())):
        file = folder / name
        plain = Path(name).name == name and name not in (".", "..") and "\\" not in name and name.isprintable()
        if not plain or len(os.fsencode(name)) > _LONGEST_NAME:
            raise CheckpointError(f"{index}: it names {cut(name)!r}, which is not in the folder. {_GEMMA}")
        if file.is_symlink() and not _stays(file, folder):
            raise CheckpointError(f"{file}: a link to a file outside of the folder. {_GEMMA}")
        if not file.exists():
            raise CheckpointError(f"{file}: no such file, and {index.name} names it. Download the folder again")
        files.append(file)
    return files


def _without_index(folder: Path) -> list[Path]:
    """The files of weights of a folder that has no index: ``model.safetensors``, all shards of one model, or the one
    file that there is. Raises CheckpointError."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    found = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith(("adapter_", ".")))
    shards = [match for path in found if (match := _SHARD.fullmatch(path.name))]
    if found and len(shards) == len(found) and len({(match[1], match[3]) for match in shards}) == 1:
        lacking = set(range(1, int(shards[0][3]) + 1)) - {int(match[2]) for match in shards}
        if lacking:
            raise CheckpointError(f"{folder}: shard {min(lacking)} of {int(shards[0][3])} is missing. {_GEMMA}")
        return found
    if len(found) == 1:
        return found
    if other := sorted(path for path in folder.iterdir() if path.is_file() and _WEIGHTS.search(path.name)):
        said = kind_of_file(other[0])
        raise CheckpointError(f"{folder}: its weights are in {cut(other[0].name)}, {said}. {_GEMMA}")
    below = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.json"))
    hint = f"; give the folder of the model itself: {below[0]}?" if below else f". {_GEMMA}"
    raise CheckpointError(f"{folder}: neither model.safetensors.index.json nor model.safetensors{hint}")


def _stays(file: Path, folder: Path) -> bool:
    """True for a link into the folder itself, or into the blobs of Hugging Face's cache that the folder is in."""
    target, home = (Path(os.path.realpath(path)) for path in (file, folder))  # for a loop, resolve() is an error
    blobs = home.parent.parent / "blobs"
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.is_relative_to(blobs))


def _named(index: Path) -> dict[str, str]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{index}: it has no 'weight_map' from keys to files. {_GEMMA}")
    return named


def _check_index(folder: Path, found: Tensors) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    named, held = _named(index), {key: info.file.name for key, info in found.items()}
    if wrong := sorted(key for key in named.keys() | held.keys() if named.get(key) != held.get(key)):
        first = cut(wrong[0])
        raise WeightsError(f"{folder}: index and shards do not agree on {len(wrong)} keys, the first is {first}")


def _is_affine(said: object) -> bool:
    """True for what MLX writes of weights that it packed as ``scale · q + bias``."""
    return isinstance(said, dict) and "quant_method" not in said and said.get("mode", "affine") == "affine"


def _check_packing(gemma: Gemma) -> None:
    """Raises ConfigError for a Gemma whose weights are packed, but by MLX."""
    config, how = gemma.stated, packed({key: info.dtype for key, info in gemma.tensors.items()})
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for key in _QUANTIZED:
            said = place.get(key)
            if said and not (how == BY_MLX and _is_affine(said)):
                said = said if isinstance(said, dict) else {}
                named = said.get("quant_method", f"{said.get('bits', 'a few')} bits")
                lacks = ", and none of its weights is packed" if how is None and _is_affine(said) else ""
                what = f"a quantized Gemma ({cut(str(named), 40)}){lacks or ', which is not read here'}"
                raise ConfigError(f"{gemma.path}: {what}. {gemma.remedy}")
    if how and how != BY_MLX:
        raise ConfigError(f"{gemma.path}: a Gemma whose weights are {how}, which is not read here. {gemma.remedy}")


def _check_kind(folder: GemmaFolder) -> None:
    """Raises ConfigError for another model."""
    _check_packing(folder)
    found = folder.stated.get("model_type")
    if found not in ("gemma3", "gemma3_text") and not is_gemma4(folder.stated):
        raise ConfigError(
            f"{folder.path}: model_type is {cut(repr(found))}, expected gemma3 or gemma4_unified. {_GEMMA}"
        )
