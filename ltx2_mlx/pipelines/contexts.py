"""Encoded prompts in a file, so that Gemma is not needed for them again.

A file belongs to all that made it: the text side of the checkpoint, Gemma, the dtype and the options. It is kept with
the contexts and compared where they are loaded; what was made otherwise is refused, because it would give another
video without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..config import EmbeddingsProcessorConfig
from ..config.reading import cut, parse_json
from ..errors import CheckpointError, InputError, MediaError
from ..loading.checkpoint import Checkpoint, CheckpointPath, read_checkpoint
from ..loading.header import Arrays, read_header
from ..loading.identity import Identity, gemma_side, text_side
from ..media.outputs import whole_file
from ..nn.finite import all_finite
from ..text.embeddings import EmbeddingsProcessorOutput
from ..text.tokenizer import MAX_LENGTH

FORMAT = "ltx2-mlx-contexts/2"
_OLD = "ltx2-mlx-contexts/1"
Contexts = dict[str, EmbeddingsProcessorOutput]
_AGAIN = "Delete it, and it is made again; or give another --context"


def save_contexts(
    path: str | Path,
    prompts: list[str],
    outputs: list[EmbeddingsProcessorOutput],
    checkpoint_path: CheckpointPath,
    gemma_root: str | Path,
    *,
    early_layers_only: bool = False,
) -> None:
    """Write contexts with their prompts to one ``.safetensors`` file. Where it is loaded, Gemma is not needed for them.

    checkpoint_path, gemma_root, early_layers_only: what they were made with, by ``encode_prompts``.
    """
    if len(prompts) != len(outputs):
        raise InputError(f"{len(outputs)} contexts for {len(prompts)} prompts")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the file of contexts must be named .safetensors")
    arrays: dict[str, mx.array] = {}
    for i, output in enumerate(outputs):
        arrays |= {f"{i}.{name}": value for name, value in output._asdict().items() if value is not None}
    made: dict[str, Any] = {"prompts": list(prompts), "early_layers_only": early_layers_only}
    for name, side in (("checkpoint", text_side(checkpoint_path)), ("gemma", gemma_side(gemma_root))):
        made[name] = {"sha256": side.digest, "state": side.state}
    version = read_checkpoint(checkpoint_path).version
    metadata = {"format": FORMAT, "model_version": version, "made": json.dumps(made)}
    with whole_file(path) as part:
        try:
            mx.save_safetensors(str(part), arrays, metadata)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written ({error})") from None
        if part.stat().st_size <= sum(array.nbytes for array in arrays.values()):
            raise MediaError(f"{path}: cannot be written: the disk is full")


def load_contexts(
    path: str | Path,
    checkpoint_path: CheckpointPath,
    gemma_root: str | Path | None = None,
    dtype: mx.Dtype = mx.bfloat16,
    *,
    early_layers_only: bool = False,
) -> Contexts:
    """Read a file of ``save_contexts``: prompt → context. Raises CheckpointError for another kind of file, for a
    damaged one, and for one that was not made with the same text side, dtype and options.

    gemma_root: None where Gemma is not on this machine; then it is not compared. The files' bytes are read to compare
    them only where the file system says that they are not those of the run that made the contexts.
    """
    path = Path(path)
    metadata, tensors = read_header(path)
    if (found := metadata.get("format")) == _OLD:
        raise CheckpointError(f"{path} does not say what made it, as files of older versions. {_AGAIN}")
    if found != FORMAT:
        said = "none" if found is None else cut(repr(found))
        raise CheckpointError(f"{path}: not a file of contexts (its format is {said}, expected {FORMAT!r})")
    checkpoint = read_checkpoint(checkpoint_path)
    if (made := metadata.get("model_version", "")).split(".")[:2] != checkpoint.version.split(".")[:2]:
        raise CheckpointError(
            f"{path} was made with LTX-2 version {cut(made)}, and {checkpoint_path} is version {checkpoint.version}. "
            f"{_AGAIN}"
        )
    content = _content(metadata, path)
    if content["early_layers_only"] != early_layers_only:
        made = "with" if content["early_layers_only"] else "without"
        raise CheckpointError(f"{path} was made {made} --early-layers-only. {_AGAIN}")
    _compare(path, content["checkpoint"], text_side(checkpoint_path), checkpoint_path)
    if gemma_root is not None:
        _compare(path, content["gemma"], gemma_side(gemma_root), gemma_root)
    return _contexts(path, content["prompts"], dict(Arrays(tensors)), checkpoint, dtype)


def _content(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """What a file says of its contexts, each value of its type."""
    content = parse_json(metadata.get("made", "{}"), f"{path}: its 'made' metadata")
    prompts = content.get("prompts")
    sides = [content.get(name) for name in ("checkpoint", "gemma")]
    right = (
        isinstance(prompts, list)
        and all(isinstance(prompt, str) for prompt in prompts)
        and len(set(prompts)) == len(prompts) > 0
        and isinstance(content.get("early_layers_only"), bool)
        and all(isinstance(s, dict) and isinstance(s.get("sha256"), str) and "state" in s for s in sides)
    )
    if not right:
        raise CheckpointError(f"{path}: damaged: it does not say which prompts it has and what made them. {_AGAIN}")
    return content


def _compare(path: Path, made: dict[str, Any], found: Identity, name: CheckpointPath) -> None:
    """Raises CheckpointError where the weights are not those that made the contexts."""
    if made["state"] != [list(state) for state in found.state] and made["sha256"] != found.digest:
        raise CheckpointError(f"{path} was made with other text weights than those of {name}. {_AGAIN}")


def _contexts(
    path: Path, prompts: list[str], arrays: dict[str, mx.array], checkpoint: Checkpoint, dtype: mx.Dtype
) -> Contexts:
    fields = EmbeddingsProcessorOutput._fields
    config = EmbeddingsProcessorConfig.from_metadata(checkpoint.config)
    widths = (config.video_connector.inner_dim, config.audio_connector.inner_dim)
    shapes = [(1, MAX_LENGTH, width) for width in widths] + [(1, MAX_LENGTH)]
    result = {}
    for i, prompt in enumerate(prompts):
        if missing := next((name for name in fields if f"{i}.{name}" not in arrays), None):
            raise CheckpointError(f"{path}: damaged: {missing} of prompt {i} is missing. {_AGAIN}")
        video, audio, mask = values = [arrays.pop(f"{i}.{name}") for name in fields]
        for name, value, shape in zip(fields, values, shapes, strict=True):
            if value.shape != shape:
                raise CheckpointError(f"{path}: {name} of prompt {i} is {value.shape}, expected {shape}. {_AGAIN}")
            if not all_finite(value).item():
                raise CheckpointError(f"{path}: damaged: {name} of prompt {i} holds NaN or ∞. {_AGAIN}")
        for kind in (video.dtype, audio.dtype):
            if kind != dtype:
                found, wanted = (str(name).removeprefix("mlx.core.") for name in (kind, dtype))
                raise CheckpointError(f"{path} was made with --dtype {found}, and this run has {wanted}. {_AGAIN}")
        if mask.dtype not in _MASKS or not mx.array_equal(mask, mx.ones_like(mask)).item():
            raise CheckpointError(f"{path}: damaged: the mask of prompt {i} is not 1 everywhere. {_AGAIN}")
        result[prompt] = EmbeddingsProcessorOutput(video, audio, mask)
    if arrays:
        raise CheckpointError(f"{path}: damaged: {cut(next(iter(arrays)))} belongs to no prompt. {_AGAIN}")
    return result


_MASKS = (mx.int32, mx.int64, mx.float32, mx.float16, mx.bfloat16)
