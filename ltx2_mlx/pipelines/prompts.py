"""Encodes prompts as contexts, with one text model in memory at a time.

``encode_prompts`` is ``ltx_pipelines.utils.helpers.encode_prompts``: Gemma first, for every prompt; when it has been
released, the embeddings processor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from ..config import EmbeddingsProcessorConfig, read_gemma_config
from ..config.reading import cut
from ..distributed.ranks import Ranks, together
from ..errors import CheckpointError, InputError, NotFiniteError
from ..loading.checkpoint import Checkpoint, CheckpointPath, check_gemma_version, read_checkpoint
from ..loading.gemma import Gemma, read_gemma
from ..loading.load import build, load
from ..nn.finite import all_finite
from ..text.embeddings import EmbeddingsProcessor, EmbeddingsProcessorOutput
from ..text.tokenizer import LTXVGemmaTokenizer


def encode_prompts(
    prompts: list[str],
    checkpoint_path: CheckpointPath,
    gemma_root: str | Path,
    dtype: mx.Dtype = mx.bfloat16,
    *,
    padding_side: str = "left",
    early_layers_only: bool = False,
    low_memory: bool = False,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[EmbeddingsProcessorOutput]:
    """A context for each prompt, video ``(1, 1024, Dv)`` and audio ``(1, 1024, Da)``.

    Both text models are released before this returns: Gemma 12B takes 24 GB in bfloat16, and 3 GB with low_memory,
    which reads each layer again for every prompt. padding_side "right" and
    early_layers_only (the input embeddings in place of every hidden state) are diagnostics: neither is how the networks
    were trained. ranks: the text models are split over them. ``progress(done, total)`` is called for each prompt.
    Raises CheckpointError for files that do not fit, InputError for no prompts, NotFiniteError where a context holds
    NaN or ∞.
    """
    if not prompts:
        raise InputError("no prompts were given, expected at least one")
    check_text_models(read_gemma(gemma_root), read_checkpoint(checkpoint_path))
    states, masks = _hidden_states(
        prompts, gemma_root, dtype, padding_side, early_layers_only, low_memory, ranks, progress
    )
    mx.clear_cache()
    processor = load("embeddings_processor", checkpoint_path, dtype, paged=low_memory, ranks=ranks)
    outputs = []
    while states:  # each prompt's states, 400 MB at full size, go as soon as they are used
        with together(ranks):
            outputs.append(processor.process_hidden_states(states.pop(0), masks.pop(0), padding_side))
            finite = [all_finite(part) for part in outputs[-1] if part is not None]
            mx.eval(outputs[-1], finite)
        if not all(flag.item() for flag in finite):
            raise NotFiniteError(f"encoding {cut(repr(prompts[len(outputs) - 1]))} gave NaN or infinite numbers")
    del processor
    mx.clear_cache()
    return outputs


def check_text_models(gemma: Gemma, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where a Gemma is another, or has other hidden states, than the checkpoint was made for."""
    check_gemma_version(checkpoint, gemma)
    found, (processor, _) = read_gemma_config(gemma.config), build("embeddings_processor", checkpoint)
    assert isinstance(processor, EmbeddingsProcessor)
    count, width = found.num_hidden_layers + 1, EmbeddingsProcessorConfig.from_metadata(checkpoint.config).hidden_size
    if (count, found.hidden_size) != (processor.num_hidden_states, width):
        raise CheckpointError(
            f"{gemma.path} gives {count} hidden states of width {found.hidden_size}; {checkpoint.path} was made for a "
            f"Gemma with {processor.num_hidden_states} of width {width}. Use the Gemma that belongs to the checkpoint"
        )


def _hidden_states(
    prompts: list[str],
    gemma_root: str | Path,
    dtype: mx.Dtype,
    padding_side: str,
    early_layers_only: bool,
    low_memory: bool,
    ranks: Ranks | None,
    progress: Callable[[int, int], None],
) -> tuple[list[tuple[mx.array, ...]], list[mx.array]]:
    """Hidden states and mask of each prompt, computed before Gemma is released at the end of this function."""
    tokenizer = LTXVGemmaTokenizer(gemma_root, padding_side=padding_side)
    gemma = load("gemma", gemma_root, dtype, paged=low_memory, ranks=ranks)
    states, masks = [], []
    for i, prompt in enumerate(prompts):
        progress(i, len(prompts))
        ids, mask = tokenizer.encode(prompt)
        masks.append(mask)
        with together(ranks):
            states.append(gemma(ids, mask, early_layers_only=early_layers_only))
            mx.eval(states[-1])
    progress(len(prompts), len(prompts))
    return states, masks
