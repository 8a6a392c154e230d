"""Gemma folders as people have them: in every layout, and those that cannot be used. Each is built by its test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx import LTX2Error
from ltx2_mlx.cli.main import main
from ltx2_mlx.errors import CheckpointError
from ltx2_mlx.loading.gemma import check_gemma, read_gemma, refuse_code
from ltx2_mlx.loading.load import build
from ltx2_mlx.pipelines.prompts import encode_prompts
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

Arrays = dict[str, mx.array]


def said_of(path: Path, read: Callable[[Path], object]) -> str:
    """The one line that is said of a bad folder."""
    with pytest.raises(LTX2Error) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text and len(text) < 900, text
    return text


@pytest.fixture
def gemma(checkpoints: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoints / "tiny-gemma", tmp_path / "gemma")


def _joined(folder: Path, rename: Callable[[str], str | None]) -> Arrays:
    """The shards as one file, with other names; what ``rename`` gives no name is left out."""
    arrays: Arrays = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        arrays |= {new: x for key, x in mx.load(str(shard)).items() if (new := rename(key)) is not None}
        mx.eval(arrays)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return arrays


def _edit(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def _only_text(key: str) -> str | None:
    return key.removeprefix("language_model.model.") if key.startswith("language_model.model.") else None


LAYOUTS: dict[str, Callable[[str], str | None]] = {
    "transformers 4": lambda key: key,
    "transformers 5": lambda key: (
        key.replace("language_model.model.", "model.language_model.")
        if key.startswith("language_model.")
        else f"model.{key}"
    ),
    "text alone": lambda key: f"model.{name}" if (name := _only_text(key)) else None,
    "text without its head": _only_text,
}


def _by_transformers_5(config: dict[str, Any]) -> None:
    text = config["text_config"]
    full = text.pop("rope_scaling") | {"rope_theta": text.pop("rope_theta")}
    sliding = {"rope_type": "default", "rope_theta": text.pop("rope_local_base_freq")}
    text["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}
    text["_sliding_window_pattern"] = pattern = text.pop("sliding_window_pattern")
    kinds = ["sliding_attention"] * (pattern - 1) + ["full_attention"]
    text["layer_types"] = (kinds * 9)[: text["num_hidden_layers"]]
    text |= {"return_dict": True, "use_bidirectional_attention": False, "id2label": {"0": "LABEL_0"}}


def _flat(config: dict[str, Any]) -> None:
    text = config.pop("text_config")
    config.clear()
    config.update(text)


@pytest.mark.parametrize("written_by", [4, 5])
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_gemma_gives_the_same_model(layout: str, flat: bool, written_by: int, gemma: Path) -> None:
    official = ltx2_mlx.load("gemma", gemma)
    expected = dict(tree_flatten(official.parameters()))
    mx.eval(expected)
    _joined(gemma, LAYOUTS[layout])
    if written_by == 5:
        _edit(gemma / "config.json", _by_transformers_5)
    if flat:
        _edit(gemma / "config.json", _flat)
    loaded = ltx2_mlx.load("gemma", gemma)
    found = dict(tree_flatten(loaded.parameters()))
    assert found.keys() == expected.keys() and all(mx.array_equal(found[name], x) for name, x in expected.items())
    for kind in ("full_attention", "sliding_attention"):
        assert loaded.config.rope(kind) == official.config.rope(kind)
    assert loaded.config.layer_types == official.config.layer_types
    check_gemma(gemma)


@pytest.mark.parametrize("name", ["model-{}-of-00002.safetensors", "gemma-3-12b-it.safetensors"])
def test_a_folder_without_an_index_gives_the_same_model(name: str, gemma: Path, checkpoints: Path) -> None:
    if "{}" in name:
        (gemma / "model.safetensors.index.json").unlink()
    else:
        _joined(gemma, lambda key: key)
        (gemma / "model.safetensors").rename(gemma / name)
    (gemma / "adapter_model.safetensors").write_bytes(b"")  # of something else
    assert read_gemma(gemma).tensors.keys() == read_gemma(checkpoints / "tiny-gemma").tensors.keys()


def _index(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "model.safetensors.index.json", edit)


def _shard_named(name: str) -> Callable[[Path], None]:
    return _index(lambda index: index["weight_map"].update({next(iter(index["weight_map"])): name}))


def _linked_outside(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(folder.parent / "outside.safetensors")
    shard.symlink_to(folder.parent / "outside.safetensors")


def _config(**values: object) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "config.json", lambda config: config.update(values))


def _text_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "config.json", lambda config: config["text_config"].update(values))


def _text(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None


def _tokens(change: int) -> Callable[[Path], None]:
    """A tokenizer with so many tokens more, or less, than the weights have embeddings."""

    def edit(tokenizer: dict[str, Any]) -> None:
        vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        vocabulary |= {f"more{i}": len(vocabulary) + i for i in range(change)}
        for token in sorted(vocabulary, key=lambda token: vocabulary[token])[change:] if change < 0 else ():
            del vocabulary[token]
        tokenizer["model"]["merges"] = []

    return lambda folder: _edit(folder / "tokenizer.json", edit)


def _without_bos(folder: Path) -> None:
    """The library panics at the first prompt: no Exception, and pages on the process's stderr."""
    _edit(folder / "tokenizer.json", lambda tokenizer: tokenizer["post_processor"]["special_tokens"].pop("<bos>"))


def _gguf(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "gemma.gguf").write_bytes(b"GGUF" + bytes(64))


_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def _without(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


def _one_shard(folder: Path) -> None:
    _without(folder, "*.index.json")
    _without(folder, "model-00002*")


def _half_downloaded(folder: Path) -> None:
    _without(folder, "model*")
    (folder / "model.safetensors.incomplete").write_bytes(bytes(99))


def _one_below(folder: Path) -> None:
    shutil.copytree(folder, folder / "snapshots" / "0123")
    _without(folder, "*.*")


GEMMAS: dict[str, tuple[Callable[[Path], None], str]] = {
    "shard above": (_shard_named("../model-00001-of-00002.safetensors"), "which is not in the folder"),
    "shard at an absolute path": (_shard_named("/etc/passwd"), "which is not in the folder"),
    "shard with a name longer than any": (_shard_named("x" * 256), "which is not in the folder"),
    "shard below": (_shard_named("a/b.safetensors"), "which is not in the folder"),
    "shard linked outside": (_linked_outside, "a link to a file outside of the folder"),
    "shard missing": (_shard_named("model-00003-of-00002.safetensors"), "no such file, and model.safetensors.index"),
    "tensor missing": (_index(lambda i: i["weight_map"].update(a="model-00001-of-00002.safetensors")), "do not agree"),
    "index is a list": (_text("model.safetensors.index.json", "[]"), "a JSON list, expected an object"),
    "index is empty": (_text("model.safetensors.index.json", "{}"), "no 'weight_map'"),
    "config nests": (_text("config.json", '{"a":' * 100_000), "nested too deeply"),
    "config is no UTF-8": (_text("config.json", b'{"a": "\xff\xfe"}'), "not JSON"),
    "config has a huge number": (_text("config.json", '{"a": ' + "9" * 5000 + "}"), "not JSON"),
    "config is a number": (_text("config.json", "3"), "a JSON int, expected an object"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "broken tokenizer": (_text("tokenizer.json", "{"), "tokenizer.json: cannot be read"),
    "tokenizer of another shape": (_text("tokenizer.json", "[1, 2]"), "tokenizer.json: cannot be read"),
    "tokenizer without the token of its template": (_without_bos, "tokenizer.json: cannot be read (no entry"),
    "tokenizer of a larger model": (_tokens(1), "513 tokens, and the weights know 512: the tokenizer is of another"),
    "tokenizer of a smaller model": (_tokens(-20), "492 tokens, and the weights know 512"),
    "tokenizer's config is a list": (_text("tokenizer_config.json", "[]"), "a JSON list"),
    "padding is a number": (_text("tokenizer_config.json", '{"pad_token": 3}'), "names no padding token"),
    "code": (_config(model_file="evil.py"), "'model_file' names code that would be run"),
    "code of transformers": (_config(auto_map={"AutoModel": "evil.Model"}), "'auto_map' names code"),
    "code in the tokenizer": (_text("tokenizer_config.json", '{"auto_map": {"a": "b"}}'), "'auto_map' names code"),
    "GPTQ": (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "a quantized Gemma (gptq)"),
    "MLX": (_config(quantization={"bits": 4, "group_size": 64}), "a quantized Gemma (4 bits)"),
    "AWQ in the text's": (_text_config(quantization_config={"quant_method": "awq"}), "a quantized Gemma (awq)"),
    "GGUF": (_gguf, "its weights are in gemma.gguf, a GGUF file"),
    "index is a pointer": (_text("model.safetensors.index.json", _POINTER), "a Git LFS pointer"),
    "config is a web page": (_text("config.json", "<!DOCTYPE html>"), "a web page and not the file itself"),
    "tokenizer is a pointer": (_text("tokenizer.json", _POINTER), "tokenizer.json: a Git LFS pointer"),
    "one of two shards, no index": (_one_shard, "shard 2 of 2 is missing"),
    "weights half downloaded": (_half_downloaded, "model.safetensors.incomplete, its download has not ended"),
    "the folder above": (_one_below, "give the folder of the model itself: "),
    "Gemma 2": (_config(model_type="gemma2"), "model_type is 'gemma2', expected gemma3"),
    "no type": (_config(model_type=None), "model_type is None"),
    "layers 10⁷": (_text_config(num_hidden_layers=10**7), "num_hidden_layers is 10000000"),
    "layers 900": (_text_config(num_hidden_layers=900), "claims 900 layers"),
    "rope of nothing": (_text_config(rope_scaling={"rope_type": "linear", "factor": 0}), "factor is 0"),
    "rope is a list": (_text_config(rope_scaling=[8]), "expected a table"),
    "other layers": (_text_config(layer_types=["full_attention"] * 7), "layer_types is not that of Gemma 3"),
    "epsilon": (_text_config(rms_norm_eps=0.0), "rms_norm_eps is 0.0"),
}


@pytest.mark.parametrize("name", GEMMAS)
def test_a_gemma_folder_that_cannot_be_used_is_refused_before_the_work(
    name: str, gemma: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit, message = GEMMAS[name]
    edit(gemma)

    def read(folder: Path) -> None:
        build("gemma", check_gemma(folder))

    text = said_of(gemma, read)
    assert message in text and str(gemma) in text and capfd.readouterr().err == ""


def test_a_gemma_file_in_the_place_of_its_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "gemma.gguf").write_bytes(b"GGUF" + bytes(64))
    assert "a GGUF file" in said_of(tmp_path / "gemma.gguf", read_gemma)
    refuse_code(tmp_path)  # nothing to refuse
    assert "no such file" in said_of(tmp_path, LTXVGemmaTokenizer)


def test_links_of_the_hubs_cache_are_followed(checkpoints: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in (checkpoints / "tiny-gemma").iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    check_gemma(snapshot)


def test_a_gemma_that_the_checkpoint_was_not_made_for_is_a_problem_before_the_work(
    checkpoints: Path, gemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One with a layer less: whole by itself, and with other hidden states."""
    _joined(gemma, lambda key: None if ".layers.6." in key else key)
    _edit(gemma / "config.json", lambda config: config["text_config"].update(num_hidden_layers=6))
    assert check_gemma(gemma)
    tiny = checkpoints / "tiny-2.0"
    argv = ["--distilled-checkpoint-path", f"{tiny}.safetensors", "--gemma-root", str(gemma), "--prompt", "a fox"]
    argv += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors", "--output-path", str(tmp_path / "a.mp4")]
    assert main(["plan", *argv, "--height", "64", "--width", "64", "--num-frames", "9"]) == 2
    assert "gives 7 hidden states of width 44; " in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="Use the Gemma that belongs to the checkpoint"):
        encode_prompts(["a fox"], f"{tiny}.safetensors", gemma)
