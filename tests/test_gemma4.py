"""The text encoder of LTX-2.5: Gemma 4 in one file, read strictly, paged and packed; and folders of the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx import LTX2Error
from ltx2_mlx.cli.main import main
from ltx2_mlx.config import Gemma4UnifiedTextConfig
from ltx2_mlx.errors import CheckpointError, InputError
from ltx2_mlx.loading.checkpoint import CheckpointFiles
from ltx2_mlx.loading.gemma import check_gemma, read_gemma
from ltx2_mlx.loading.header import read_header
from ltx2_mlx.loading.identity import gemma_side
from ltx2_mlx.loading.load import build
from ltx2_mlx.pipelines.enhancement import enhance_prompt
from ltx2_mlx.pipelines.prompts import encode_prompts
from ltx2_mlx.text.gemma4 import Gemma4UnifiedTextModel
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

Arrays = dict[str, mx.array]
IDS, MASK = mx.array([[0, 0, 2, 17, 300, 401, 9, 7, 11]]), mx.array([[0, 0, 1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def encoder(checkpoints: Path) -> Path:
    return checkpoints / "tiny-gemma4.safetensors"


@pytest.fixture(scope="module")
def tensors(encoder: Path) -> Arrays:
    held: Arrays = mx.load(str(encoder))
    mx.eval(held)
    return held


def config_of(path: Path) -> dict[str, Any]:
    stated: dict[str, Any] = json.loads(read_header(path)[0]["gemma_config"])
    return stated


def written(path: Path, tensors: Arrays, config: object) -> Path:
    mx.save_safetensors(str(path), tensors, {"gemma_config": json.dumps(config)})
    return path


def parameters(path: Path) -> Arrays:
    return dict(tree_flatten(ltx2_mlx.load("gemma", path).parameters()))


def as_by_transformers(folder: Path, tensors: Arrays, config: dict[str, Any]) -> Path:
    """The folder that transformers saves of the whole model, without its images and audio."""
    folder.mkdir()
    text = {key: array for key, array in tensors.items() if key.startswith("model.")}
    named = {key.replace("model.", "model.language_model.", 1): array for key, array in text.items()}
    named["model.embed_vision.embedding_projection.weight"] = mx.ones((4, 4))
    named["model.vision_embedder.patch_dense.weight"] = mx.ones((4, 4))
    mx.save_safetensors(str(folder / "model.safetensors"), named)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(bytes(tensors["tokenizer_json"].tolist()))
    return folder


def by_layer(config: dict[str, Any]) -> dict[str, Any]:
    """The config as newer releases of transformers write it: what global layers have otherwise, layer by layer."""
    text = dict(config["text_config"])
    wide = {"head_dim": text.pop("global_head_dim"), "num_key_value_heads": text.pop("num_global_key_value_heads")}
    layers = [i for i, kind in enumerate(text["layer_types"]) if kind == "full_attention"]
    return config | {"text_config": text | {"per_layer_config": {str(i): wide for i in layers}}}


def test_every_layout_gives_the_same_model_and_tokens(encoder: Path, tensors: Arrays, tmp_path: Path) -> None:
    expected, config = parameters(encoder), config_of(encoder)
    nested = {key.replace("model.l", "model.language_model.l"): array for key, array in tensors.items()}
    layouts = [
        written(tmp_path / "nested.safetensors", nested, config),
        written(tmp_path / "layers.safetensors", tensors, by_layer(config)),
        as_by_transformers(tmp_path / "folder", tensors, config),
        as_by_transformers(tmp_path / "text", tensors, config["text_config"]),
    ]
    ids = LTXVGemmaTokenizer(encoder, 32).encode("a red fox")[0]
    assert ids[0, -1] != 0 and 2 in ids[0].tolist()
    for path in layouts:
        found = parameters(path)
        assert found.keys() == expected.keys()
        assert all(mx.array_equal(found[name], array) for name, array in expected.items())
        assert mx.array_equal(LTXVGemmaTokenizer(path, 32).encode("a red fox")[0], ids)
        assert check_gemma(path).name == "Gemma 4"


def test_a_read_of_each_layer_gives_the_states_of_all_in_memory(encoder: Path) -> None:
    whole, paged = (ltx2_mlx.load("gemma", encoder, mx.bfloat16, paged=paged) for paged in (False, True))
    assert len(paged.pages) == 7 and "0 missing, 0 left over" in str(whole.load_report)
    for a, b in zip(whole(IDS, MASK), paged(IDS, MASK), strict=True):
        assert a.dtype == mx.bfloat16 and mx.array_equal(a, b)


def _without(part: str) -> Callable[[Arrays, dict[str, Any]], None]:
    def change(tensors: Arrays, config: dict[str, Any]) -> None:
        for key in [key for key in tensors if part in key]:
            del tensors[key]

    return change


def _text(**changes: object) -> Callable[[Arrays, dict[str, Any]], None]:
    return lambda tensors, config: config["text_config"].update(changes)


def _put(key: str, array: mx.array) -> Callable[[Arrays, dict[str, Any]], None]:
    return lambda tensors, config: tensors.update({key: array})


def _rope(kind: str, **changes: object) -> Callable[[Arrays, dict[str, Any]], None]:
    return lambda tensors, config: config["text_config"]["rope_parameters"][kind].update(changes)


BAD: dict[str, tuple[Callable[[Arrays, dict[str, Any]], object], str]] = {
    "another model": (lambda t, c: c.update(model_type="gemma4"), "is 'gemma4', expected gemma4_unified"),
    "another text model": (_text(model_type="gemma4_text"), "expected 'gemma4_unified_text'"),
    "no text": (lambda t, c: c.pop("text_config"), "no section 'text_config'"),
    "values of their own": (_text(attention_k_eq_v=False), "attention_k_eq_v is False, and only True"),
    "both ways": (_text(use_bidirectional_attention="all"), "use_bidirectional_attention is 'all'"),
    "another activation": (_text(hidden_activation="silu"), "hidden_activation is 'silu'"),
    "another BOS": (_text(bos_token_id=1), "bos_token_id is 1"),
    "biases": (_text(attention_bias=True), "unknown keys that may change the network: attention_bias=True"),
    "experts": (_text(enable_moe_block=True, num_experts=8), "unknown keys that may change the network"),
    "shared keys": (_text(num_kv_shared_layers=2), "num_kv_shared_layers=2"),
    "embeddings per layer": (_text(hidden_size_per_layer_input=256), "hidden_size_per_layer_input=256"),
    "no window": (_text(sliding_window=None), "text_config lacks sliding_window"),
    "a layer less": (lambda t, c: c["text_config"]["layer_types"].pop(0), "expected 7 of sliding_attention or full"),
    "a kind of its own": (_text(layer_types=["full_attention"] * 6 + ["other"]), "layer_types is"),
    "the last one windowed": (_text(layer_types=["sliding_attention"] * 7), "layer_types ends in sliding_attention"),
    "rope of Gemma 3": (_rope("full_attention", rope_type="linear"), "expected rope_type 'proportional'"),
    "rope with a factor": (_rope("full_attention", factor=8.0), "expected rope_type 'proportional'"),
    "rope without a base": (_rope("sliding_attention", rope_theta=0), "rope_theta is 0"),
    "nothing turns": (_rope("full_attention", partial_rotary_factor=0.01), "have no pair to turn"),
    "no rope": (_text(rope_parameters=[]), "rope_parameters.sliding_attention is None"),
    "odd heads": (_text(global_head_dim=23), "heads of full_attention are 23 wide"),
    "heads that do not share": (_text(num_key_value_heads=3), "is not a multiple of 3"),
    "layers by the layer": (_text(per_layer_config={"2": {"head_dim": 24}}), "does not say the same of every global"),
    "a placeholder by name": (lambda t, c: c.update(image_token_id="<image>"), "image_token_id is '<image>'"),
    "no tokenizer": (_without("tokenizer_json"), "it holds no tokenizer (tensor tokenizer_json)"),
    "a tokenizer of words": (_put("tokenizer_json", mx.array([65, 66], mx.uint8)), "cannot be read"),
    "a tokenizer of numbers": (_put("tokenizer_json", mx.ones((4,))), "its tokenizer_json is float32, expected bytes"),
    "an unknown key": (_put("model.head.weight", mx.ones((4,))), "1 unknown keys, the first is head.weight"),
    "without a scalar": (_without("layers.3.layer_scalar"), "missing model.layers.3.layer_scalar (1,)"),
    "without its text": (_without("model."), "it has no embed_tokens.weight"),
    "values in a global layer": (
        _put("model.layers.2.self_attn.v_proj.weight", mx.ones((24, 44))),
        "left over model.layers.2.self_attn.v_proj.weight",
    ),
    "a weight twice": (_put("model.language_model.norm.weight", mx.ones((44,))), "are the same weight twice"),
    "packed": (lambda t, c: c.update(quantization_config={"quant_method": "gptq"}), "a quantized Gemma (gptq)"),
    "in int8": (_put("model.layers.0.mlp.up_proj.weight", mx.ones((76, 44), mx.int8)), "whose weights are in int8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_encoder_is_refused_in_one_line(name: str, encoder: Path, tensors: Arrays, tmp_path: Path) -> None:
    change, message = BAD[name]
    held, config = dict(tensors), config_of(encoder)
    change(held, config)
    path = written(tmp_path / "x.safetensors", held, config)
    with pytest.raises(LTX2Error) as caught:
        build("gemma", check_gemma(path))
    text = str(caught.value)
    assert message in text and str(path) in text and "\n" not in text and "gemma-3" not in text


def test_a_damaged_file_is_told_from_one_that_is_no_encoder(encoder: Path, checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "short.safetensors").write_bytes(encoder.read_bytes()[:9000])
    with pytest.raises(CheckpointError, match="truncated"):
        read_gemma(tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"a file without 'gemma_config' in its metadata\. .* its text encoder"):
        read_gemma(checkpoints / "tiny-2.3.safetensors")


def test_a_config_that_is_no_object_is_refused(tensors: Arrays, tmp_path: Path) -> None:
    with pytest.raises(LTX2Error, match="the 'gemma_config' metadata: a JSON list, expected an object"):
        read_gemma(written(tmp_path / "x.safetensors", tensors, []))


def test_a_tokenizer_of_another_model_is_refused(encoder: Path, tensors: Arrays, tmp_path: Path) -> None:
    content = bytes(tensors["tokenizer_json"].tolist()).replace(b"<bos>", b"<BOS>")
    held = tensors | {"tokenizer_json": mx.array(np.frombuffer(content, np.uint8))}
    with pytest.raises(CheckpointError, match="the token <bos> is not number 2: not a tokenizer of Gemma 4"):
        check_gemma(written(tmp_path / "x.safetensors", held, config_of(encoder)))


def test_bos_takes_a_place_and_what_does_not_fit_is_told(encoder: Path) -> None:
    tokenizer = LTXVGemmaTokenizer(encoder, max_length=8)
    ids, mask = tokenizer.encode(["x " * 40, "<bos>x", "", "  "])
    assert ids[0, 0] == 2 and mask[0].tolist() == [1] * 8
    assert ids[1].tolist().count(2) == 1 and ids[2].tolist() == ids[3].tolist() == [0] * 7 + [2]
    text = "ab" * 40
    assert "".join(tokenizer.tokens(text)[1:]) + tokenizer.beyond(text) == text and not tokenizer.beyond("ab")
    assert tokenizer.tokens("ab")[0] == "<bos>"
    right = LTXVGemmaTokenizer(encoder, 8, "right").encode("")[0]
    assert right.tolist() == [[2] + [0] * 7]


def test_what_stands_for_an_image_is_a_pad_to_the_network(encoder: Path) -> None:
    model = ltx2_mlx.load("gemma", encoder, mx.float32)
    assert model.config.placeholders == (7, 6, 5)
    other = mx.where(IDS == 7, 5, IDS), mx.where(IDS == 7, 0, IDS), mx.where(IDS == 7, 8, IDS)
    states = [model(ids, MASK)[-1] for ids in (IDS, *other)]
    assert mx.array_equal(states[0], states[1]) and mx.array_equal(states[0], states[2])
    assert not mx.allclose(states[0], states[3], atol=1e-3)


def test_contexts_belong_to_weights_tokenizer_and_config(encoder: Path, tensors: Arrays, tmp_path: Path) -> None:
    config = config_of(encoder)
    digest = gemma_side(encoder).digest
    assert gemma_side(written(tmp_path / "same.safetensors", tensors, config)).digest == digest
    for i, name in enumerate(("tokenizer_json", "model.layers.4.layer_scalar")):
        changed = tensors | {name: tensors[name] + mx.array(1, tensors[name].dtype)}
        assert gemma_side(written(tmp_path / f"{i}.safetensors", changed, config)).digest != digest
    config["text_config"]["sliding_window"] = 6
    assert gemma_side(written(tmp_path / "window.safetensors", tensors, config)).digest != digest


def test_a_prompt_becomes_contexts(encoder: Path, checkpoints: Path, short_prompts: None) -> None:
    """Text projection and Gemma are in the encoder's file, the connectors in the transformer's."""
    files = CheckpointFiles(
        transformer_path=checkpoints / "tiny-2.5-transformer.safetensors", text_encoder_path=encoder
    )
    plain, paged = (
        encode_prompts(["a fox"], files, encoder, mx.float32, low_memory=low_memory)[0] for low_memory in (False, True)
    )
    assert plain.video_encoding.shape[1] == 128 and mx.array_equal(plain.video_encoding, paged.video_encoding)
    with pytest.raises(CheckpointError, match=r"needs Gemma 3, and .* is gemma4-12b-ltx-v1"):
        encode_prompts(["a fox"], checkpoints / "tiny-2.3.safetensors", encoder, mx.float32)


def test_info_says_what_an_encoder_holds(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(encoder)]) == 0
    said = capsys.readouterr().out
    assert "gemma4-12b-ltx-v1 (Gemma 4)" in said and "whole: every key used once, every shape right" in said
    rows = {line.split()[0]: line.split()[1] for line in said.splitlines()[5:]}
    assert rows == {"gemma": "97", "text_projection": "4", "gemma_images": "3", "gemma_audio": "1", "gemma_assets": "5"}


def test_gemma_4_does_not_write_prompts(encoder: Path, tensors: Arrays, tmp_path: Path) -> None:
    folder = as_by_transformers(tmp_path / "folder", tensors, config_of(encoder))
    for path in (encoder, folder):
        with pytest.raises(InputError, match="Gemma 4 only encodes prompts"):
            enhance_prompt("a fox", path)


@pytest.fixture(scope="module")
def wide(encoder: Path, tensors: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two layers, whose channels are a multiple of 64."""
    config = config_of(encoder)
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config["text_config"] |= {"global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]}
    draw = np.random.default_rng(3)
    model = Gemma4UnifiedTextModel(Gemma4UnifiedTextConfig.from_metadata(config))
    held = {
        f"model.{name}": mx.array(draw.normal(0.5 * (x.ndim == 1), x.shape[-1] ** -0.5, x.shape)).astype(mx.bfloat16)
        for name, x in tree_flatten(model.parameters())
    }
    assets = {key: array for key, array in tensors.items() if array.dtype == mx.uint8}
    return written(tmp_path_factory.mktemp("wide") / "wide.safetensors", held | assets, config)


def test_an_encoder_is_packed_as_it_is_loaded_or_in_a_file(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q4.safetensors"
    assert main(["convert", str(wide), str(out), "--bits", "4"]) == 0
    assert "13 layers in 4 bits, groups of 64" in capsys.readouterr().out  # one has no v_proj
    assert check_gemma(out).name == "Gemma 4"
    loaded = (ltx2_mlx.load("gemma", path, mx.float32, quantization=how) for path, how in ((out, None), (wide, "q4")))
    both = [model(IDS, MASK) for model in loaded]
    assert all(mx.array_equal(a, b) for a, b in zip(*both, strict=True))
    assert not mx.allclose(both[0][-1], ltx2_mlx.load("gemma", wide, mx.float32)(IDS, MASK)[-1], rtol=1e-3)
