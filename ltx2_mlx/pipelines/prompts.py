"""Encodes prompts as contexts, with one text model in memory at a time, and keeps contexts in a file.

``encode_prompts`` is ``ltx_pipelines.utils.helpers.encode_prompts``: Gemma first, for every prompt; when it has been
released, the embeddings processor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError, InputError, MediaError
from ..loading.checkpoint import CheckpointPath, read_checkpoint
from ..loading.load import load
from ..media.outputs import whole_file
from ..text.embeddings import EmbeddingsProcessorOutput
from ..text.tokenizer import LTXVGemmaTokenizer

FORMAT = "ltx2-mlx-contexts/1"


def encode_prompts(
    prompts: list[str],
    checkpoint_path: CheckpointPath,
    gemma_root: str | Path,
    dtype: mx.Dtype = mx.bfloat16,
    *,
    padding_side: str = "left",
    early_layers_only: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[EmbeddingsProcessorOutput]:
    """A context for each prompt, video ``(1, 1024, Dv)`` and audio ``(1, 1024, Da)``.

    Both text models are released before this returns: Gemma 12B takes 24 GB in bfloat16. padding_side "right" and
    early_layers_only (the input embeddings in place of every hidden state) are diagnostics: neither is how the networks
    were trained. ``progress(done, total)`` is called for each prompt. Raises CheckpointError for files that do not fit,
    InputError for no prompts.
    """
    if not prompts:
        raise InputError("no prompts were given, expected at least one")
    states, masks = _hidden_states(prompts, gemma_root, dtype, padding_side, early_layers_only, progress)
    mx.clear_cache()
    processor = load("embeddings_processor", checkpoint_path, dtype)
    width, count = states[0][0].shape[-1], len(states[0])
    if count != processor.num_hidden_states:
        raise CheckpointError(
            f"{gemma_root} gives {count} hidden states of width {width}; {checkpoint_path} was made for a Gemma with "
            f"{processor.num_hidden_states}. Use the Gemma 3 that belongs to the checkpoint"
        )
    outputs = []
    while states:  # each prompt's states, 400 MB at full size, go as soon as they are used
        outputs.append(processor.process_hidden_states(states.pop(0), masks.pop(0), padding_side))
        mx.eval(outputs[-1])
    del processor
    mx.clear_cache()
    return outputs


def _hidden_states(
    prompts: list[str],
    gemma_root: str | Path,
    dtype: mx.Dtype,
    padding_side: str,
    early_layers_only: bool,
    progress: Callable[[int, int], None],
) -> tuple[list[tuple[mx.array, ...]], list[mx.array]]:
    """Hidden states and mask of each prompt, computed before Gemma is released at the end of this function."""
    tokenizer = LTXVGemmaTokenizer(gemma_root, padding_side=padding_side)
    gemma = load("gemma", gemma_root, dtype)
    states, masks = [], []
    for i, prompt in enumerate(prompts):
        progress(i, len(prompts))
        ids, mask = tokenizer.encode(prompt)
        states.append(gemma(ids, mask, early_layers_only=early_layers_only))
        masks.append(mask)
        mx.eval(states[-1])
    progress(len(prompts), len(prompts))
    return states, masks


def save_contexts(
    path: str | Path, prompts: list[str], outputs: list[EmbeddingsProcessorOutput], checkpoint_path: CheckpointPath
) -> None:
    """Write contexts with their prompts to one ``.safetensors`` file. Where it is loaded, Gemma is not needed for them.

    checkpoint_path: the checkpoint that they were made with; its version is kept, and checked when they are loaded.
    """
    if len(prompts) != len(outputs):
        raise InputError(f"{len(outputs)} contexts for {len(prompts)} prompts")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the file of contexts must be named .safetensors")
    arrays: dict[str, mx.array] = {}
    for i, output in enumerate(outputs):
        arrays |= {f"{i}.{name}": value for name, value in output._asdict().items() if value is not None}
    version = read_checkpoint(checkpoint_path).version
    metadata = {"format": FORMAT, "prompts": json.dumps(list(prompts)), "model_version": version}
    with whole_file(path) as part:
        try:
            mx.save_safetensors(str(part), arrays, metadata)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written ({error})") from None
        if part.stat().st_size <= sum(array.nbytes for array in arrays.values()):
            raise MediaError(f"{path}: cannot be written: the disk is full")


def load_contexts(path: str | Path, checkpoint_path: CheckpointPath) -> dict[str, EmbeddingsProcessorOutput]:
    """Read a file of ``save_contexts``: prompt → context. Raises CheckpointError for another kind of file, and for one
    that was made with another version of LTX-2 than ``checkpoint_path``."""
    header = read_checkpoint(path)
    if header.metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a file of contexts (its format is {header.metadata.get('format')!r}, expected {FORMAT!r})"
        )
    made, wanted = header.version, read_checkpoint(checkpoint_path).version
    if made.split(".")[:2] != wanted.split(".")[:2]:
        raise CheckpointError(
            f"{path} was made with LTX-2 version {made}, and {checkpoint_path} is version {wanted}. Give another file"
        )
    arrays = header.arrays()
    result = {}
    for i, prompt in enumerate(json.loads(header.metadata["prompts"])):
        video, audio, mask = (arrays.get(f"{i}.{name}") for name in EmbeddingsProcessorOutput._fields)
        if video is None or mask is None:
            raise CheckpointError(
                f"{path}: the context of prompt {i} is missing. Delete the file, and it is made again"
            )
        result[prompt] = EmbeddingsProcessorOutput(video, audio, mask)
    return result
