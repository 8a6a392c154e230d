"""Gemma 4 beside what is no stage: transformers' whole model, its saved folder, and the way from text to contexts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ltx2_mlx
from ltx2_mlx.loading.checkpoint import CheckpointFiles
from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.pipelines.prompts import encode_prompts
from parity.declare.inputs import GEMMA4
from parity.sides.torch import Gemma4Tokenizer, Torch
from parity.sides.torch.transformers import Transformers

PROMPT = "Two sailors argue quietly on the pier: 🦊 <image_soft_token> and <bos>"


@pytest.fixture(scope="module")
def reference(checkpoints: Path) -> Any:
    return Transformers().load("gemma", GEMMA4, read_gemma(GEMMA4).config, "float32")


@pytest.fixture(scope="module")
def whole(reference: Any) -> Any:
    """transformers' own model of text, images and audio, with the fixture's text model in it."""
    from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration

    sizes = {
        "vision_config": {"mm_embed_dim": 8, "patch_size": 2, "mm_posemb_size": 6, "output_proj_dims": 8},
        "audio_config": {"audio_embed_dim": 10},
    }
    config = read_gemma(GEMMA4).config
    text = config["text_config"] | {"dtype": "float32"}
    said = Gemma4UnifiedConfig.from_dict(config | sizes | {"text_config": text})
    model = Gemma4UnifiedForConditionalGeneration(said).eval()
    model.model.language_model.load_state_dict(reference.state_dict())
    return model


def test_the_stage_s_reference_is_the_text_model_as_the_whole_model_calls_it(reference: Any, whole: Any) -> None:
    ids, mask = (torch.from_numpy(x) for x in Gemma4Tokenizer(str(GEMMA4), 64).encode([PROMPT]))
    assert 7 in ids[0].tolist(), "an image's token is in it"
    with torch.no_grad():
        found = whole.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        states = reference(ids, mask)
    assert len(found.hidden_states) == len(states) == 8
    assert torch.equal(found.last_hidden_state, states[-1])
    assert all(torch.equal(a, b) for a, b in zip(found.hidden_states[:-1], states[:-1], strict=True))


def test_the_folder_that_transformers_saves_is_read(whole: Any, tmp_path: Path) -> None:
    whole.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(bytes(load_file(GEMMA4)["tokenizer_json"].tolist()))
    ids = mx.array([[0, 2, 17, 300, 7]])
    mask = mx.array([[0, 1, 1, 1, 1]])
    both = (ltx2_mlx.load("gemma", path, mx.float32)(ids, mask) for path in (tmp_path, GEMMA4))
    assert all(mx.array_equal(a, b) for a, b in zip(*both, strict=True))


def test_a_prompt_becomes_the_reference_s_contexts(
    reference: Any, checkpoints: Path, tmp_path: Path, short_prompts: None
) -> None:
    """The whole way from text on, free-running: tokens by the rules, transformers' states, ltx-core's projection and
    connectors with 2.5's weights."""
    connectors = checkpoints / "tiny-2.5-transformer.safetensors"
    files = CheckpointFiles(transformer_path=connectors, text_encoder_path=GEMMA4)
    ours = encode_prompts([PROMPT], files, GEMMA4, mx.float32)[0]
    projection = {k: t for k, t in load_file(GEMMA4).items() if k.startswith("text_embedding_projection.")}
    metadata = ltx2_mlx.read_checkpoint(connectors).metadata
    save_file(load_file(connectors) | projection, tmp_path / "joined.safetensors", metadata)
    processor = Torch().load(
        "embeddings_processor", tmp_path / "joined.safetensors", json.loads(metadata["config"]), "float32"
    )
    ids, mask = (torch.from_numpy(x) for x in Gemma4Tokenizer(str(GEMMA4), 128).encode([PROMPT]))
    with torch.no_grad():
        wanted = processor.process_hidden_states(reference(ids, mask), mask)
    for name in ("video_encoding", "audio_encoding"):
        a, b = np.array(getattr(ours, name)), getattr(wanted, name).numpy()
        assert a.shape == b.shape and np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
