"""Gemma and the connectors of ``mlx-video-with-audio``, as components of its side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_video.models.ltx.text_encoder import Embeddings1DConnector, GemmaFeaturesExtractor, LTX2TextEncoder
from mlx_video.models.ltx.text_encoder import LanguageModel as Gemma
from mlx_vlm.models.gemma3.config import TextConfig

from ..port import NotComparableError, Part

Config = dict[str, Any]
STATES = 8  # of the tiny Gemma: before each of 7 layers, and after the last norm


class States(nn.Module):
    """Its Gemma, with nothing but its hidden states as the result."""

    def __init__(self, config: Config):
        super().__init__()  # type: ignore[no-untyped-call]
        self.language_model = Gemma(TextConfig.from_dict(config["text_config"]))

    def __call__(self, input_ids: mx.array, attention_mask: mx.array) -> tuple[mx.array, ...]:
        _, states = self.language_model(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return tuple(states)


def encoder(config: Config) -> Any:
    """Its text encoder without Gemma, made as ``LTX2TextEncoder.load`` makes it of these weights."""
    t = config["transformer"]
    width, heads, dim = t["caption_channels"], t["connector_num_attention_heads"], t["connector_attention_head_dim"]
    model = LTX2TextEncoder(width, num_layers=STATES)
    audio = t.get("audio_connector_num_attention_heads", heads), t.get("audio_connector_attention_head_dim", dim)
    sizes = {"video_embeddings_connector": (heads, dim), "audio_embeddings_connector": audio}
    for name, (count, size) in sizes.items():
        connector = Embeddings1DConnector(
            dim=count * size,
            num_heads=count,
            head_dim=size,
            num_layers=t["connector_num_layers"],
            num_learnable_registers=t["connector_num_learnable_registers"],
            positional_embedding_max_pos=t["connector_positional_embedding_max_pos"],
            apply_gated_attention=bool(t.get("connector_apply_gated_attention", False)),
        )
        setattr(model, name, connector)
    if t.get("caption_proj_before_connector"):
        model.feature_extractor_variant = "v2"
        model.audio_feature_extractor = GemmaFeaturesExtractor(width * STATES, width)
        for extractor, (count, size) in zip(
            (model.feature_extractor, model.audio_feature_extractor), sizes.values(), strict=True
        ):
            extractor.aggregate_embed = nn.Linear(width * STATES, count * size)
    return model


def contexts(model: Any, case: SimpleNamespace) -> Any:
    """Its own way from a prompt to contexts, with the case's states in place of Gemma's."""
    if case.padding_side != "left":
        raise NotComparableError("it pads on the left, always")
    mask = np.array(case.attention_mask)
    model.processor = lambda *args, **options: {"input_ids": np.zeros_like(mask), "attention_mask": mask}
    model.language_model = lambda **options: (None, list(case.hidden_states))
    return model("")


COMPONENTS = {
    "gemma": Part(
        States,
        lambda model, case: model(case.input_ids, case.attention_mask),
        ((r"^(?=embed_tokens|layers|norm)", "language_model.model."),),
        taps={"embed_tokens": None},  # scaled afterwards, outside
    ),
    "embeddings_processor": Part(
        encoder,
        contexts,
        (
            (r"^(video|audio)_connector", r"\1_embeddings_connector"),
            (r"feature_extractor\.video_aggregate_embed", "feature_extractor.aggregate_embed"),
            (r"feature_extractor\.audio_aggregate_embed", "audio_feature_extractor.aggregate_embed"),
            (r"ff\.net\.0\.proj", "ff.proj_in"),
            (r"ff\.net\.2", "ff.proj_out"),
            (r"to_out\.0", "to_out"),
        ),
        entry="process_hidden_states",
    ),
}
