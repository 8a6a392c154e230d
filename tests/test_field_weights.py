"""Files of weights as people have them: split, in 8 bits, of another kind, damaged. Each is built by its test."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import socket
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx import CheckpointError, CheckpointFiles, ConfigError, LTX2Error, WeightsError
from ltx2_mlx.cli.main import main
from ltx2_mlx.config.reading import parse_json
from ltx2_mlx.loading.checkpoint import Checkpoint, read_checkpoint
from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.loading.header import read_header
from ltx2_mlx.loading.load import COMPONENTS, build
from ltx2_mlx.pipelines.ledger import ModelLedger

TINY = "tiny-2.3"
Arrays = dict[str, mx.array]
BITS = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "U32": 4, "I32": 4, "F64": 8}


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]], **metadata: str) -> Path:
    """A safetensors file with any number format: name → (dtype, shape, data)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))
    return path


def zeros(dtype: str, *shape: int) -> tuple[str, tuple[int, ...], bytes]:
    return dtype, shape, bytes(BITS[dtype] * int(np.prod(shape)))


def said_of(path: object, read: Callable[[Any], object] = read_checkpoint) -> str:
    """The one line that is said of a bad file."""
    with pytest.raises(LTX2Error) as error:
        found = read(path)
        if isinstance(found, Checkpoint):
            build("transformer", found)
    text = str(error.value)
    assert "\n" not in text and len(text) < 900, text
    return text


@pytest.fixture(scope="session")
def whole(checkpoints: Path) -> Path:
    return checkpoints / f"{TINY}.safetensors"


# ---- what is no checkpoint ----------------------------------------------------------------------------------------


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return buffer.getvalue()


CONTAINERS: dict[str, tuple[bytes, str]] = {
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
    "page.safetensors": (b"<!DOCTYPE html><html><head><title>Log in</title></head></html>", "a web page"),
    "page2.safetensors": (b"\n\n  <html>\n", "a web page"),
    "error.safetensors": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "answer.safetensors": (b'{"error": "Invalid username or password."}', "an answer of a server"),
    "text.safetensors": (b"Entry not found", "text ('Entry not found')"),
    "q4.gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
    "q8.safetensors": (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
    "model.ckpt": (_zip("archive/data.pkl"), "a PyTorch pickle"),
    "renamed.safetensors": (_zip("model/data.pkl"), "a PyTorch pickle"),
    "old.pt": (pickle.dumps({"a": 1}, protocol=2), "a PyTorch pickle"),
    "new.safetensors": (pickle.dumps({"a": 1}, protocol=5), "a PyTorch pickle"),
    "model.zip": (_zip("model.safetensors"), "a zip archive"),
    "model.tar": (_tar(), "a tar archive"),
    "model.gz": (b"\x1f\x8b\x08" + bytes(64), "a gzip archive"),
    "model.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(64), "a 7z archive"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(64), "an ONNX model"),
    "weights.npz": (_zip("a.npy"), "a zip archive"),
    "weights.npy": (b"\x93NUMPY\x01\x00" + bytes(64), "a NumPy array"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "model.safetensors.index.json": (
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "2"}}).encode(),
        "an index of 2 shards",
    ),
    "config.json": (b'{"model_type": "ltx"}', "a JSON file"),
    "clip.safetensors": (b"\x00\x00\x00\x20ftypisom" + bytes(64), "a media file"),
    "zeros.safetensors": (bytes(5000), "its download may not have ended"),
    "noise.safetensors": (bytes(range(128, 256)) * 4, "not a safetensors file"),
    "empty.safetensors": (b"", "empty file"),
    "model.safetensors.part": (b"\x00\xff\x00", "its download has not ended"),
    "abc.incomplete": (b"", "its download has not ended"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_another_container_is_named_in_one_sentence(name: str, tmp_path: Path) -> None:
    data, message = CONTAINERS[name]
    path = tmp_path / name
    path.write_bytes(data)
    text = said_of(path)
    assert text.startswith(f"{path}: ") and message in text


def test_a_file_that_is_still_being_downloaded_is_named(whole: Path, tmp_path: Path) -> None:
    start = whole.read_bytes()[:-1000]
    for name in ("a.incomplete", "a.safetensors.part", "a.safetensors.crdownload"):
        (tmp_path / name).write_bytes(start)
        assert "its download has not ended; truncated" in said_of(tmp_path / name)
    (tmp_path / "b.safetensors").write_bytes(bytes(2000))
    (tmp_path / "b.safetensors.aria2").touch()
    assert "its download has not ended" in said_of(tmp_path / "b.safetensors")


def test_what_is_no_file_neither_hangs_nor_fills_the_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        started = time.monotonic()
        for read in (read_checkpoint, ltx2_mlx.lora_metadata):
            assert "a FIFO" in said_of(tmp_path / "fifo", read)
            assert "a socket" in said_of(tmp_path / "socket", read)
            assert "a device" in said_of("/dev/zero", read)
    assert time.monotonic() - started < 20
    assert "cannot be read" in said_of(tmp_path / ("a" * 300))
    assert "cannot be read" in said_of(tmp_path / "a\0b")
    assert "a FIFO" in said_of(tmp_path / "fifo", read_gemma)


FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "diffusers": ({"model_index.json": "{}", "vae/config.json": "{}"}, "diffusers' layout"),
    "shards": ({"model.safetensors.index.json": "{}", "a-00001-of-00002.safetensors": ""}, "a folder of shards"),
    "mlx": ({"split_model.json": "{}", "transformer.safetensors": ""}, "converted for another MLX program"),
    "mlx again": ({"config.json": "{}", "weights.npz": ""}, "converted for another MLX program"),
    "converted": ({"config.json": "{}", "model.safetensors": ""}, "converted for another program"),
    "gemma": ({"config.json": "{}", "tokenizer.json": "{}"}, "Gemma goes to --gemma-root"),
    "cache": ({"snapshots/1/a.safetensors": "", "blobs/1": ""}, "Hugging Face's cache"),
    "one file": ({"ltx.safetensors": ""}, "it has ltx.safetensors"),
    "nothing": ({"README.md": ""}, "a folder, expected a .safetensors file"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_in_the_place_of_a_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    files, message = FOLDERS[name]
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert message in said_of(tmp_path)


_BLOCK = "model.diffusion_model.transformer_blocks.0.attn1.to_q"
PACKED: dict[str, tuple[dict[str, tuple[str, tuple[int, ...], bytes]], str]] = {
    "int8": ({f"{_BLOCK}.weight": zeros("I8", 4, 4), f"{_BLOCK}.weight_scale": zeros("F32", 1)}, "in int8"),
    "nf4": (
        {f"{_BLOCK}.weight": zeros("U8", 8, 1), f"{_BLOCK}.weight.absmax": zeros("F32", 1)},
        "packed by bitsandbytes (nf4",
    ),
    "LLM.int8": (
        {f"{_BLOCK}.weight": zeros("I8", 4, 4), f"{_BLOCK}.SCB": zeros("F32", 4)},
        "packed by bitsandbytes (int8)",
    ),
    "GPTQ": (
        {f"{_BLOCK}.qweight": zeros("I32", 4, 4), f"{_BLOCK}.qzeros": zeros("I32", 1, 1)},
        "packed by GPTQ or AWQ",
    ),
    "nvfp4": (
        {f"{_BLOCK}.weight": zeros("U8", 4, 2), f"{_BLOCK}.weight_scale_2": zeros("F32", 1)},
        "packed as nvfp4",
    ),
    "svdquant": ({f"{_BLOCK}.qweight": zeros("I8", 4, 2), f"{_BLOCK}.wscales": zeros("BF16", 4, 1)}, "SVDQuant"),
    "blocks": ({f"{_BLOCK}.weight_scale_inv": zeros("F32", 1, 1)}, "float8 with a scale for each block"),
}


@pytest.mark.parametrize("described", [True, False], ids=["with config", "without"])
@pytest.mark.parametrize("name", PACKED)
def test_weights_that_are_packed_are_named(name: str, described: bool, whole: Path, tmp_path: Path) -> None:
    tensors, how = PACKED[name]
    metadata = read_checkpoint(whole).metadata if described else {}
    text = said_of(write(tmp_path / "packed.safetensors", tensors, **metadata))
    assert f"its weights are {how}" in text or how in text
    assert "bfloat16 or float8" in text


OTHERS = {
    "diffusers transformer": ("transformer_blocks.0.attn1.norm_q.weight proj_in.weight", "in diffusers' layout"),
    "Wan": ("blocks.0.self_attn.q.weight blocks.0.ffn.0.weight", "Wan family"),
    "Flux": ("double_blocks.0.img_attn.qkv.weight", "Flux or Hunyuan"),
    "Stable Diffusion": ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion family"),
    "Gemma": ("model.layers.0.self_attn.q_proj.weight", "a language model"),
    "LoRA": (f"{_BLOCK}.lora_A.weight {_BLOCK}.lora_B.weight", "it goes to --lora"),
    "musubi": ("lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight", "it goes to --lora"),
    "nothing": ("", "it holds no tensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_named(name: str, tmp_path: Path) -> None:
    keys, message = OTHERS[name]
    tensors = {key: zeros("BF16", 2, 2) for key in keys.split()}
    assert message in said_of(write(tmp_path / "other.safetensors", tensors))
    if name != "nothing":
        part = write(tmp_path / "model-00002-of-00005.safetensors", tensors)
        assert "one of 5 shards" in said_of(part)


def test_a_file_in_the_place_of_another_is_named(whole: Path, checkpoints: Path) -> None:
    upsampler = checkpoints / f"{TINY}-upsampler-x2.safetensors"
    with pytest.raises(ConfigError, match="a latent upsampler, not a checkpoint: it goes to --spatial-upsampler-path"):
        ltx2_mlx.load("video_decoder", upsampler)
    with pytest.raises(ConfigError, match=r"not a latent upsampler: it holds the audio VAE, .*the transformer"):
        ltx2_mlx.load("upsampler", whole)
    with pytest.raises(CheckpointError, match="a LoRA or another adapter, not a model: it goes to --lora"):
        ltx2_mlx.load("transformer", checkpoints / f"{TINY}-lora.safetensors")
    with pytest.raises(WeightsError, match=r"it holds no pairs but .* and [0-9]+ more: a model, not a LoRA"):
        ltx2_mlx.load("transformer", whole, loras=[ltx2_mlx.LoraPathStrength(whole)])


@pytest.mark.parametrize("name", ["upsampler-time", "upsampler-space-time", "upsampler-x1.5"])
def test_an_upsampler_that_a_second_stage_cannot_use_is_a_problem_of_the_plan(
    name: str, whole: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints / f"{TINY}-{name}.safetensors"
    command = ["plan", "--distilled-checkpoint-path", str(whole), "--prompt", "a fox", "--num-frames", "9"]
    command += ["--spatial-upsampler-path", str(path), "--output-path", str(tmp_path / "x.mp4"), "--placeholder"]
    assert main([*command, "--height", "64", "--width", "64"]) == 2
    assert f"{path} {'scales by 1.5' if '1.5' in name else 'upsamples time'}; the second" in capsys.readouterr().out
    with pytest.raises(ltx2_mlx.InputError, match="the second stage needs"):
        ModelLedger(whole, spatial_upsampler_path=path).spatial_upsampler()


# ---- damaged headers ----------------------------------------------------------------------------------------------


def test_a_mutated_header_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """A few hundred of them, seeded: no traceback, no hang, and whatever is read tiles the file exactly."""
    chance = random.Random(13)
    tensors = {f"t{i}": ("F32", (2, i + 1), bytes(8 * (i + 1))) for i in range(4)}
    whole = write(tmp_path / "whole.safetensors", tensors, config='{"vae": {}}', model_version="2.3").read_bytes()
    path, refused = tmp_path / "mutated.safetensors", 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(min(len(data), 500)) if data else 0
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del data[at : at + chance.randrange(1, 9)]
                case 2:
                    data[at:at] = chance.choice((b"[" * 300, b'"', b"9" * 40, b"\xff", b"\x00", b"-", b'{"a":'))
                case 3:
                    data = data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data + b"x"
        path.write_bytes(data)
        try:
            found = read_header(path)[1]
            assert sum(info.nbytes for info in found.values()) + struct.unpack("<Q", data[:8])[0] + 8 == len(data)
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert refused > 300


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f'{{"a":{entry},"a":{entry}}}'.encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert "a stands twice" in said_of(path)


JUNK: tuple[Any, ...] = (None, True, -1, 0, 10**7, 10**400, -5.0, 1e-300, 1e308, float("nan"), float("inf"), "x", "")
JUNK += ([], [0, 0, 0], [[]], [None], {}, {"a": []}, ["x"] * 1000, [[1, 2], [3]])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def _put(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], junk)
    return copy


@pytest.mark.parametrize("text", [r'{"pad_token": "\ud800"}', b'{"\xed\xa0\x80": 1}'])
def test_half_of_a_surrogate_pair_is_refused_by_every_reader_of_json(text: str | bytes) -> None:
    with pytest.raises(CheckpointError, match=r"a\.json: not JSON"):
        parse_json(text, "a.json")


def test_what_a_network_says_of_its_config_names_the_file(tmp_path: Path, checkpoints: Path) -> None:
    """Not only what the config's own checks say, which come before the network is made."""
    path, source = tmp_path / "other.safetensors", checkpoints / f"{TINY}.safetensors"
    config = read_checkpoint(source).config
    config["transformer"]["caption_channels"] = 45
    metadata = {"config": json.dumps(config), "model_version": "2.3.0"}
    mx.save_safetensors(str(path), mx.load(str(source)), metadata)
    with pytest.raises(ConfigError, match=rf"^{path}: text_embedding_projection takes"):
        build("embeddings_processor", read_checkpoint(path))


# Section of a config → the components that read what is in it (an encoder reads it as its decoder does).
READERS = {
    "transformer": ("transformer", "embeddings_processor"),
    "vae": ("video_decoder",),
    "audio_vae": ("audio_decoder",),
    "vocoder": ("vocoder",),
}


@pytest.mark.parametrize("name", [TINY, "tiny-2.0", f"{TINY}-upsampler-x1.5", "tiny-gemma"])
def test_no_value_of_a_config_makes_a_traceback(name: str, checkpoints: Path) -> None:
    if name == "tiny-gemma":
        config = json.loads((checkpoints / name / "config.json").read_text())
        parts = ["gemma"]
    else:
        config = read_checkpoint(checkpoints / f"{name}.safetensors").config
        parts = (
            ["upsampler"]
            if "upsampler" in name
            else [part for part in COMPONENTS if part not in ("gemma", "upsampler")]
        )
    chance = random.Random(5)
    started, refused = time.monotonic(), 0
    junk_of_a_file = [json.loads(json.dumps(junk)) for junk in JUNK]
    for place in [place for place in _places(config) if place and place[0] != "vision_config"]:
        for junk in chance.sample(junk_of_a_file, 6):
            edited = _put(config, place, junk)
            for part in READERS.get(place[0], parts) if len(place) > 1 else parts:
                try:
                    COMPONENTS[part].read(edited)
                except ConfigError as error:
                    refused += 1
                    assert "\n" not in str(error) and len(str(error)) < 700
    assert refused > 20 and time.monotonic() - started < 60


RANGES = {
    "transformer": [
        ("norm_eps", 0), ("norm_eps", -1e-6), ("norm_eps", float("nan")), ("positional_embedding_theta", -5),
        ("positional_embedding_max_pos", [0, 0, 0]), ("positional_embedding_max_pos", [20, -1, 5]),
        ("audio_positional_embedding_max_pos", []), ("num_layers", 10**7), ("num_layers", True), ("num_layers", "3"),
        ("num_layers", 1000), ("attention_head_dim", 10**6), ("av_ca_timestep_scale_multiplier", float("inf")),
        ("connector_num_layers", 500), ("audio_connector_num_layers", -1),
    ],
    "vae": [("patch_size", 0), ("latent_channels", 10**12), ("decoder_blocks", [["res_x", {"num_layers": 900}]])],
    "vocoder": [("bwe", 3)],
}  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value"), [(s, *pair) for s, pairs in RANGES.items() for pair in pairs])
def test_a_number_outside_its_range_is_refused_before_anything_is_built(
    section: str, key: str, value: object, whole: Path, tmp_path: Path
) -> None:
    header = read_checkpoint(whole)
    config = header.config | {section: header.config[section] | {key: value}}
    edited = Checkpoint(whole, header.metadata | {"config": json.dumps(config)}, header.tensors)
    part = {"vae": "video_decoder", "vocoder": "vocoder"}.get(section, "transformer")
    part = "embeddings_processor" if "connector" in key else part
    started = time.monotonic()
    with pytest.raises(LTX2Error) as error:
        build(part, edited)
    assert time.monotonic() - started < 20
    assert str(error.value).startswith(f"{whole}: ") and "\n" not in str(error.value)


# ---- weights that are no numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("video_decoder", "vae.per_channel_statistics.std-of-means"),
        ("video_encoder", "vae.encoder.conv_in.conv.weight"),
        ("vocoder", "vocoder.vocoder.conv_pre.bias"),
    ],
)
def test_one_weight_that_is_no_number_is_named(part: str, key: str, value: float, whole: Path, tmp_path: Path) -> None:
    arrays, metadata = dict(read_checkpoint(whole).arrays()), read_checkpoint(whole).metadata
    assert key in arrays
    numbers = np.array(arrays[key].astype(mx.float32))
    numbers.flat[-1] = value
    kept = {k: v for k, v in arrays.items() if k.partition(".")[0] == key.partition(".")[0]}
    kept[key] = mx.array(numbers).astype(arrays[key].dtype)
    path = tmp_path / "bad.safetensors"
    mx.save_safetensors(str(path), kept, metadata)
    with pytest.raises(WeightsError, match=f"{path}: {key} holds NaN or ∞"):
        ltx2_mlx.load(part, path, mx.bfloat16)


def test_a_latents_std_of_zero_is_named(whole: Path, tmp_path: Path) -> None:
    arrays, metadata = dict(read_checkpoint(whole).arrays()), read_checkpoint(whole).metadata
    key = "vae.per_channel_statistics.std-of-means"
    kept = {k: x for k, x in arrays.items() if k.startswith("vae.")} | {key: arrays[key] * (mx.arange(128) != 3)}
    mx.save_safetensors(str(tmp_path / "flat.safetensors"), kept, metadata)
    with pytest.raises(WeightsError, match=f"flat.safetensors: {key} is zero or negative"):
        ltx2_mlx.load("video_decoder", tmp_path / "flat.safetensors")


def test_a_weight_of_gemma_that_is_no_number_is_named(checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "tiny-gemma", tmp_path / "gemma")
    shard = folder / "model-00002-of-00002.safetensors"
    arrays = mx.load(str(shard))
    key = next(key for key in arrays if key.startswith("language_model.model.layers"))
    arrays[key] = arrays[key] * float("nan")
    mx.save_safetensors(str(shard), arrays)
    with pytest.raises(WeightsError, match=f"{shard}: {key} holds NaN"):
        ltx2_mlx.load("gemma", folder)


# ---- split files --------------------------------------------------------------------------------------------------

PARTS = {
    "transformer_path": ("model.diffusion_model.", "model.diffusion_model."),
    "text_encoder_path": ("text_embedding_projection.", ""),
    "video_vae_path": ("vae.", "vae."),
    "audio_vae_path": ("audio_vae.", "audio_vae."),
}
_SECTIONS = {
    "transformer_path": ("transformer",),
    "text_encoder_path": ("transformer",),
    "video_vae_path": ("vae",),
    "audio_vae_path": ("audio_vae", "vocoder"),
}


def split(whole: Path, folder: Path, bare: bool) -> CheckpointFiles:
    """A checkpoint as four files, as people have them."""
    header = read_checkpoint(whole)
    arrays, files = dict(header.arrays()), {}
    for role, (start, prefix) in PARTS.items():
        connector = "_embeddings_connector."
        chosen = {k: v for k, v in arrays.items() if k.startswith(start) and connector not in k}
        if role == "text_encoder_path":
            chosen |= {k: v for k, v in arrays.items() if connector in k}
            prefix = "model.diffusion_model."
        if role == "audio_vae_path":
            chosen |= {k: v for k, v in arrays.items() if k.startswith("vocoder.")}
        if bare:
            chosen = {key.removeprefix(prefix): value for key, value in chosen.items()}
        config = {name: header.config[name] for name in _SECTIONS[role]}
        files[role] = folder / f"{role}.safetensors"
        metadata = header.metadata | {"config": json.dumps(config)}
        if role != "transformer_path":
            del metadata["model_version"]
        mx.save_safetensors(str(files[role]), chosen, metadata)
    return CheckpointFiles(**files)


def test_split_files_give_the_weights_of_the_whole_file_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    """With the prefixes of their names, and bare."""
    for name in ("prefixes", "bare"):
        (tmp_path / name).mkdir()
    both = [split(whole, tmp_path / name, name == "bare") for name in ("prefixes", "bare")]
    assert {read_checkpoint(files).version for files in both} == {read_checkpoint(whole).version}
    for part in [part for part in COMPONENTS if part not in ("gemma", "upsampler")]:
        theirs, *ours = (dict(tree_flatten(ltx2_mlx.load(part, path).parameters())) for path in (whole, *both))
        assert all(mine.keys() == theirs.keys() for mine in ours)
        same = [mx.array_equal(mine[name], theirs[name]) for mine in ours for name in theirs]
        assert mx.all(mx.stack(same)), part


def test_a_file_of_its_own_takes_the_place_of_that_part_of_a_whole_checkpoint(whole: Path, tmp_path: Path) -> None:
    arrays = {k: v * 2 for k, v in read_checkpoint(whole).arrays().items() if k.startswith("vae.")}
    vae = tmp_path / "vae.safetensors"
    mx.save_safetensors(str(vae), arrays, read_checkpoint(whole).metadata)
    files = CheckpointFiles(whole, video_vae_path=vae)
    key = "decoder.conv_in.conv.bias"
    ours = read_checkpoint(files)
    assert str(ours.tensors[f"vae.{key}"].file) == str(vae)
    assert ours.tensors["vocoder.vocoder.conv_pre.bias"].file == whole
    bias = ltx2_mlx.load("video_decoder", files).conv_in.conv.bias
    assert mx.array_equal(bias, arrays[f"vae.{key}"])


def test_a_file_that_lacks_parts_says_what_it_holds_and_what_to_give(whole: Path, tmp_path: Path) -> None:
    files = split(whole, tmp_path, bare=False)
    transformer = tmp_path / "transformer_path.safetensors"
    for part, flag in (
        ("video_decoder", "video-vae"),
        ("vocoder", "audio-vae"),
        ("embeddings_processor", "text-encoder"),
    ):
        with pytest.raises(WeightsError, match=f"holds the transformer only.*--{flag}-path"):
            ltx2_mlx.load(part, transformer)
    with pytest.raises(CheckpointError, match="it holds the video VAE, and --audio-vae-path needs the audio VAE"):
        read_checkpoint(CheckpointFiles(files.transformer_path, audio_vae_path=files.video_vae_path))


def test_flags_for_split_files_make_the_same_video(
    short_prompts: None, whole: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = split(whole, tmp_path, bare=True)
    flags = [x for role, file in files.given().items() for x in (f"--{role.replace('_', '-')}", str(file))]
    common = ["--pipeline", "ti2vid_one_stage", "--gemma-root", str(checkpoints / "tiny-gemma"), "--prompt", "a fox"]
    common += ["--height", "64", "--width", "64", "--num-frames", "9", "--num-inference-steps", "2", "--no-audio"]
    common += ["--video-stg-blocks", "0", "--audio-stg-blocks", "0", "--no-metadata"]
    for scale in ("video-cfg-guidance", "audio-cfg-guidance", "a2v-guidance", "v2a-guidance"):  # one pass a step
        common += [f"--{scale}-scale", "1"]
    common += ["--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0"]
    for name, given in (("split", flags), ("whole", ["--checkpoint-path", str(whole)])):
        assert main(["generate", *common, *given, "--output-path", str(tmp_path / name)]) == 0
    frames = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(frames) == 9
    for name in frames:
        assert (tmp_path / "split" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert main(["info", *flags]) == 0
    capsys.readouterr()
    without = flags[:-4]  # neither VAE
    assert main(["plan", *common, *without, "--output-path", str(tmp_path / "x")]) == 2
    out = capsys.readouterr().out
    assert "without the video decoder. Give the file that has it with --video-vae-path" in out


def test_plan_says_that_a_lora_changes_nothing(
    whole: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = mx.load(str(checkpoints / f"{TINY}-lora.safetensors"))
    idle = {key: x * 0 if "lora_B" in key else x for key, x in pairs.items()}
    mx.save_safetensors(str(tmp_path / "idle.safetensors"), idle)
    command = ["plan", "--pipeline", "ti2vid_one_stage", "--checkpoint-path", str(whole), "--prompt", "a fox"]
    command += ["--gemma-root", str(checkpoints / "tiny-gemma"), "--output-path", str(tmp_path / "x.mp4")]
    command += [
        "--height",
        "64",
        "--width",
        "64",
        "--num-frames",
        "9",
        "--video-stg-blocks",
        "0",
        "--audio-stg-blocks",
        "0",
    ]
    assert main([*command, "--lora", str(tmp_path / "idle.safetensors")]) == 0
    assert "84 of 84 pairs fit, strength 1; it changes nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--lora", str(tmp_path / "idle.safetensors"), "nan"])
    assert "the strength is nan, expected -100 to 100" in capsys.readouterr().err


def test_files_of_different_versions_are_refused(whole: Path, checkpoints: Path) -> None:
    files = CheckpointFiles(whole, video_vae_path=checkpoints / "tiny-2.0.safetensors")
    with pytest.raises(CheckpointError, match=r"different versions: .* is of version 2.3, .* is of version 2.0"):
        read_checkpoint(files)


# ---- 8 bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "a scale for each row"])
@pytest.mark.parametrize("scale_name", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_community_float8_is_the_bytes_times_their_scale(
    kind: str, scale_name: str, rows: bool, whole: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    dtype = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[kind]
    header = read_checkpoint(whole)
    expected, tensors = {}, {}
    for key, array in header.arrays().items():
        if not key.startswith("model.diffusion_model.") or "_connector" in key:
            continue
        name = key.removeprefix("model.diffusion_model.")
        value = torch.tensor(np.array(array.astype(mx.float32)))
        if value.ndim == 2 and key.endswith(".to_q.weight"):
            scale = value.abs().amax(1 if rows else (0, 1), keepdim=rows) / 300
            packed = (value / scale).to(dtype)
            expected[name] = packed.to(torch.float32) * scale
            tensors[key] = (kind, tuple(value.shape), packed.view(torch.uint8).numpy().tobytes())
            flat = scale.reshape(-1, 1) if rows else scale.reshape(())
            tensors[key.replace("weight", scale_name)] = ("F32", tuple(flat.shape), flat.numpy().tobytes())
            tensors[key.replace("weight", "scale_input")] = ("F32", (), bytes(4))
        else:
            expected[name] = value
            tensors[key] = ("F32", tuple(value.shape), value.numpy().tobytes())
    tensors["model.diffusion_model.scaled_fp8"] = (kind, (2,), bytes(2))
    path = write(tmp_path / "fp8.safetensors", tensors, **header.metadata)
    loaded = dict(tree_flatten(ltx2_mlx.load("transformer", path, mx.float32).parameters()))
    for name, value in loaded.items():
        assert np.array_equal(np.array(value), expected[name].numpy()), name
    cast = ltx2_mlx.load("transformer", path, mx.bfloat16, quantization="fp8-cast")
    layer = cast.transformer_blocks[0].attn1.to_q
    x = mx.eye(layer.weight.shape[1]).astype(mx.bfloat16)
    product = np.array((layer(x) - layer(mx.zeros_like(x))).astype(mx.float32)).T
    off = np.abs(product - expected["transformer_blocks.0.attn1.to_q.weight"].numpy()).max()
    assert off < 0.1 * np.abs(product).max()


@pytest.mark.parametrize(
    ("kind", "scale", "byte", "bad"), [("row", -0.1, 0x38, True), ("one", 0.0, 0x38, True), ("one", 0.0, 0, False)]
)
def test_a_scale_that_loses_a_weight_is_refused(
    kind: str, scale: float, byte: int, bad: bool, whole: Path, tmp_path: Path
) -> None:
    header, key = read_checkpoint(whole), f"{_BLOCK}.weight"
    kept = {k: x for k, x in header.arrays().items() if k.startswith("model.diffusion_model.") and k != key}
    tensors = {k: ("F32", tuple(x.shape), np.array(x.astype(mx.float32)).tobytes()) for k, x in kept.items()}
    shape = header.tensors[key].shape
    scales = np.full(shape[0] if kind == "row" else 1, scale, np.float32)
    tensors[key] = ("F8_E4M3", shape, bytes([byte]) * (shape[0] * shape[1]))
    tensors[f"{key}_scale"] = ("F32", scales.shape, scales.tobytes())
    path = write(tmp_path / "fp8.safetensors", tensors, **header.metadata)
    if bad:
        with pytest.raises(WeightsError, match=f"{path}: {key}_scale is zero or negative"):
            ltx2_mlx.load("transformer", path)
    else:
        ltx2_mlx.load("transformer", path)


def test_a_scale_of_another_shape_is_refused(whole: Path) -> None:
    header, key = read_checkpoint(whole), f"{_BLOCK}.weight"
    weight = replace(header.tensors[key], dtype="F8_E4M3")
    scale = replace(weight, dtype="F32", shape=(3,), key=f"{key}_scale")
    edited = replace(header, tensors=header.tensors | {key: weight, f"{key}_scale": scale})
    with pytest.raises(WeightsError, match="expected one number for the weight or one for each of its rows"):
        build("transformer", edited)
