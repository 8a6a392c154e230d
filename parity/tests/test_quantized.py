"""Weights that MLX packs in 8 or 4 bits: what a packed layer computes beside float64, converted files, LoRAs beside
packed layers, pages; and the faults that each statement finds."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from parity.faults.catalogue import Fault, planted

PREFIX = "model.diffusion_model."
QUERY, FF = "transformer_blocks.1.attn1.to_q", "transformer_blocks.1.ff.net.2"
SIZES = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 32, "audio_num_attention_heads": 4}
SIZES |= {"audio_attention_head_dim": 16, "cross_attention_dim": 128, "audio_cross_attention_dim": 64}


def product(name: str = "") -> Any:
    return importlib.import_module(f"ltx2_mlx{name}")


@pytest.fixture(scope="module")
def wide(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 2.3 with two blocks, of 128 channels and 64 for audio, and a LoRA of two of its layers."""
    metadata = product(".loading.checkpoint").read_checkpoint(checkpoints / "tiny-2.3.safetensors").metadata
    config = json.loads(metadata["config"])
    config["transformer"] |= SIZES
    model = product(".transformer").LTXModel(product(".config").TransformerConfig.from_metadata(config))
    draw = np.random.default_rng(5)
    tensors = {
        f"{PREFIX}{name}": mx.array(draw.normal(0, x.shape[-1] ** -0.5, x.shape)).astype(mx.bfloat16)
        for name, x in tree_flatten(model.parameters())
    }
    folder = tmp_path_factory.mktemp("wide")
    mx.save_safetensors(str(folder / "wide.safetensors"), tensors, metadata | {"config": json.dumps(config)})
    layers = {QUERY: (128, 128), FF: (128, 512), "patchify_proj": (128, 128)}
    pairs = {f"diffusion_model.{n}.lora_A.weight": draw.normal(0, 0.1, (3, s[1])) for n, s in layers.items()}
    pairs |= {f"diffusion_model.{n}.lora_B.weight": draw.normal(0, 0.3, (s[0], 3)) for n, s in layers.items()}
    arrays = {name: mx.array(values).astype(mx.bfloat16) for name, values in pairs.items()}
    mx.save_safetensors(str(folder / "lora.safetensors"), arrays)
    return folder


# ---- helpers -------------------------------------------------------------------------------------------------------


def loaded(wide: Path, name: str = "wide", dtype: mx.Dtype | None = mx.float32, **options: Any) -> Any:
    return product().load("transformer", wide / f"{name}.safetensors", dtype, **options)


def converted(wide: Path, folder: Path, bits: int, group_size: int = 64, keep: tuple[str, ...] = ()) -> Any:
    how = product(".loading.quantized").Quantization(bits, group_size, keep)
    return product(".loading.convert").convert(
        wide / "wide.safetensors", folder / "packed.safetensors", how, overwrite=True
    )


def parameters(module: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def equal(a: Mapping[str, mx.array], b: Mapping[str, mx.array]) -> bool:
    return a.keys() == b.keys() and all(x.dtype == b[n].dtype and mx.array_equal(x, b[n]).item() for n, x in a.items())


def wide_numbers(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def unpacked(parts: Mapping[str, mx.array], layer: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The weight of a packed layer in float64, and the step between its numbers: scale · q + bias, by hand."""
    words = np.array(parts[f"{layer}.weight"])
    stream = np.unpackbits(words.view(np.uint8).reshape(words.shape[0], -1), axis=1, bitorder="little")
    q = stream.reshape(words.shape[0], -1, bits) @ (1 << np.arange(bits))
    scales, biases = (wide_numbers(parts[f"{layer}.{name}"]) for name in ("scales", "biases"))
    size = q.shape[1] // scales.shape[1]
    return q * scales.repeat(size, 1) + biases.repeat(size, 1), np.abs(scales).repeat(size, 1)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# ---- statements ----------------------------------------------------------------------------------------------------

LIMITS = {mx.float32: 2e-6, mx.bfloat16: 6e-3}  # rounding of 512 terms; of the result, on a GPU of the weight as well


def exact(wide: Path, folder: Path) -> bool:
    """A packed layer computes x·Wᵀ + b, W = scale · q + bias, and W is near the file's weight: at 4 bits MLX moves a
    group by up to a step so that 0 is exact, at 8 bits it rounds scales to bfloat16, which is up to a step as well."""
    source = parameters(loaded(wide))
    for bits in (8, 4):
        for dtype, limit in LIMITS.items():
            model = loaded(wide, dtype=dtype, quantization=f"q{bits}")
            for name, layer in (
                (QUERY, model.transformer_blocks[1].attn1.to_q),
                (FF, model.transformer_blocks[1].ff.net[2]),
            ):
                weight, step = unpacked(parameters(model), name, bits)
                away = np.abs(weight - wide_numbers(source[f"{name}.weight"]))
                x = mx.random.normal((2, 5, weight.shape[1]), key=mx.random.key(bits)).astype(dtype)
                y = wide_numbers(x) @ weight.T + wide_numbers(source[f"{name}.bias"])
                if (away > 1.6 * step).any() or error(wide_numbers(layer(x)), y) > limit:
                    return False
                if layer(x).dtype != dtype:
                    return False
    return True


def same(wide: Path, folder: Path) -> bool:
    """Packed while loading, and packed in a file: the same bits, in other dtypes too, with a LoRA."""
    lora = product().LoraPathStrength(wide / "lora.safetensors", 0.7)
    for bits, dtypes in ((8, (mx.float32,)), (4, (None, mx.float16))):
        converted(wide, folder, bits)
        for dtype in dtypes:
            ours = parameters(loaded(wide, dtype=dtype, loras=[lora], quantization=f"q{bits}"))
            theirs = parameters(loaded(folder, "packed", dtype, loras=[lora]))
            if not equal(ours, theirs):
                return False
    return True


def groups(wide: Path, folder: Path) -> bool:
    """The group size is the one that was asked for: in the shapes, in the metadata, in the layer."""
    argv = ["convert", str(wide / "wide.safetensors"), str(folder / "packed.safetensors"), "--bits", "8"]
    assert product(".cli.main").main([*argv, "--group-size", "32"]) == 0
    layer = loaded(folder, "packed").transformer_blocks[1].ff.net[2]
    header = product(".loading.checkpoint").read_checkpoint(folder / "packed.safetensors")
    stated = json.loads(header.metadata["quantization"])
    return layer.scales.shape == (128, 16) and layer.group_size == 32 and stated["group_size"] == 32


def kept(wide: Path, folder: Path) -> bool:
    """Layers that are to be kept are the file's own, and counted; gates, norms and all outside of blocks always are."""
    made = converted(wide, folder, 4, keep=("*.ff.net.2", "transformer_blocks.0.attn1.*"))
    found, source = parameters(loaded(folder, "packed", None)), parameters(loaded(wide, dtype=None))
    names = {name for name in source if name in found and found[name].dtype == source[name].dtype}
    expected = {name for name in source if name.endswith((".ff.net.2.weight", "to_gate_logits.weight"))}
    expected |= {name for name in source if "blocks" not in name or name.startswith("transformer_blocks.0.attn1.")}
    return (
        made.choice.kept == 6 and expected <= names and all(mx.array_equal(found[n], source[n]).item() for n in names)
    )


def lora(wide: Path, folder: Path) -> bool:
    """A LoRA is added to what a packed layer makes, and fused into a layer that is not packed."""
    converted(wide, folder, 4)
    file = product().LoraPathStrength(wide / "lora.safetensors", -0.6)
    pairs = mx.load(str(wide / "lora.safetensors"))
    model, plain = loaded(folder, "packed", loras=[file]), loaded(wide, loras=[file])
    for name, layer in ((QUERY, model.transformer_blocks[1].attn1.to_q), (FF, model.transformer_blocks[1].ff.net[2])):
        a, b = (wide_numbers(pairs[f"diffusion_model.{name}.lora_{part}.weight"]) for part in "AB")
        weight = unpacked(parameters(model), name, 4)[0] - 0.6 * b @ a
        x = mx.random.normal((3, weight.shape[1]), key=mx.random.key(2))
        y = wide_numbers(x) @ weight.T + wide_numbers(layer.bias)
        if error(wide_numbers(layer(x)), y) > 2e-6:
            return False
    return mx.array_equal(model.patchify_proj.weight, plain.patchify_proj.weight).item()


def mixed(wide: Path, folder: Path) -> bool:
    """Each layer has the bits that its own shapes state."""
    tensors: dict[str, mx.array] = {}
    for bits in (4, 8):
        converted(wide, folder, bits)
        header = product(".loading.checkpoint").read_checkpoint(folder / "packed.safetensors")
        arrays = dict(header.arrays())
        mx.eval(arrays)
        tensors |= {k: x for k, x in arrays.items() if bits == 4 or ".ff." in k}
    mx.save_safetensors(str(folder / "mixed.safetensors"), tensors, header.metadata)
    model = loaded(folder, "mixed")
    found = [
        parameters(model),
        parameters(loaded(wide, quantization="q4")),
        parameters(loaded(wide, quantization="q8")),
    ]
    layers = (model.transformer_blocks[1].attn1.to_q, model.transformer_blocks[1].ff.net[2])
    if [layer.bits for layer in layers] != [4, 8]:
        return False
    for name, layer, bits in zip((QUERY, FF), layers, (4, 8), strict=True):
        weight, _ = unpacked(found[0], name, bits)
        x = mx.random.normal((3, weight.shape[1]), key=mx.random.key(2))
        if error(wide_numbers(layer(x)), wide_numbers(x) @ weight.T + wide_numbers(layer.bias)) > 2e-6:
            return False
    return True


def pages(wide: Path, folder: Path) -> bool:
    """Every page, filled twice, holds what the whole load holds."""
    converted(wide, folder, 4)
    lora = product().LoraPathStrength(wide / "lora.safetensors", 0.7)
    for place, name, how in ((folder, "packed", None), (wide, "wide", "q8")):
        whole, paged = (loaded(place, name, loras=[lora], quantization=how, paged=way) for way in (False, True))
        expected = parameters(whole)
        for page in [*paged.pages, *paged.pages]:
            with paged.pages.filled(page.path):
                found = {n: x for n, x in parameters(paged).items() if n.startswith(f"{page.path}.")}
            if not equal(found, {n: x for n, x in expected.items() if n.startswith(f"{page.path}.")}):
                return False
    return True


def finite(wide: Path, folder: Path) -> bool:
    """A weight that is not a number is named, though integers would hide it."""
    header = product(".loading.checkpoint").read_checkpoint(wide / "wide.safetensors")
    for value in (float("nan"), float("-inf")):
        tensors = dict(header.arrays())
        weight = np.array(tensors[f"{PREFIX}{FF}.weight"].astype(mx.float32))
        weight[3, 70] = value
        tensors[f"{PREFIX}{FF}.weight"] = mx.array(weight).astype(mx.bfloat16)
        mx.save_safetensors(str(folder / "nan.safetensors"), tensors, header.metadata)
        try:
            loaded(folder, "nan", quantization="q4")
        except product().CheckpointError as error:
            if f"{FF}.weight holds NaN" not in str(error):
                return False
        else:
            return False
    return True


STATEMENTS = {f.__name__: f for f in (exact, same, groups, kept, lora, mixed, pages, finite)}

# ---- faults --------------------------------------------------------------------------------------------------------

QUANTIZED, CONVERT, LOAD, LORA = "loading/quantized.py", "loading/convert.py", "loading/weights.py", "loading/lora.py"
FAULTS = (
    Fault(
        "QZ01",
        "scales and biases exchanged in the product",
        QUANTIZED,
        "mx.dequantize(self.weight, scales, biases,",
        "mx.dequantize(self.weight, biases, scales,",
        "exact",
    ),
    Fault(
        "QZ02",
        "scales and biases exchanged in the file",
        CONVERT,
        'for part in (name, f"{layer}scales", f"{layer}biases"):',
        'for part in (name, f"{layer}biases", f"{layer}scales"):',
        "same",
    ),
    Fault(
        "QZ03",
        "the group size ignored",
        "cli/main.py",
        "Quantization(args.bits, args.group_size, ",
        "Quantization(args.bits, 64, ",
        "groups",
    ),
    Fault(
        "QZ04",
        "the layers to keep forgotten",
        CONVERT,
        "choose(module, how),",
        "choose(module, Quantization(how.bits, how.group_size)),",
        "kept",
    ),
    Fault(
        "QZ05",
        "the LoRA's strength lost beside a packed layer",
        LORA,
        "(b.astype(mx.float32) * by).astype(dtype)",
        "b.astype(dtype)",
        "lora",
    ),
    Fault(
        "QZ06",
        "the LoRA added to the weight before it is packed, and beside it again",
        LOAD,
        "_read(self.checkpoint, self.arrays, {name: key}, (), None, None)",
        "_read(self.checkpoint, self.arrays, {name: key}, self.loras, None, None)",
        "same",
    ),
    Fault(
        "QZ07",
        "every layer read with the bits of the first",
        QUANTIZED,
        "bits, group_size = _bits(info, width), _group_size(",
        "bits, group_size = _bits(next(i for i in infos.values() if i.dtype == 'U32'), width), _group_size(",
        "mixed",
    ),
    Fault(
        "QZ08",
        "packed in the dtype that is asked for, not in the file's",
        LOAD,
        "_read(self.checkpoint, self.arrays, {name: key}, (), None, None)",
        "_read(self.checkpoint, self.arrays, {name: key}, (), self.dtype, None)",
        "same",
    ),
    Fault(
        "QZ09",
        "NaN hidden by the integers",
        QUANTIZED,
        'mx.where(finite, scales, mx.array(float("nan"), scales.dtype))',
        'mx.where(finite, scales, mx.array(float("0"), scales.dtype))',
        "finite",
    ),
    Fault(
        "QZ10",
        "LoRAs beside packed layers left out of pages",
        LOAD,
        "if added := beside_layer(self.loras, layer,",
        "if added := beside_layer(() if self.arrays.stream else self.loras, layer,",
        "pages",
    ),
)


@pytest.mark.parametrize("name", STATEMENTS)
def test_packed_weights_are_as_stated(name: str, wide: Path, tmp_path: Path) -> None:
    assert STATEMENTS[name](wide, tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_of_packed_weights_is_found(fault: Fault, wide: Path, tmp_path: Path) -> None:
    with planted(fault) as copy:
        try:
            noticed = not STATEMENTS[fault.tap](wide, tmp_path)
        except product().WeightsError:  # strict: it does not load
            noticed = True
        assert noticed, f"{fault.description}: not noticed"
        assert copy.ran
