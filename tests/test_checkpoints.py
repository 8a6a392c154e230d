"""Files that are no whole checkpoint: one clear line and exit code 2, from both programs."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx.cli.main import main as ltx2_mlx_main
from ltx2_mlx.loading.load import read_checkpoint
from ltx2_mlx.loading.quantization import FP8
from ltx2_mlx.nn.finite import SMALL, every_finite
from parity.cli import main as parity_main
from parity.declare.inputs import FIXTURES

KEY = "model.diffusion_model.transformer_blocks.1.attn2.to_k.weight"


def rewrite(source: Path, target: Path, edit: Callable[[dict], None], repack: bool = True) -> Path:
    """``source`` with its header edited. repack: each tensor that is left has its own data, without gaps."""
    raw = source.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    data = raw[8 + length :]
    if repack:
        parts, end = [], 0
        for name, entry in header.items():
            if name != "__metadata__":
                parts.append(data[slice(*entry["data_offsets"])])
                header[name] = entry | {"data_offsets": [end, end + len(parts[-1])]}
                end += len(parts[-1])
        data = b"".join(parts)
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return target


def config_edit(**changes: object) -> Callable[[dict], None]:
    def edit(header: dict) -> None:
        config = json.loads(header["__metadata__"]["config"])
        for key, value in changes.items():
            if value is None:
                del config["transformer"][key]
            else:
                config["transformer"][key] = value
        header["__metadata__"]["config"] = json.dumps(config)

    return edit


def _extra(header: dict) -> None:
    header["model.diffusion_model.transformer_blocks.0.surprise"] = header[KEY]


def _misshaped(header: dict) -> None:
    header[KEY]["shape"] = [*header[KEY]["shape"][::-1], 1]


EDITS = {
    "no metadata": (lambda h: h.pop("__metadata__"), "the metadata has no 'config'"),
    "no config": (lambda h: h["__metadata__"].pop("config"), "the metadata has no 'config'"),
    "config is not JSON": (lambda h: h["__metadata__"].update(config="{"), "not JSON"),
    "config is a list": (lambda h: h["__metadata__"].update(config="[]"), "expected an object"),
    "no section": (lambda h: h["__metadata__"].update(config="{}"), "no section 'transformer'"),
    "unknown version": (lambda h: h["__metadata__"].update(model_version="2.6.0"), "model_version is '2.6.0'"),
    "version 2.30": (lambda h: h["__metadata__"].update(model_version="2.30"), "model_version is '2.30'"),
    "missing key": (lambda h: h.pop(KEY), f"missing {KEY}"),
    "extra key": (_extra, "left over model.diffusion_model.transformer_blocks.0.surprise"),
    "misshaped key": (_misshaped, f"misshaped {KEY}"),
    "unknown config key": (config_edit(gg_bias=True), "gg_bias=True"),
    "other activation": (config_edit(activation_fn="gelu"), "transformer.activation_fn is 'gelu'"),
    "no rope type": (config_edit(rope_type=None), "lacks rope_type"),
    "odd rope type": (config_edit(rope_type="spiral"), "transformer.rope_type is 'spiral'"),
    "no av multiplier": (
        config_edit(av_ca_timestep_scale_multiplier=None),
        "av_ca_timestep_scale_multiplier is missing",
    ),
    "a word for a number": (config_edit(num_layers="three"), "transformer.num_layers is 'three', expected int"),
    "no layers": (config_edit(num_layers=0), "expected a positive number"),
    "width": (config_edit(cross_attention_dim=41), "transformer.cross_attention_dim is 41, expected 40"),
    "no metadata table": (lambda h: h.update(__metadata__=[1]), "not a safetensors file"),
    "unknown dtype": (lambda h: h[KEY].update(dtype="Q7"), "not a safetensors file"),
}
MOVED = {
    "odd offsets": (lambda h: h[KEY].update(data_offsets=[4, 2]), "its tensors do not fill it exactly"),
    "a gap": (lambda h: h.pop(KEY), "its tensors do not fill it exactly"),
    "an overlap": (_extra, "its tensors do not fill it exactly"),
}


def damaged(name: str, whole: Path, folder: Path) -> tuple[Path, str]:
    """A bad file and what must be said of it."""
    path = folder / "bad.safetensors"
    if name in EDITS:
        edit, message = EDITS[name]
        return rewrite(whole, path, edit), message
    if name in MOVED:
        edit, message = MOVED[name]
        return rewrite(whole, path, edit, repack=False), message
    if name == "fifo":
        os.mkfifo(path)
        return path, "a FIFO, expected a .safetensors file"
    if name == "missing file":
        return folder / "nothing.safetensors", "no such file"
    if name == "folder":
        return folder, "a folder, expected a .safetensors file"
    data, message = {
        "empty": (b"", "empty file"),
        "text": (b"this is not a checkpoint, but a note about one", "not a safetensors file"),
        "three bytes": (b"abc", "not a safetensors file"),
        "truncated data": (whole.read_bytes()[:-1000], "truncated"),
        "truncated header": (whole.read_bytes()[:2000], "truncated"),
        "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "header claims 9,223,372,036,854,775,808 bytes"),
        "zeros": (bytes(64), "not a safetensors file"),
        "a tail": (whole.read_bytes() + bytes(64), "64 bytes follow the last tensor"),
    }[name]
    path.write_bytes(data)
    return path, message


BAD = [*EDITS, *MOVED, "missing file", "folder", "empty", "text", "three bytes", "truncated data", "truncated header"]
BAD += ["header of 2^63 bytes", "zeros", "a tail", "fifo"]
PROGRAMS = {
    "info": lambda path: ltx2_mlx_main(["info", str(path)]),
    "parity": lambda path: parity_main(["run", "--checkpoint", str(path)]),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint_gets_one_line_and_code_2(
    name: str, program: str, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message = damaged(name, checkpoints / "tiny-2.0-interleaved.safetensors", tmp_path)
    assert PROGRAMS[program](path) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_module_entry_points_end_without_a_traceback(tmp_path: Path) -> None:
    for module, arguments in (("ltx2_mlx", ["info"]), ("parity", ["run", "--checkpoint"])):
        run = [sys.executable, "-m", module, *arguments, str(tmp_path / "none.safetensors")]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no such file" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["tiny-2.0", "tiny-2.3", "tiny-2.0-interleaved", "tiny-2.3-video-only"])
def test_info_of_a_whole_checkpoint(name: str, checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ltx2_mlx_main(["info", str(checkpoints / f"{name}.safetensors")]) == 0
    out = capsys.readouterr().out
    assert f"version   {name[5:8]}.0" in out
    assert "whole: every key used once, every shape right" in out
    assert "missing" in out  # the parts that these files do not hold


@pytest.mark.parametrize(
    "words",
    [
        ["info", "~nosuchuser/x"],
        ["convert", "~nosuchuser/x.safetensors", "made", "--bits", "8"],
        ["convert", str(FIXTURES / "tiny-2.0.safetensors"), "~nosuchuser/x", "--bits", "8"],
        ["plan", "--config", "~nosuchuser/x", "--output-path", "x.mp4"],
    ],
)
def test_the_home_of_nobody_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ltx2_mlx_main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "~nosuchuser/x" in said and "no such user" in said


def test_load_uses_every_key_once_and_keeps_every_bit(checkpoints: Path) -> None:
    path = checkpoints / "tiny-2.3.safetensors"
    header, raw = read_checkpoint(path), mx.load(str(path))
    keys = header.components()["transformer"].values()
    module = ltx2_mlx.load("transformer", path)
    report = module.load_report
    assert (report.tensors, report.parameters) == (len(keys), 419_654)
    assert "0 missing, 0 left over" in str(report)
    loaded = dict(tree_flatten(module.parameters()))
    assert {f"model.diffusion_model.{name}" for name in loaded} == set(keys)
    for name, value in loaded.items():
        assert value.dtype == mx.bfloat16
        assert mx.array_equal(value, raw[f"model.diffusion_model.{name}"])


@pytest.mark.parametrize(
    ("part", "prefix"),
    [("audio_encoder", "audio_vae.encoder."), ("audio_decoder", "audio_vae.decoder."), ("vocoder", "vocoder.")],
)
def test_load_turns_convolutions_and_keeps_every_bit(part: str, prefix: str, checkpoints: Path) -> None:
    path = checkpoints / "tiny-2.3.safetensors"
    raw, module = mx.load(str(path)), ltx2_mlx.load(part, path)
    statistics = "audio_vae.per_channel_statistics."
    own = {key for key in raw if key.startswith((prefix, statistics) if part != "vocoder" else prefix)}
    assert module.load_report.tensors == len(own)
    axes = ltx2_mlx.loading.load._file_axes(ltx2_mlx.loading.load._parts(module))
    for name, value in tree_flatten(module.parameters()):
        key = prefix + name if prefix + name in raw else f"audio_vae.{name}"
        turned = raw[key].transpose(axes[name]) if name in axes else raw[key]
        assert value.dtype == (mx.float32 if part == "vocoder" else mx.bfloat16)
        assert mx.array_equal(value, turned.astype(value.dtype)), name


def test_a_component_of_several_prefixes_names_its_keys(checkpoints: Path, tmp_path: Path) -> None:
    path = checkpoints / "tiny-2.3.safetensors"
    raw, report = mx.load(str(path)), ltx2_mlx.load("embeddings_processor", path).load_report
    connectors = [k for k in raw if "_embeddings_connector." in k or k.startswith("text_embedding_projection.")]
    assert report.tensors == len(connectors) == 262
    lost = "model.diffusion_model.audio_embeddings_connector.learnable_registers"
    bad = rewrite(path, tmp_path / "bad.safetensors", lambda header: header.pop(lost))
    with pytest.raises(ltx2_mlx.WeightsError, match=lost):
        ltx2_mlx.load("embeddings_processor", bad)
    lost = "text_embedding_projection.video_aggregate_embed.weight"
    bad = rewrite(path, tmp_path / "bad.safetensors", lambda header: header.pop(lost))
    with pytest.raises(ltx2_mlx.WeightsError, match="missing text_embedding_projection"):
        ltx2_mlx.load("embeddings_processor", bad)


def test_load_keeps_float32_values_that_bfloat16_cannot_hold(checkpoints: Path, tmp_path: Path) -> None:
    """The tiny files are bfloat16, so that a detour of float32 weights through bfloat16 would not show in them."""
    source = mx.load(str(checkpoints / "tiny-2.0.safetensors"))
    scaled = {key: value.astype(mx.float32) * (1 + 2.0**-12) for key, value in source.items()}
    path = tmp_path / "float32.safetensors"
    mx.save_safetensors(str(path), scaled, metadata=read_checkpoint(checkpoints / "tiny-2.0.safetensors").metadata)
    module = ltx2_mlx.load("transformer", path, mx.float32)
    for name, value in tree_flatten(module.parameters()):
        assert mx.array_equal(value, scaled[f"model.diffusion_model.{name}"]), name


def test_load_refuses_a_component_that_does_not_exist(checkpoints: Path) -> None:
    with pytest.raises(ltx2_mlx.CheckpointError, match="the component is 'decoder', expected one of transformer"):
        ltx2_mlx.load("decoder", checkpoints / "tiny-2.0.safetensors")


def test_fixtures_come_out_the_same_and_hold_no_blind_values(checkpoints: Path) -> None:
    """Built again, the bytes are those pinned; no tensor is constant or holds a zero, nor equals another. Two single
    numbers of other kinds may be equal by chance."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("fixtures_make", checkpoints.parent / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert set(make.pinned()) == set(make.files()), "run fixtures/make.py --pin"
    for name in make.names():
        path = checkpoints / f"{name}.safetensors"
        assert make.build(name) == path.read_bytes()
        seen = set()
        for key, value in mx.load(str(path)).items():
            assert value.dtype == mx.bfloat16, key
            bits = np.array(value.view(mx.uint16))
            size = bits & 0x7FFF  # without the sign: 0 is zero, from 0x7F80 on it is not finite
            assert size.min() > 0 and size.max() < 0x7F80, key
            assert bits.size == 1 or bits.min() < bits.max(), key
            seen.add((bits.tobytes(), key.rpartition(".")[2] if bits.size == 1 else ""))
        assert len(seen) == len(read_checkpoint(path).tensors)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("size", [3, SMALL + 5])
def test_one_number_that_is_not_finite_is_seen_among_many_arrays(dtype: mx.Dtype, size: int) -> None:
    sound = [mx.ones((2, 3), dtype), mx.zeros((0,), dtype), mx.ones((SMALL + 1,), mx.float32), mx.full((4,), 0x7E, FP8)]
    assert every_finite(sound).item() and every_finite([]).item()
    for bad in ("nan", "inf", "-inf"):
        damaged = mx.ones((size,), dtype)
        damaged[size - 1] = float(bad)
        assert not every_finite([*sound, damaged, *sound]).item()
    assert not every_finite([*sound, mx.array([0x7F], FP8)]).item()
