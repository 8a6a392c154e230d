"""Checks for what is known to go wrong on the text side, made on the file and our own hidden states alone."""

from __future__ import annotations

from math import sqrt

import mlx.core as mx
import numpy as np

from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

from ..declare.inputs import normal
from .measures import correlation, distance
from .subject import Subject


def embedding(subject: Subject, hidden: list[np.ndarray], prompt: str) -> str | None:
    """Hidden state 0 is the file's embedding times √hidden."""
    ids = np.array(LTXVGemmaTokenizer(subject.gemma, padding_side="right").encode(prompt)[0])[0, : len(hidden[0])]
    arrays = read_gemma(subject.gemma).arrays()
    rows = subject.as_numpy(arrays["language_model.model.embed_tokens.weight"][mx.array(ids)])
    likeness = correlation(hidden[0], rows)
    if likeness < 0.999:
        return (
            f"Hidden state 0 is not the embedding (r {likeness:.2f}): states are taken after each layer instead of "
            "before it, and unlike prompts come out alike."
        )
    scale, expected = float(np.sum(hidden[0] * rows) / np.sum(rows * rows)), sqrt(rows.shape[1])
    if abs(scale / expected - 1) > 0.01:
        return (
            f"The embedding is multiplied by {scale:.3g} where √hidden is {expected:.4g}: its scale is missing, and "
            "unlike prompts come out alike."
        )
    return None


def states(subject: Subject, hidden: list[np.ndarray]) -> str | None:
    if twins := [i for i in range(1, len(hidden)) if np.array_equal(hidden[i], hidden[i - 1])]:
        return f"{len(twins) + 1} of {len(hidden)} hidden states are the same."
    weight = subject.as_numpy(read_gemma(subject.gemma).arrays()["language_model.model.norm.weight"])
    rms = float(np.sqrt(np.mean(np.square(hidden[-1] / (1 + weight), dtype=np.float64))))
    if abs(rms - 1) > 0.02:
        found = f"rms {rms:.3g} without the norm's weight, expected 1"
        return f"The last hidden state did not go through the final norm ({found})."
    return None


def used(subject: Subject) -> str | None:
    """Each hidden state must move the features."""
    processor = subject.load("ours", "embeddings_processor")
    count, width = processor.num_hidden_states, subject.config["transformer"]["caption_channels"]
    states = [mx.array(normal(f"debug:state:{i}", 1, 128, width)) for i in range(count)]
    mask = mx.ones((1, 128), mx.int32)

    def features(changed: int | None = None) -> np.ndarray:
        given = [x[:, ::-1] if i == changed else x for i, x in enumerate(states)]
        return subject.numpy("ours", processor.feature_extractor(given, mask, "left")[0])

    before = features()
    moving = sum(distance(features(i), before) > 1e-6 for i in range(count))
    if moving < count:
        follows = "the video follows the prompt's colours and not its objects"
        return f"The features depend on {moving} of {count} hidden states: {follows}."
    return None
