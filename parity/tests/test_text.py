"""The text side as a whole, and what the reference cannot be asked: batches, released memory, files of contexts."""

from __future__ import annotations

import functools
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

import ltx2_mlx
from ltx2_mlx.config import EmbeddingsProcessorConfig, Gemma3TextConfig
from ltx2_mlx.errors import CheckpointError, ConfigError, InputError, WeightsError
from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.pipelines import prompts
from ltx2_mlx.pipelines.contexts import load_contexts, save_contexts
from ltx2_mlx.pipelines.prompts import encode_prompts
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
from ltx2_mlx.text.gemma3 import _inverse_frequencies
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer as OurTokenizer
from parity.cli import main
from parity.debug.text import differentiate
from parity.declare.inputs import GEMMA, normal
from parity.sides.torch import Torch

PROMPTS = ["A red fox walks through fresh snow.", "", "Two sailors argue quietly on the pier: 🦊"]


@functools.cache
def reference_encoder() -> Any:
    """ltx-core's own text encoder, every tensor of the fixture folder in it, in float32."""
    from ltx_core.text_encoders.gemma import GemmaTextEncoder
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer
    from safetensors.torch import load_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config.from_dict(json.loads((GEMMA / "config.json").read_text()))
    model = Gemma3ForConditionalGeneration(config).eval()
    tensors = {k: t for file in GEMMA.glob("model-*.safetensors") for k, t in load_file(file).items()}
    renamed = {
        "model." + k.replace("language_model.model.", "language_model.").replace(".vision_model.", "."): t
        for k, t in tensors.items()
    }
    renamed["lm_head.weight"] = renamed["model.language_model.embed_tokens.weight"]
    model.load_state_dict(renamed, strict=True)
    return GemmaTextEncoder(model=model, tokenizer=LTXVGemmaTokenizer(str(GEMMA), 1024))


@functools.cache
def harness_gemma() -> Any:
    return Torch().load("gemma", GEMMA, json.loads((GEMMA / "config.json").read_text()), "float32")


@functools.cache
def encoded_by_the_reference(prompt: str) -> tuple[Any, Any]:
    """The hidden states and the mask, once for all checkpoints; the harness's Gemma gives them too, bit for bit."""
    encoder = reference_encoder()
    states, mask = encoder.encode(prompt)
    ids = [int(token) for token, _ in encoder.tokenizer.tokenize_with_weights(prompt)["gemma"]]
    assert all(torch.equal(a, b) for a, b in zip(states, harness_gemma()(torch.tensor([ids]), mask), strict=True))
    return states, mask


@pytest.mark.parametrize("config", ["tiny-2.0", "tiny-2.3"])
def test_prompt_to_contexts_is_what_ltx_core_gives(config: str, checkpoints: Path) -> None:
    """The whole way from text on, free-running, 1024 tokens; and the harness's Gemma is ltx-core's, bit for bit."""
    path, side = checkpoints / f"{config}.safetensors", Torch()
    processor = side.load("embeddings_processor", path, ltx2_mlx.read_checkpoint(path).config, "float32")
    chosen = PROMPTS[1:] if config == "tiny-2.0" else PROMPTS[2:]
    ours = encode_prompts(chosen, path, GEMMA, mx.float32)
    for prompt, context in zip(chosen, ours, strict=True):
        states, mask = encoded_by_the_reference(prompt)
        wanted = processor.process_hidden_states(states, mask)
        for name in ("video_encoding", "audio_encoding"):
            a, b = np.array(getattr(context, name)), getattr(wanted, name).numpy()
            assert a.shape == b.shape == (1, 1024, b.shape[-1])
            assert np.abs(a - b).max() < 2e-4 and np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
        assert np.array_equal(np.array(context.attention_mask), wanted.attention_mask.numpy())


@functools.cache
def encoded_by_ours(side: str) -> tuple[mx.array, Any, list[Any]]:
    """The prompts' mask, and their hidden states together and one by one, once for all checkpoints."""
    gemma = ltx2_mlx.load("gemma", GEMMA, mx.float32)
    ids, mask = OurTokenizer(GEMMA, max_length=256, padding_side=side).encode(PROMPTS)
    return mask, gemma(ids, mask), [gemma(ids[i : i + 1], mask[i : i + 1]) for i in range(len(PROMPTS))]


@pytest.mark.parametrize("config", ["tiny-2.0", "tiny-2.3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_prompts_one_by_one(config: str, side: str, checkpoints: Path) -> None:
    """The reference's connector takes one prompt at a time; ours must not mix those of a batch."""
    processor = ltx2_mlx.load("embeddings_processor", checkpoints / f"{config}.safetensors", mx.float32)
    mask, states, each = encoded_by_ours(side)
    together = processor.process_hidden_states(states, mask, side)
    for i, own in enumerate(each):
        rows = slice(i, i + 1)
        alone = processor.process_hidden_states(own, mask[rows], side)
        for a, b in zip(together, alone, strict=True):
            assert mx.allclose(a[rows], b, rtol=1e-4, atol=1e-5)


def test_pads_neither_leak_nor_give_nan() -> None:
    gemma = ltx2_mlx.load("gemma", GEMMA, mx.float32)
    ids, mask = OurTokenizer(GEMMA, max_length=64).encode(PROMPTS)
    other = mx.where(mask == 1, ids, 77)
    for a, b in zip(gemma(ids, mask), gemma(other, mask), strict=True):
        valid = mask[:, :, None] == 1
        assert mx.array_equal(mx.where(valid, a, 0), mx.where(valid, b, 0))
        assert mx.isfinite(a).all()


@pytest.mark.parametrize("base", [1e4, 1e6])
def test_frequencies_at_full_size(base: float) -> None:
    """torch's float32 power is one unit off in one place of 128; that is all that may differ."""
    wanted = 1.0 / (base ** (torch.arange(0, 256, 2, dtype=torch.float) / 256))
    found = _inverse_frequencies(base, 1.0, 256)
    assert (found != wanted.numpy()).sum() <= 1
    assert np.allclose(found, wanted.numpy(), rtol=1.3e-7, atol=0)


def test_diagnostics_change_the_contexts(checkpoints: Path, short_prompts: None) -> None:
    path = checkpoints / "tiny-2.0.safetensors"
    plain, right, early = (
        encode_prompts(PROMPTS[:1], path, GEMMA, mx.float32, **flags)[0].video_encoding
        for flags in ({}, {"padding_side": "right"}, {"early_layers_only": True})
    )
    assert not mx.allclose(plain, right, atol=1e-2)
    assert not mx.allclose(plain, early, atol=1e-2)


def test_gemma_is_released_before_the_processor_is_loaded(
    checkpoints: Path, short_prompts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: dict[str, weakref.ref] = {}

    def watched(component: str, *args: object, **options: object) -> object:
        gc.collect()
        assert all(ref() is None for ref in loaded.values()), f"{list(loaded)} still there when {component} is loaded"
        module = ltx2_mlx.load(component, *args, **options)
        loaded[component] = weakref.ref(module)
        return module

    monkeypatch.setattr(prompts, "load", watched)
    encode_prompts(PROMPTS[:2], checkpoints / "tiny-2.0.safetensors", GEMMA, mx.float32)
    gc.collect()
    assert list(loaded) == ["gemma", "embeddings_processor"]
    assert all(ref() is None for ref in loaded.values())


def test_contexts_survive_a_file(checkpoints: Path, tmp_path: Path) -> None:
    path, file = checkpoints / "tiny-2.3.safetensors", tmp_path / "contexts.safetensors"
    outputs = [
        EmbeddingsProcessorOutput(
            *(mx.array(normal(f"{i}:{width}", 1, 1024, width)).astype(mx.bfloat16) for width in (56, 28)),
            mx.ones((1, 1024)),
        )
        for i in range(len(PROMPTS))
    ]
    save_contexts(file, PROMPTS, outputs, path, GEMMA)
    back = load_contexts(file, path)
    assert list(back) == PROMPTS
    for before, after in zip(outputs, back.values(), strict=True):
        assert all(mx.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
    with pytest.raises(CheckpointError, match=r"made with LTX-2 version 2\.3"):
        load_contexts(file, checkpoints / "tiny-2.0.safetensors")
    with pytest.raises(CheckpointError, match="not a file of contexts"):
        load_contexts(path, path)


def test_prompt_differentiation_stands_both_sides_together(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "text.png"
    assert main(["debug", "text", PROMPTS[0], "Two sailors [hum].", "--tokens", "128", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "r(A, B) ours" in out and "r(A, B) reference" in out and "[hum]" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["hidden"], ["video"], ["audio"])]
    assert [row[0] for row in rows] == ["hidden"] * 8 + ["video", "audio"] * 3
    for *_, ours, reference, distance in rows:
        assert float(ours) == pytest.approx(float(reference), abs=2e-6)
        assert -1 < float(ours) < 0.9
        assert float(distance) < 1e-5
    assert plot.stat().st_size > 10_000


def test_prompt_differentiation_sees_what_the_diagnostics_do(checkpoints: Path) -> None:
    pair, path = ("A red fox.", "A blue fox."), checkpoints / "tiny-2.0.safetensors"
    early = differentiate(pair, path, GEMMA, early_layers_only=True, without_reference=True, tokens=128).sites["ours"]
    states = [site.correlation for site in early if site.name.startswith("hidden")]
    assert len(states) == 8 and len(set(states)) == 1
    right = differentiate(pair, path, GEMMA, padding_side="right", without_reference=True, tokens=128).sites["ours"]
    assert right[0].correlation == pytest.approx(early[0].correlation)
    assert all(np.isfinite(site.correlation) for site in right[:10])


def test_prompt_differentiation_wants_both_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug", "text", "a", "b", "--gemma", str(GEMMA)]) == 2
    assert "go together" in capsys.readouterr().err


def folder_with(tmp_path: Path, **changes: object) -> Path:
    """A copy of the Gemma folder; a file given as None is left out, as a function its JSON is changed by it."""
    for file in GEMMA.iterdir():
        change = changes.get(file.name.replace(".", "_"), file.read_bytes)
        if change is not None:
            content = (
                change() if change == file.read_bytes else json.dumps(change(json.loads(file.read_text()))).encode()
            )
            (tmp_path / file.name).write_bytes(content)
    return tmp_path


def test_a_gemma_folder_that_does_not_fit_says_so(tmp_path: Path, checkpoints: Path) -> None:
    def put(**text: object) -> object:
        return lambda config: config | {"text_config": config["text_config"] | text}

    def without(key: str) -> object:
        return lambda index: index | {"weight_map": {k: v for k, v in index["weight_map"].items() if k != key}}

    key = "language_model.model.norm.weight"
    cases = (
        (WeightsError, key, {"model_safetensors_index_json": without(key)}),
        (CheckpointError, "config.json: cannot be read", {"config_json": None}),
        (WeightsError, "missing language_model.model.layers.7", {"config_json": put(num_hidden_layers=8)}),
        (WeightsError, "left over language_model.model.layers.6", {"config_json": put(num_hidden_layers=6)}),
        (WeightsError, "misshaped language_model.model.embed", {"config_json": put(vocab_size=511)}),
        (ConfigError, "attn_logit_softcapping", {"config_json": put(attn_logit_softcapping=30.0)}),
        (ConfigError, "rope_scaling", {"config_json": put(rope_scaling={"rope_type": "yarn", "factor": 8.0})}),
        (ConfigError, "model_type", {"config_json": put(model_type="gemma4_text")}),
    )
    for i, (error, text, changes) in enumerate(cases):
        (tmp_path / str(i)).mkdir()
        with pytest.raises(error, match=text) as raised:
            ltx2_mlx.load("gemma", folder_with(tmp_path / str(i), **changes))
        assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="a file"):
        read_gemma(checkpoints / "tiny-2.0.safetensors")
    for name in ("tokenizer_json", "tokenizer_config_json"):
        (tmp_path / name).mkdir()
        with pytest.raises(CheckpointError, match="tokenizer"):
            OurTokenizer(folder_with(tmp_path / name, **{name: None}))


def test_defaults_of_the_official_gemma_config() -> None:
    """google/gemma-3-12b-it's config.json leaves out what ltx-core has built in."""
    from ltx_core.text_encoders.gemma.config import GEMMA3_CONFIG_FOR_LTX

    full = GEMMA3_CONFIG_FOR_LTX.to_dict()["text_config"]
    stated = ("hidden_size", "intermediate_size", "model_type", "num_attention_heads", "num_hidden_layers")
    stated += ("num_key_value_heads", "rope_scaling", "sliding_window")
    sparse = {key: full[key] for key in stated}
    assert Gemma3TextConfig.from_metadata({"text_config": sparse}) == Gemma3TextConfig.from_metadata(
        {"text_config": full}
    )


def test_text_errors_are_clear(checkpoints: Path) -> None:
    config = ltx2_mlx.read_checkpoint(checkpoints / "tiny-2.3.safetensors").config
    for key, value in (
        ("connector_num_learnable_registers", 64),
        ("caption_projection_first_linear", True),
        ("connector_magic", 3),
        ("connector_attention_head_dim", 9),
        ("use_audio_video_cross_attention", False),
    ):
        changed = {"transformer": config["transformer"] | {key: value}}
        with pytest.raises(ConfigError):
            EmbeddingsProcessorConfig.from_metadata(changed)
    processor = ltx2_mlx.load("embeddings_processor", checkpoints / "tiny-2.3.safetensors", mx.float32)
    states = tuple(mx.array(normal(f"{i}", 1, 100, 44)) for i in range(8))
    with pytest.raises(InputError, match="100 tokens, expected a multiple of 128"):
        processor.process_hidden_states(states, mx.ones((1, 100), mx.int32))
    with pytest.raises(InputError, match="7 hidden states of width 44"):
        processor.process_hidden_states(states[1:], mx.ones((1, 100), mx.int32))
    with pytest.raises(InputError, match="no prompts"):
        encode_prompts([], checkpoints / "tiny-2.3.safetensors", GEMMA)
