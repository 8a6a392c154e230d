"""The way from Gemma's hidden states to the contexts: feature extractor, registers, connectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..inputs import normal
from ..model import Case, Counterparts, Data, FunctionTap, Stage

_GEMMA = "ltx_core.text_encoders.gemma"
_ROPE = "ltx_core.model.transformer.rope"
# 2.5's features and connectors are 2.3's, in two files: the reference is the class of 1.0.0 that 2.3 has.
_V1, _V2 = ("tiny-2.0",), ("tiny-2.3", "tiny-2.5-text")
STATES = 8  # of the tiny Gemma: before each of 7 layers, and after the last norm


def _at(reference: str, ours: str, name: str, **flags: Any) -> FunctionTap:
    short = name.rpartition(".")[2]
    return FunctionTap(short, Counterparts(f"{_GEMMA}.{reference}:{name}", f"ltx2_mlx.text.{ours}:{name}"), **flags)


FUNCTIONS = (
    _at("embeddings_processor", "embeddings", "EmbeddingsProcessor.process_hidden_states"),
    _at("embeddings_processor", "embeddings", "EmbeddingsProcessor.create_embeddings"),
    _at("embeddings_processor", "embeddings", "convert_to_additive_mask"),
    _at("embeddings_processor", "embeddings", "_to_binary_mask"),
    _at("feature_extractor", "feature_extractor", "_norm_and_concat_padded_batch", configs=_V1),
    _at("feature_extractor", "feature_extractor", "norm_and_concat_per_token_rms", configs=_V2),
    _at("feature_extractor", "feature_extractor", "_rescale_norm", configs=_V2),
    _at("embeddings_connector", "embeddings", "Embeddings1DConnector._replace_padded_with_learnable_registers"),
    _at("embeddings_connector", "embeddings", "precompute_freqs_cis"),
    FunctionTap(
        "generate_freqs", Counterparts(f"{_ROPE}:generate_freqs", "ltx2_mlx.nn.rope:generate_freqs"), exact=True
    ),
    FunctionTap(
        "split_freqs_cis", Counterparts(f"{_ROPE}:split_freqs_cis", "ltx2_mlx.nn.rope:split_freqs_cis"), wide=True
    ),
    _at("embeddings_connector", "embeddings", "rms_norm"),
    FunctionTap(
        "apply_rotary_emb",
        Counterparts("ltx_core.model.transformer.attention:apply_rotary_emb", "ltx2_mlx.nn.attention:apply_rotary_emb"),
    ),
    FunctionTap(
        "attention_function",
        Counterparts(
            "ltx_core.model.transformer.attention:AttentionFunction.__call__",
            "ltx2_mlx.nn.attention:attention_function",
        ),
    ),
)


def mask(tokens: int, valid: int, side: str) -> np.ndarray:
    """``(1, tokens)``: one prompt of ``valid`` tokens, padded on the left or the right."""
    token = np.arange(tokens)[None]
    return (token >= tokens - valid if side == "left" else token < valid).astype(np.int64)


def hidden_states(name: str, tokens: int, width: int) -> tuple[Data, ...]:
    """Gemma's states grow from layer to layer, have a mean, outliers in one channel, and rows of small variance."""
    states = []
    for i in range(STATES):
        state = normal(f"{name}:{i}", 1, tokens, width) * (1 + 2 * i) + 0.5 * i
        state[..., 3] *= 4
        state[:, ::7] *= 2.0**-8
        states.append(Data(state.astype(np.float32)))
    return tuple(states)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    """One prompt a case, as the reference requires; 128 registers, so 128 tokens or a multiple."""
    width = config["transformer"]["caption_channels"]

    def case(name: str, tokens: int, valid: int, side: str = "left", half: bool = False) -> Case:
        kwargs = {
            "hidden_states": hidden_states(name, tokens, width),
            "attention_mask": Data(mask(tokens, valid, side), "none"),
            "padding_side": side,
        }
        return Case(kwargs, method="process_hidden_states", half=half)

    result = {"base": case("base", 128, 11, half=True)}
    if set(config) == {"transformer"}:  # 2.5's file of its own: 2.3's network, whose cell has the other cases
        return result
    result |= {
        "tiles": case("tiles", 256, 139),  # registers twice over, valid tokens in both tiles
        "right": case("right", 128, 23, "right"),
    }
    long = case("long", 1152, 1031)  # more than a prompt has
    result["long"] = replace(
        long, taps=("*generate_freqs", "*process_hidden_states", "*_connector", "*attention_function")
    )
    first = replace(result["base"], after=("other", "right", "base@bfloat16"))
    result |= {"base": first, "other": replace(case("other", 128, 64), isolated=False, after=("base",))}
    if not config["transformer"].get("caption_proj_before_connector"):  # its statistics are of the whole prompt
        result |= {"full": case("full", 128, 128), "empty": case("empty", 128, 1)}  # an empty prompt is one token
    return result


_ONES = "registers have taken the place of pads: every token of the mask is valid"
EMBEDDINGS_PROCESSOR = Stage(
    name="embeddings_processor",
    component="embeddings_processor",
    cases=cases,
    classes={},
    configs=(*_V1, *_V2),
    functions=FUNCTIONS,
    defined=("*generate_freqs",),
    probes=("*norm", "*rms_norm", "*_norm_and_concat_padded_batch", "*per_token_rms"),
    constant={
        "*_replace_padded_with_learnable_registers": _ONES,
        "*_connector": _ONES,
        "*convert_to_additive_mask": "a prompt without pads hides nothing",
    },
)
