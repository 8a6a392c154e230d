"""Checkpoints that are released in float8, with and without scales, beside what the reference makes of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP
from ltx_core.loader.fuse_loras import apply_loras
from ltx_core.loader.primitives import LoraStateDictWithStrength, StateDict
from ltx_core.loader.sft_loader import SafetensorsStateDictLoader
from ltx_core.quantization.fp8_cast import TRANSFORMER_LINEAR_DOWNCAST_MAP
from ltx_core.quantization.fp8_scaled_mm import quantize_weight_to_fp8_per_tensor
from mlx.utils import tree_flatten
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ltx2_mlx
from ltx2_mlx.loading.quantization import from_fp8, is_downcast, to_fp8
from parity.faults.catalogue import Fault, planted
from parity.sides import mlx as ours
from parity.sides import torch as reference

PREFIX = "model.diffusion_model."
FP8 = torch.float8_e4m3fn


def transformer(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    return {k: t for k, t in tensors.items() if k.startswith(PREFIX) and "_connector." not in k}, metadata


@pytest.fixture(scope="module")
def unscaled(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layers that fp8-cast chooses, and one that it does not, stored in float8."""
    tensors, metadata = transformer(checkpoints / "tiny-2.3.safetensors")
    stored = {
        key: tensor.to(FP8) if is_downcast(key.removeprefix(PREFIX)) or "to_gate_logits" in key else tensor
        for key, tensor in tensors.items()
    }
    path = tmp_path_factory.mktemp("fp8") / "unscaled.safetensors"
    save_file(stored, path, metadata)
    return path


@pytest.fixture(scope="module")
def scaled(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the middle block in float8 with scales, by the reference's own quantizer."""
    tensors, metadata = transformer(checkpoints / "tiny-2.3.safetensors")
    stored = dict(tensors)
    for key, tensor in tensors.items():
        if is_downcast(key.removeprefix(PREFIX)) and key.endswith(".weight") and "blocks.1." in key:
            weight, scale = quantize_weight_to_fp8_per_tensor(tensor)
            layer = key.removesuffix("weight")
            stored |= {key: weight.t(), f"{key}_scale": scale, f"{layer}input_scale": torch.tensor(3.0)}
    path = tmp_path_factory.mktemp("fp8") / "scaled.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, path, metadata)
    return path


def differing(a: dict[str, torch.Tensor], b: dict[str, mx.array]) -> list[str]:
    assert a.keys() == b.keys()
    wide = {name: np.array(x.astype(mx.float32)) for name, x in b.items()}
    return [name for name, x in a.items() if not np.array_equal(x.float().numpy(), wide[name])]


def test_every_value_rounds_to_float8_and_back_as_in_torch() -> None:
    every = np.arange(65536, dtype=np.uint16)
    values = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16)
    theirs = values.to(FP8).view(torch.uint8).numpy() & np.where(values.isnan(), 0x7F, 0xFF)
    assert np.array_equal(theirs, np.array(to_fp8(mx.array(every).view(mx.bfloat16))))
    codes = np.arange(256, dtype=np.uint8)
    for name in ("bfloat16", "float16", "float32"):
        there = torch.from_numpy(codes).view(FP8).to(getattr(torch, name)).float().numpy()
        assert np.array_equal(
            there, np.array(from_fp8(mx.array(codes), getattr(mx, name)).astype(mx.float32)), equal_nan=True
        )


@pytest.mark.parametrize("quantization", [None, "fp8-cast"])
@pytest.mark.parametrize("kinds", [(), ("lora",), ("lora", "distilled-lora")], ids=len)
def test_a_float8_file_loads_as_in_the_reference(
    quantization: str | None, kinds: tuple[str, ...], unscaled: Path, checkpoints: Path
) -> None:
    loras = tuple((checkpoints / f"tiny-2.3-{kind}.safetensors", 0.7) for kind in kinds)
    theirs = reference.loaded_weights(unscaled, loras, torch.bfloat16, quantization)
    found = ours.loaded_weights(unscaled, loras, mx.bfloat16, quantization)
    gates = {name for name in found if "to_gate_logits" in name}  # theirs stay in float8 until they are used
    for name in gates if quantization else ():
        theirs[name] = theirs[name].view(FP8).to(torch.bfloat16)
    assert differing(theirs, found) == []


def decoded(path: Path) -> dict[str, torch.Tensor]:
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in transformer(path)[0].items()}
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scale")}
    return {n: t.float() * scales.get(f"{n}_scale", torch.tensor(1.0)) for n, t in tensors.items()}


def loaded(path: Path, **options: object) -> dict[str, mx.array]:
    module = importlib.import_module("ltx2_mlx").load("transformer", path, mx.float32, **options)
    return dict(tree_flatten(module.parameters()))


def test_a_scaled_file_is_decoded_by_the_scales_of_its_weights(scaled: Path) -> None:
    assert differing(decoded(scaled), loaded(scaled)) == []


def test_a_scaled_file_stays_scaled_under_fp8_cast(scaled: Path) -> None:
    """Bytes and scales are the file's, and the layer computes with their product."""
    model = ltx2_mlx.load("transformer", scaled, mx.float32, quantization="fp8-cast")
    layer, other = model.transformer_blocks[1].attn1.to_q, model.transformer_blocks[0].attn1.to_q
    key = f"{PREFIX}transformer_blocks.1.attn1.to_q.weight"
    assert np.array_equal(np.array(layer.weight), transformer(scaled)[0][key].view(torch.uint8).numpy())
    assert "weight_scale" not in other
    x = mx.random.normal((3, layer.weight.shape[1]), key=mx.random.key(1))
    weight = decoded(scaled)["transformer_blocks.1.attn1.to_q.weight"]
    bias = torch.from_numpy(np.array(from_fp8(layer.bias, mx.float32)))
    expected = torch.nn.functional.linear(torch.from_numpy(np.array(x)), weight, bias)
    assert np.allclose(expected.numpy(), np.array(layer(x)), rtol=1e-5, atol=1e-5)
    assert layer(x.astype(mx.bfloat16)).dtype == mx.bfloat16


def test_a_lora_on_scaled_weights_is_fused_as_in_the_reference(scaled: Path, checkpoints: Path) -> None:
    """Its apply_loras takes these weights transposed, as fp8-scaled-mm holds them, and makes new bytes and scales."""
    file = checkpoints / "tiny-2.3-lora.safetensors"
    lora = SafetensorsStateDictLoader().load(str(file), LTXV_LORA_COMFY_RENAMING_MAP)
    tensors = {key.removeprefix(PREFIX): t for key, t in transformer(scaled)[0].items() if "input_scale" not in key}
    mine = {n: t.t() if t.dtype == FP8 else t for n, t in tensors.items() if ".1.attn1.to_q.weight" in n}
    state = StateDict(mine, torch.device("cpu"), 0, set())
    theirs = apply_loras(state, [LoraStateDictWithStrength(lora, 0.7)]).sd
    theirs = {n: t.t().view(torch.uint8) if t.dtype == FP8 else t for n, t in theirs.items()}
    found = loaded(scaled, loras=[ltx2_mlx.LoraPathStrength(file, 0.7)], quantization="fp8-cast")
    assert len(theirs) == 2
    assert differing(theirs, {name: found[name] for name in theirs}) == []


def test_the_layers_of_fp8_cast_are_the_reference_s(checkpoints: Path) -> None:
    for path in (checkpoints / "tiny-2.0.safetensors", checkpoints / "tiny-2.3.safetensors"):
        names = [key.removeprefix(PREFIX) for key in transformer(path)[0]]
        zero = torch.zeros(())
        chosen = [n for n in names if TRANSFORMER_LINEAR_DOWNCAST_MAP.apply_to_key_value(n, zero)[0][1].dtype == FP8]
        assert chosen == [name for name in names if is_downcast(name)]
        assert 0 < len(chosen) < len(names)


def rewritten(path: Path, folder: Path, **changes: torch.Tensor | None) -> Path:
    """A copy with tensors of one layer replaced, added or (None) removed."""
    tensors, metadata = transformer(path)
    layer = f"{PREFIX}transformer_blocks.1.attn1.to_q."
    tensors |= {layer + name: tensor for name, tensor in changes.items()}
    save_file({k: t.contiguous() for k, t in tensors.items() if t is not None}, folder / "x.safetensors", metadata)
    return folder / "x.safetensors"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("attn1.to_q.input_scale stands without .*attn1.to_q.weight_scale", {"weight_scale": None}),
        ("attn1.to_q.weight_scale is .7,., expected one number", {"weight_scale": torch.ones(7)}),
        ("to_q.weight_scale and .*to_q.scale_weight scale the same weight", {"scale_weight": torch.ones(())}),
        ("attn1.to_q.bias is U8, expected BF16", {"bias": torch.ones(56, dtype=torch.uint8)}),
        ("left over .*attn1.to_q.weight_scale", {"weight": torch.ones(56, 56)}),
        ("attn1.to_q.bias is I8, expected BF16", {"bias": torch.ones(56, dtype=torch.int8)}),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_name(message: str, changes: dict, scaled: Path, tmp_path: Path) -> None:
    with pytest.raises(ltx2_mlx.CheckpointError, match=message):
        ltx2_mlx.load("transformer", rewritten(scaled, tmp_path, **changes))


def test_a_file_that_mlx_cannot_read_gives_the_same_weights(scaled: Path, tmp_path: Path) -> None:
    tensors, metadata = transformer(scaled)
    other = {"vae.decoder.other": torch.ones(3).to(torch.float8_e5m2)}
    save_file(tensors | other, tmp_path / "x.safetensors", metadata)
    with pytest.raises(RuntimeError, match="F8_E5M2"):
        mx.load(str(tmp_path / "x.safetensors"))
    ours, theirs = (
        tree_flatten(ltx2_mlx.load("transformer", path).parameters()) for path in (tmp_path / "x.safetensors", scaled)
    )
    assert len(ours) == len(theirs)
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        assert mx.array_equal(a, b), name


def test_policies_that_are_not_here_say_what_is(scaled: Path) -> None:
    with pytest.raises(ltx2_mlx.InputError, match=r"needs TensorRT-LLM.*use fp8-cast"):
        ltx2_mlx.load("transformer", scaled, quantization="fp8-scaled-mm")
    with pytest.raises(ltx2_mlx.InputError, match="'int4', expected fp8-cast, q8, q4 or None"):
        ltx2_mlx.load("transformer", scaled, quantization="int4")
    with pytest.raises(ltx2_mlx.InputError, match="the component is video_decoder"):
        ltx2_mlx.load("video_decoder", scaled, quantization="fp8-cast")


SCALED_FAULTS = (
    Fault(
        "L10a",
        "the weight's scale ignored",
        "loading/weights.py",
        "decode(array, mx.float32) * scale",
        "decode(array, mx.float32)",
        "transformer_blocks.1.attn1.to_q.weight",
    ),
    Fault(
        "L10b",
        "the input's scale applied to the weight",
        "loading/weights.py",
        "per_row(arrays[found], ",
        'per_row(arrays[key.removesuffix("weight") + "input_scale"], ',
        "transformer_blocks.1.attn1.to_q.weight",
    ),
    Fault(
        "L10c",
        "divided by the scale",
        "loading/weights.py",
        "decode(array, mx.float32) * scale",
        "decode(array, mx.float32) / scale",
        "transformer_blocks.1.attn1.to_q.weight",
    ),
)


@pytest.mark.parametrize("mutation", SCALED_FAULTS, ids=lambda m: m.id)
def test_planted_fault_of_the_scales_is_found(mutation: Fault, scaled: Path) -> None:
    exact = decoded(scaled)
    with planted(mutation):
        assert mutation.tap in differing(exact, loaded(scaled))
    with planted(None):
        assert differing(exact, loaded(scaled)) == []
