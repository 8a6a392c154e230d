"""Gemma 3 as ltx-core runs it, and Gemma 4: every leaf module of every layer, and every hidden state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..inputs import uniform
from ..model import Case, Counterparts, Data, FunctionTap, Stage

_REF, _OURS = "transformers.models.gemma3.modeling_gemma3", "ltx2_mlx.text.gemma3"
_REF4, _OURS4 = "transformers.models.gemma4_unified.modeling_gemma4_unified", "ltx2_mlx.text.gemma4"


def _is_gemma4(config: dict[str, Any]) -> bool:
    return str(config.get("model_type")).startswith("gemma4")


def _prompts(
    name: str, vocabulary: int, tokens: int, lengths: tuple[int, ...], side: str, standing: tuple[int, ...]
) -> dict[str, Data]:
    """Random ids, pads (0) on one side, BOS (2) before the text. standing: ids that stand for an image or audio, in the
    longest text."""
    ids = (3 + uniform(name, len(lengths), tokens) * (vocabulary - 3)).astype(np.int64)
    token, length = np.arange(tokens)[None], np.array(lengths)[:, None]
    first = tokens - length if side == "left" else np.zeros_like(length)
    mask = (token >= first) & (token < first + length)
    ids = np.where(token == first, 2, np.where(mask, ids, 0))
    longest = int(np.argmax(lengths))
    last = int(np.flatnonzero(mask[longest])[-1])
    for i, placeholder in enumerate(standing):
        ids[longest, last - 2 * i] = placeholder
    return {"input_ids": Data(ids, "none"), "attention_mask": Data(mask.astype(np.int64), "none")}


# One windowed layer, the global one after it, the tables of both, and the end.
_LONG = ("embed_tokens", "rotary_emb", "layers.1", "layers.2", "layers.?.self_attn", "norm", "*TextModel")


def cases(config: dict[str, Any]) -> dict[str, Case]:
    """Batches of unequal lengths, one of them whole: transformers drops the mask of a batch without pads."""
    vocabulary = config["text_config"]["vocab_size"]
    named = ("image_token_id", "video_token_id", "audio_token_id")
    standing = tuple(config[key] for key in named) if _is_gemma4(config) else ()

    def case(name: str, tokens: int, lengths: tuple[int, ...], side: str = "left", half: bool = False) -> Case:
        return Case(_prompts(name, vocabulary, tokens, lengths, side, standing), half=half)

    first = case("base", 17, (17, 11, 2), half=True)  # the window is 5
    return {
        "base": replace(first, after=("other", "right", "base@bfloat16")),
        "right": case("right", 13, (13, 6, 1), "right"),
        "pads": case("pads", 300, (9,)),  # far from position 0
        "long": replace(case("long", 1091, (1091, 1037)), taps=_LONG),
        # In turn with the first: the same sizes, other tokens and pads.
        "other": replace(case("other", 17, (3, 17, 8)), isolated=False, after=("base",)),
    }


GEMMA = Stage(
    name="gemma",
    component="gemma",
    fits=lambda config: not _is_gemma4(config),
    cases=cases,
    classes={},
    configs=("tiny-gemma",),
    functions=(
        FunctionTap(
            "apply_rotary_pos_emb", Counterparts(f"{_REF}:apply_rotary_pos_emb", f"{_OURS}:apply_rotary_pos_emb")
        ),
    ),
    probes=("*norm",),
    exact=("embed_tokens",),
    reference_only={
        "layers.*:position_ids": "the layers do not use them; the tables are made of them",
        "layers.*:kwargs.position_ids": "the same",
    },
    folder=True,
)

GEMMA4 = replace(
    GEMMA,
    name="gemma4",
    reference="transformers",
    fits=_is_gemma4,
    configs=("tiny-gemma4",),
    functions=(
        FunctionTap(
            "apply_rotary_pos_emb", Counterparts(f"{_REF4}:apply_rotary_pos_emb", f"{_OURS4}:apply_rotary_pos_emb")
        ),
    ),
    reference_only=GEMMA.reference_only | {"layers.*:shared_kv_states": "no layer shares its keys and values"},
    folder=False,
)
