"""Folders of Gemma 3 as Hugging Face lays them out, in every layout that keeps the text model's weights whole."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..config.reading import cut, read_json
from ..errors import CheckpointError, ConfigError, WeightsError
from ..text.tokenizer import LTXVGemmaTokenizer
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
_WITHIN_TEXT = re.compile(r"(layers\.\d+|embed_tokens|norm)\.")
# Gemma 3 has 262,145 tokens and 262,208 embeddings; Gemma 2, the nearest other model, has 256,000 tokens.
_LEAST_USED = 0.98
_QUANTIZED = ("quantization", "quantization_config")
_GEMMA = "Use the official google/gemma-3-12b-it folder, or one with the same weights"


@dataclass(frozen=True)
class GemmaFolder(Checkpoint):
    """A Gemma 3 folder: ``config.json``, and one file or shards with their index. Only headers are read."""

    path: Path
    prefixes: ClassVar[dict[str, str]] = GEMMA_PREFIXES

    @cached_property
    def stated(self) -> dict[str, Any]:
        """All of ``config.json``."""
        return read_json(self.path / "config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` without how the weights are packed: each layer's shapes say that."""
        return {key: value for key, value in self.stated.items() if key not in _QUANTIZED}

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

    def components(self) -> dict[str, dict[str, str]]:
        by_length = sorted(GEMMA_PREFIXES, key=len, reverse=True)
        result: dict[str, dict[str, str]] = {}
        for key in self.tensors:
            prefix = next(prefix for prefix in by_length if key.startswith(prefix))
            path, component = key[len(prefix) :], GEMMA_PREFIXES[prefix]
            if component == "gemma" and not _WITHIN_TEXT.match(path):
                component = ""
            other = result.setdefault(component, {}).setdefault(path, key)
            if component == "gemma" and other != key:
                raise WeightsError(f"{self.path}: {cut(other)} and {cut(key)} are the same weight twice. {_GEMMA}")
        return result


def read_gemma(folder: str | Path) -> GemmaFolder:
    """Read and check the headers of a Gemma 3 folder. Raises CheckpointError in one line."""
    folder = Path(folder)
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


def check_gemma(folder: str | Path) -> GemmaFolder:
    """All that can be known of a Gemma folder before it is used: headers, config, tokenizer. Raises CheckpointError."""
    result = read_gemma(folder)
    tokens, rows = LTXVGemmaTokenizer(result.path).vocabulary, _rows(result)
    if not _LEAST_USED * rows <= tokens <= rows:
        raise CheckpointError(
            f"{result.path / 'tokenizer.json'}: {tokens:,} tokens, and the weights know {rows:,}: the tokenizer is of "
            f"another model. {_GEMMA}"
        )
    return result


def _rows(folder: GemmaFolder) -> int:
    """The number of tokens that the weights have an embedding for."""
    key = folder.components().get("gemma", {}).get("embed_tokens.weight")
    if key is None:
        raise WeightsError(f"{folder.path}: it has no embed_tokens.weight. {_GEMMA}")
    return folder.tensors[key].shape[0] if folder.tensors[key].shape else 0


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
        with path.open("rb") as file:
            named = file.read(9)[8:] != b"{"
        return f"a file, {kind_of_file(path)}" if named and path.stat().st_size else "a file"
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _weights(folder: Path) -> list[Path]:
    """The files of weights, by the index where there is one. They are all in the folder itself."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        if (folder / "model.safetensors").exists():
            return [folder / "model.safetensors"]
        other = sorted(path.name for path in folder.iterdir() if path.suffix in (".gguf", ".bin", ".pth", ".npz"))
        if other:
            said = kind_of_file(folder / other[0])
            raise CheckpointError(f"{folder}: its weights are in {cut(other[0])}, {said}. {_GEMMA}")
        raise CheckpointError(f"{folder}: neither model.safetensors.index.json nor model.safetensors. {_GEMMA}")
    files = []
    for name in sorted(set(_named(index).values())):
        file = folder / name
        if Path(name).name != name or name in (".", "..") or "\\" in name or not name.isprintable():
            raise CheckpointError(f"{index}: it names {cut(name)!r}, which is not in the folder. {_GEMMA}")
        if file.is_symlink() and not _stays(file, folder):
            raise CheckpointError(f"{file}: a link to a file outside of the folder. {_GEMMA}")
        if not file.exists():
            raise CheckpointError(f"{file}: no such file, and {index.name} names it. Download the folder again")
        files.append(file)
    return files


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


def _check_kind(folder: GemmaFolder) -> None:
    """Raises ConfigError for another model, and for one whose weights are packed, but by MLX."""
    config, how = folder.stated, packed({key: info.dtype for key, info in folder.tensors.items()})
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for key in _QUANTIZED:
            said = place.get(key)
            if said and not (how == BY_MLX and _is_affine(said)):
                said = said if isinstance(said, dict) else {}
                named = said.get("quant_method", f"{said.get('bits', 'a few')} bits")
                lacks = ", and none of its weights is packed" if how is None and _is_affine(said) else ""
                what = f"a quantized Gemma ({cut(str(named), 40)}){lacks or ', which is not read here'}"
                raise ConfigError(f"{folder.path}: {what}. {_GEMMA}")
    if how and how != BY_MLX:
        raise ConfigError(f"{folder.path}: a Gemma whose weights are {how}, which is not read here. {_GEMMA}")
    if config.get("model_type") not in ("gemma3", "gemma3_text"):
        raise ConfigError(
            f"{folder.path}: model_type is {cut(repr(config.get('model_type')))}, expected gemma3. {_GEMMA}"
        )
