"""``ltx2-mlx convert``, and files with packed weights: what is written, what is refused, and who knows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx import LTX2Error
from ltx2_mlx.cli.info import info
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.memory import weights
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.config import Gemma3TextConfig
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.loading.quantized import QuantizedLinear, quantized_bytes
from ltx2_mlx.text.gemma3 import Gemma3TextModel

FF = "model.diffusion_model.transformer_blocks.1.ff.net.2"


@pytest.fixture(scope="module")
def packed(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-2.0 in 8 bits, in groups of 32: of its channels, 20, 40, 80 and 160, only the last are a multiple."""
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    assert (
        main(["convert", str(checkpoints / "tiny-2.0.safetensors"), str(path), "--bits", "8", "--group-size", "32"])
        == 0
    )
    return path


def rewritten(source: Path, path: Path, change: Callable[[dict[str, mx.array]], object]) -> Path:
    checkpoint = read_checkpoint(source)
    tensors = dict(checkpoint.arrays())
    change(tensors)
    mx.save_safetensors(str(path), tensors, checkpoint.metadata)
    return path


# ---- what is written -----------------------------------------------------------------------------------------------


def test_all_that_is_not_packed_is_copied_and_the_metadata_says_what_was_packed(
    packed: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, found = read_checkpoint(checkpoints / "tiny-2.0.safetensors"), read_checkpoint(packed)
    layers = [key.removesuffix(".scales") for key in found.tensors if key.endswith(".scales")]
    assert layers == [FF.replace(".1.", f".{block}.") for block in range(3)]
    content = {path: path.read_bytes() for path in (packed, checkpoints / "tiny-2.0.safetensors")}
    for key, one in source.tensors.items():
        if key.removesuffix(".weight") not in layers:
            other = found.tensors[key]
            raw = [content[each.file][each.offset : each.offset + each.nbytes] for each in (one, other)]
            assert (one.dtype, one.shape, raw[0]) == (other.dtype, other.shape, raw[1]), key
    stated = json.loads(found.metadata.pop("quantization"))
    assert found.metadata == source.metadata
    expected = {"bits": 8, "group_size": 32, "mode": "affine", "layers": 3, "keep": [], "by": "ltx2-mlx convert"}
    assert stated == expected
    argv = ["convert", str(checkpoints / "tiny-2.0.safetensors"), str(tmp_path / "x.safetensors"), "--bits", "4"]
    assert main([*argv, "--group-size", "32", "--keep", "*.1.ff.net.2"]) == 0
    said = capsys.readouterr().out
    assert "2 layers in 4 bits, groups of 32, 1 kept by --keep, " in said
    assert "kept whose channels are no multiple of 32; " in said


def test_info_and_plan_know_a_packed_file(
    packed: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = (
        next(line for line in info(path).splitlines() if line.split()[:1] == ["transformer"])
        for path in (packed, checkpoints / "tiny-2.0.safetensors")
    )
    assert (
        new.split()[:1] + new.split()[2:3] == old.split()[:1] + old.split()[2:3]
        and "3 layers in 8 bits" in new
        and "bits" not in old
    )
    capsys.readouterr()
    assert main(["plan", *flags(packed, checkpoints, tmp_path)]) == 0
    assert main(["plan", *flags(packed, checkpoints, tmp_path), "--quantization", "q4"]) == 2
    assert "packed in 8 bits already; leave --quantization q4 out" in capsys.readouterr().out
    request = parse("plan", flags(packed, checkpoints, tmp_path))
    held = [
        weights(read_checkpoint(path), "transformer", request).held
        for path in (packed, checkpoints / "tiny-2.0.safetensors")
    ]
    assert held[1] - held[0] == 3 * (2 * 40 * 160 - quantized_bytes((40, 160), 8, 32))
    model = ltx2_mlx.load("transformer", packed)
    assert held[0] == sum(x.nbytes for _, x in tree_flatten(model.parameters()))
    assert "3 layers in 8 bits" in str(model.load_report)


def flags(checkpoint: Path, checkpoints: Path, folder: Path) -> list[str]:
    return [
        *("--distilled-checkpoint-path", str(checkpoint), "--gemma-root", str(checkpoints / "tiny-gemma")),
        *("--spatial-upsampler-path", str(checkpoints / "tiny-2.0-upsampler-x2.safetensors")),
        *("--height", "64", "--width", "64", "--num-frames", "9", "--prompt", "x"),
        *("--output-path", str(folder / "x.mp4")),
    ]


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_layer_multiplies_by_what_its_weight_stands_for(bits: int, rows: int) -> None:
    layer = QuantizedLinear(128, 24, True, bits, 64)
    layer.weight, layer.scales, layer.biases = mx.quantize(mx.random.normal((24, 128)), group_size=64, bits=bits)
    layer.bias = mx.random.normal((24,))
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=64, bits=bits)
    x = mx.random.normal((1, rows, 128))
    expected = np.array(x, np.float64) @ np.array(weight, np.float64).T + np.array(layer.bias)
    np.testing.assert_allclose(np.array(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_quantized_bytes_are_those_of_the_arrays() -> None:
    for bits in (4, 8):
        for size in (32, 64, 128):
            parts = mx.quantize(mx.zeros((6, 256), mx.bfloat16), group_size=size, bits=bits)
            assert quantized_bytes((6, 256), bits, size) == sum(part.nbytes for part in parts)


def test_float8_is_packed_from_the_numbers_that_it_stands_for(checkpoints: Path, tmp_path: Path) -> None:
    """With and without a scale beside it, which is dropped; a layer that is not packed keeps both."""
    layers = [FF.replace(".1.", f".{block}.") for block in range(3)]

    def cast(tensors: dict[str, mx.array]) -> None:
        for layer in layers:
            tensors[f"{layer}.weight"] = mx.to_fp8(tensors[f"{layer}.weight"] * 100)
        for layer in layers[1:]:
            tensors[f"{layer}.weight_scale"] = mx.array(0.01)

    path, out = tmp_path / "fp8.safetensors", tmp_path / "out.safetensors"
    data = rewritten(checkpoints / "tiny-2.0.safetensors", path, cast).read_bytes()
    length = int.from_bytes(data[:8], "little")  # MLX writes U8
    header = data[8 : 8 + length].replace(b'"U8"', b'"F8_E4M3"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert main(["convert", str(path), str(out), "--bits", "8", "--group-size", "32", "--keep", "*.2.ff.net.2"]) == 0
    left = [key for key in read_checkpoint(out).tensors if key.endswith("weight_scale")]
    assert left == [f"{layers[2]}.weight_scale"]
    plain, packed = (ltx2_mlx.load("transformer", file).transformer_blocks for file in (path, out))
    for block in range(2):
        layer = packed[block].ff.net[2]
        expected = mx.quantize(plain[block].ff.net[2].weight, group_size=32, bits=8)
        found = (layer.weight, layer.scales, layer.biases)
        assert all(mx.array_equal(a, b).item() for a, b in zip(expected, found, strict=True))
    assert mx.array_equal(plain[2].ff.net[2].weight, packed[2].ff.net[2].weight).item()


# ---- what is refused -----------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[str], str]] = {
    "bits 3": (["--bits", "3"], "bits is 3, expected 4 or 8"),
    "bits 7": (["--bits", "7"], "bits is 7, expected 4 or 8"),
    "bits of a word": (["--bits", "x"], "invalid int value: 'x'"),
    "no bits": ([], "--bits"),
    "group 17": (["--bits", "4", "--group-size", "17"], "the group size is 17, expected 32, 64, 128"),
    "no channels": (["--bits", "8"], "none of 84 layers can be packed"),
    "keep of nothing": (["--bits", "8", "--group-size", "32", "--keep", "blocks.*"], "no layer is named 'blocks.*'"),
    "keep of all": (["--bits", "8", "--group-size", "32", "--keep", "*"], "can be packed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_are_one_line(
    name: str, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = REFUSED[name]
    argv = ["convert", str(checkpoints / "tiny-2.0.safetensors"), str(tmp_path / "x.safetensors"), *arguments]
    assert code(argv) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())


def code(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def test_what_exists_stays_and_a_source_is_never_replaced(
    packed: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoints / "tiny-2.0.safetensors", tmp_path / "x.safetensors"
    out.write_text("mine")
    how = ["--bits", "8", "--group-size", "32"]
    for argv, message in (
        ([str(source), str(out), *how], "--overwrite to replace it"),
        ([str(source), str(source), *how, "--overwrite"], "an input of this run"),
        ([str(source), str(tmp_path / "x.bin"), *how], "must be named .safetensors"),
        ([str(source), str(tmp_path), *how], "must be named .safetensors"),
        ([str(packed), str(tmp_path / "y.safetensors"), *how], "packed in 8 bits already"),
        ([str(tmp_path / "none.safetensors"), str(tmp_path / "y.safetensors"), *how], "no such file"),
        ([str(checkpoints / "tiny-2.0-upsampler-x2.safetensors"), str(tmp_path / "y.safetensors"), *how], "upsampler"),
    ):
        assert main(["convert", *argv]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"] and out.read_text() == "mine"
    assert main(["convert", str(source), str(out), *how, "--overwrite"]) == 0
    assert out.read_bytes() == packed.read_bytes()


def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(tensors: dict[str, mx.array]) -> None:
        tensors[f"{FF}.weight"] = mx.full((40, 160), float("nan"), mx.bfloat16)

    path = rewritten(checkpoints / "tiny-2.0.safetensors", tmp_path / "nan.safetensors", damage)
    assert main(["convert", str(path), str(tmp_path / "x.safetensors"), "--bits", "8", "--group-size", "32"]) == 2
    assert f"{FF}.weight holds NaN" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["nan.safetensors"]


def replaced(key: str, array: mx.array | None) -> Callable[[dict[str, mx.array]], object]:
    def change(tensors: dict[str, mx.array]) -> None:
        tensors.pop(key, None)
        if array is not None:
            tensors[key] = array

    return change


DAMAGED = {
    "scales missing": (replaced(f"{FF}.scales", None), f"missing {FF}.scales"),
    "biases missing": (replaced(f"{FF}.biases", None), f"missing {FF}.biases (40, 5)"),
    "weight missing": (replaced(f"{FF}.weight", None), f"missing {FF}.weight (40, 160)"),
    "scales of another layer": (replaced(f"{FF}x.scales", mx.zeros((40, 5))), f"left over {FF}x.scales"),
    "biases of another shape": (replaced(f"{FF}.biases", mx.zeros((40, 6))), f"misshaped {FF}.biases"),
    "scales of another shape": (replaced(f"{FF}.scales", mx.zeros((40, 9))), f"{FF}.scales: (40, 9) is no scale"),
    "rows": (replaced(f"{FF}.weight", mx.zeros((39, 40), mx.uint32)), f"misshaped {FF}.weight: (39, 40) in the file"),
    "bits": (replaced(f"{FF}.weight", mx.zeros((40, 41), mx.uint32)), "does not hold rows of 160 numbers"),
    "another mode": (replaced(f"{FF}.scales", mx.zeros((40, 5), mx.uint8)), "mxfp4, mxfp8 or nvfp4"),
    "words of 8 bits": (replaced(f"{FF}.weight", mx.zeros((40, 160), mx.uint8)), "is U8, expected BF16"),
    "scales of integers": (replaced(f"{FF}.scales", mx.zeros((40, 5), mx.int32)), f"{FF}.scales is I32, expected BF16"),
    "scales beside a plain weight": (replaced(f"{FF}.weight", mx.zeros((40, 160))), f"left over {FF}.biases"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_packed_file_is_loaded_strictly(name: str, packed: Path, tmp_path: Path) -> None:
    change, message = DAMAGED[name]
    path = rewritten(packed, tmp_path / "x.safetensors", change)
    with pytest.raises(ltx2_mlx.WeightsError) as caught:
        ltx2_mlx.load("transformer", path)
    assert message in str(caught.value)


def test_a_packed_file_of_another_program_is_named_in_one_sentence(packed: Path, tmp_path: Path) -> None:
    def rename(tensors: dict[str, mx.array]) -> None:
        for key in [key for key in tensors if ".ff.net.2." in key]:
            tensors[key.replace("net.2", "proj_out")] = tensors.pop(key)

    path = rewritten(packed, tmp_path / "x.safetensors", rename)
    with pytest.raises(LTX2Error, match="a transformer with the names of another MLX program, expected one of LTX-2"):
        ltx2_mlx.load("transformer", path)


def test_what_is_packed_or_cannot_be_is_not_packed_while_it_is_loaded(packed: Path, checkpoints: Path) -> None:
    with pytest.raises(ltx2_mlx.InputError, match="packed in 8 bits already"):
        ltx2_mlx.load("transformer", packed, quantization="fp8-cast")
    with pytest.raises(ltx2_mlx.InputError, match="none of 84 layers can be packed"):
        ltx2_mlx.load("transformer", checkpoints / "tiny-2.0.safetensors", quantization="q8")
    with pytest.raises(ltx2_mlx.InputError, match="the component is video_decoder"):
        ltx2_mlx.load("video_decoder", packed, quantization="q8")


# ---- Gemma ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma of two layers whose channels are a multiple of 64."""
    folder = tmp_path_factory.mktemp("gemma") / "gemma"
    shutil.copytree(checkpoints / "tiny-gemma", folder, ignore=shutil.ignore_patterns("model*"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(3)
    named = tree_flatten(Gemma3TextModel(Gemma3TextConfig.from_metadata(config)).parameters())
    tensors = {
        f"language_model.model.{name}": mx.array(draw.normal(0, x.shape[-1] ** -0.5, x.shape)).astype(mx.bfloat16)
        for name, x in named
    }
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def states(folder: Path, **options: str) -> list[mx.array]:
    ids = mx.array([[0, 2, 17, 300, 401, 9]])
    return list(ltx2_mlx.load("gemma", folder, mx.float32, **options)(ids, mx.array([[0, 1, 1, 1, 1, 1]])))


def test_a_gemma_folder_is_converted_whole(gemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(gemma), str(out), "--bits", "4"]) == 0
    assert "14 layers in 4 bits, groups of 64" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {path.name for path in gemma.iterdir()}
    assert json.loads((out / "config.json").read_text())["quantization"] == {
        "bits": 4,
        "group_size": 64,
        "mode": "affine",
    }
    both = states(out), states(gemma, quantization="q4")
    assert all(mx.array_equal(a, b).item() for a, b in zip(*both, strict=True))
    assert not mx.allclose(both[0][-1], states(gemma)[-1], rtol=1e-3).item()
    assert main(["convert", str(gemma), str(out), "--bits", "8"]) == 2
    assert main(["convert", str(gemma), str(out), "--bits", "8", "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    assert main(["convert", str(gemma), str(tmp_path / "mine"), "--bits", "8", "--overwrite"]) == 2
    assert "holds thesis.txt and no converted Gemma" in capsys.readouterr().err
    assert main(["convert", str(out), str(tmp_path / "again"), "--bits", "8"]) == 2
    assert "packed in 8 bits already" in capsys.readouterr().err


def as_by_mlx_lm(gemma: Path, folder: Path, **stated: object) -> tuple[Path, dict[str, mx.array]]:
    """The folder as mlx-lm packs it: each layer and the embedding, in bits of its own; and the same weights whole."""
    shutil.copytree(gemma, folder)
    tensors, whole = {}, {}
    for key, array in mx.load(str(gemma / "model.safetensors")).items():
        if array.ndim == 2:
            how = {
                "group_size": 32 if "down_proj" in key else 64,
                "bits": 6 if "embed" in key or "v_proj" in key else 4,
            }
            parts = mx.quantize(array, **how)
            names = ("weight", "scales", "biases")
            tensors |= {key.removesuffix("weight") + name: part for name, part in zip(names, parts, strict=True)}
            exact = (part if i == 0 else part.astype(mx.float32) for i, part in enumerate(parts))
            whole[key] = mx.dequantize(*exact, **how)
        else:
            tensors[key] = whole[key] = array
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    config = json.loads((folder / "config.json").read_text()) | stated
    (folder / "config.json").write_text(json.dumps(config))
    return folder, whole


@pytest.mark.parametrize("key", ["quantization", "quantization_config", ""])
def test_a_gemma_that_another_mlx_program_packed_gives_the_states_of_its_numbers(
    key: str, gemma: Path, tmp_path: Path
) -> None:
    stated = {key: {"bits": 4, "group_size": 64, "language_model.model.embed_tokens": {"bits": 6}}} if key else {}
    folder, whole = as_by_mlx_lm(gemma, tmp_path / "mlx", **stated)
    shutil.copytree(gemma, tmp_path / "whole")
    mx.save_safetensors(str(tmp_path / "whole" / "model.safetensors"), whole)
    for ours, exact in zip(states(folder), states(tmp_path / "whole"), strict=True):
        assert float(mx.linalg.norm(ours - exact) / mx.linalg.norm(exact)) < 1e-5
    assert read_gemma(folder).holds("gemma")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"quantization": {"bits": 4, "mode": "mxfp4"}}, "a quantized Gemma (4 bits), which is not read here"),
        ({"quantization_config": {"quant_method": "awq"}}, "a quantized Gemma (awq), which is not read here"),
        ({"quantization": 4}, "a quantized Gemma"),
    ],
)
def test_other_ways_to_pack_a_gemma_are_refused(
    stated: dict[str, object], message: str, gemma: Path, tmp_path: Path
) -> None:
    folder, _ = as_by_mlx_lm(gemma, tmp_path / "mlx", **stated)
    with pytest.raises(ltx2_mlx.ConfigError) as caught:
        read_gemma(folder)
    assert message in str(caught.value)
