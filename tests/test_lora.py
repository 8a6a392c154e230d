"""LoRA files: what is refused, what is reported. That the sums are right is parity's work."""

from __future__ import annotations

import warnings
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ltx2_mlx
from ltx2_mlx import LoraPathStrength, WeightsError, lora_metadata
from ltx2_mlx.loading.header import read_header

LAYER = "diffusion_model.transformer_blocks.0.attn1.to_q"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


@pytest.fixture(scope="module")
def base(checkpoints: Path) -> Path:
    return checkpoints / "tiny-2.3.safetensors"


@pytest.fixture(scope="module")
def pair(base: Path) -> dict[str, mx.array]:
    rows, columns = read_header(base)[1][f"model.{LAYER}.weight"].shape
    return {A: mx.ones((3, columns)), B: mx.ones((rows, 3))}


def save(folder: Path, tensors: dict[str, mx.array], **metadata: str) -> LoraPathStrength:
    mx.save_safetensors(str(folder / "lora.safetensors"), tensors, metadata)
    return LoraPathStrength(folder / "lora.safetensors")


def test_every_pair_of_a_lora_is_reported(base: Path, checkpoints: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ltx2_mlx.load(
            "transformer", base, loras=[LoraPathStrength(checkpoints / "tiny-2.3-lora.safetensors", 0.5)]
        )
    (report,) = model.load_report.loras
    assert report.pairs == report.matched == 84
    assert not report.unmatched
    assert "× 0.5: 84 of 84 pairs fused" in str(model.load_report)


def test_pairs_without_a_layer_are_named_in_the_report_and_a_warning(
    tmp_path: Path, base: Path, pair: dict[str, mx.array]
) -> None:
    lost = {key.replace("to_q", "to_x"): value for key, value in pair.items()}
    with pytest.warns(UserWarning, match=r"1 of 2 pairs fused; the network has no layer for .*blocks.0.attn1.to_x"):
        model = ltx2_mlx.load("transformer", base, loras=[save(tmp_path, pair | lost)])
    assert model.load_report.loras[0].unmatched == ("transformer_blocks.0.attn1.to_x",)


def test_only_the_layers_of_the_pairs_change_and_the_dtype_does_not(
    tmp_path: Path, base: Path, pair: dict[str, mx.array]
) -> None:
    lora = save(tmp_path, pair)
    for dtype in (None, mx.bfloat16, mx.float16, mx.float32):
        plain = dict(tree_flatten(ltx2_mlx.load("transformer", base, dtype).parameters()))
        fused = dict(tree_flatten(ltx2_mlx.load("transformer", base, dtype, [lora]).parameters()))
        assert {name: x.dtype for name, x in fused.items()} == {name: x.dtype for name, x in plain.items()}
        changed = [name for name in plain if not mx.array_equal(plain[name], fused[name])]
        assert changed == ["transformer_blocks.0.attn1.to_q.weight"]


def test_a_strength_of_zero_changes_nothing(base: Path, checkpoints: Path) -> None:
    lora = LoraPathStrength(checkpoints / "tiny-2.3-lora.safetensors", 0.0)
    plain, fused = (tree_flatten(ltx2_mlx.load("transformer", base, loras=x).parameters()) for x in ((), (lora,)))
    assert all(mx.array_equal(a, b) for (_, a), (_, b) in zip(plain, fused, strict=True))


@pytest.mark.parametrize(
    ("message", "edit"),
    {
        "another kind of adapter: .*to_q.gamma": lambda p: p | {f"{LAYER}.gamma": mx.array([4.0])},
        r"another kind of adapter .DoRA.: .*dora_scale": lambda p: p | {f"{LAYER}.dora_scale": mx.ones((3, 1))},
        r"another kind of adapter .LoHa.: .*hada_w1_a": lambda p: {f"{LAYER}.hada_w1_a": p[A]},
        r"another kind of adapter .LoKr.: .*lokr_w1": lambda p: {f"{LAYER}.lokr_w1": p[A]},
        r"another kind of adapter .full diff.*: .*to_q.diff": lambda p: p | {f"{LAYER}.diff": p[A]},
        r"another kind of adapter .PEFT with": lambda p: p | {f"{LAYER}.lora_B.bias": p[B][:, 0]},
        "for a text encoder": lambda p: p | {"lora_te_text_model_encoder.lora_down.weight": p[A]},
        "a pair is incomplete, .*lora_A.weight is missing. A": lambda p: {f"{LAYER}.lora_up.weight": p[B]},
        "to_q.alpha is F32 .2,., expected one number": lambda p: p | {f"{LAYER}.alpha": mx.ones((2,))},
        "to_q.alpha is inf, expected a number": lambda p: p | {f"{LAYER}.alpha": mx.array(float("inf"))},
        "are the same twice": lambda p: p | {f"{LAYER}.lora_down.weight": p[A]},
        "it holds no tensors": lambda p: {},
        "a pair is incomplete, .*lora_B.weight is missing": lambda p: {A: p[A]},
        "a pair is incomplete, .*lora_A.weight is missing": lambda p: {B: p[B]},
        "expected .rank, in. and .out, rank.": lambda p: p | {A: p[A][:2]},
        "another model": lambda p: p | {A: p[A][:, 1:]},
        "both with and without diffusion_model.": lambda p: (
            p | {key.removeprefix("diffusion_model."): x for key, x in p.items()}
        ),
        "expected BF16, F16 or F32": lambda p: p | {A: p[A].astype(mx.int32)},
        "BF16, F16 or F32 for both": lambda p: p | {A: p[A].astype(mx.bfloat16)},
        "none of 1 pairs": lambda p: {key.replace("transformer_", "unet_"): x for key, x in p.items()},
    }.items(),
)
def test_what_would_change_the_result_in_silence_is_refused(
    message: str, edit: object, tmp_path: Path, base: Path, pair: dict[str, mx.array]
) -> None:
    with pytest.raises(WeightsError, match=message):
        ltx2_mlx.load("transformer", base, loras=[save(tmp_path, edit(pair))])


def test_a_lora_that_meets_no_layer_says_what_it_has_and_what_is_expected(
    tmp_path: Path, base: Path, pair: dict[str, mx.array]
) -> None:
    lora = save(tmp_path, {key.replace("transformer_blocks", "unet_blocks"): x for key, x in pair.items()})
    with pytest.raises(WeightsError) as error:
        ltx2_mlx.load("transformer", base, loras=[lora])
    assert "unet_blocks.0.attn1.to_q" in str(error.value)
    assert "diffusion_model.<layer>.lora_A.weight" in str(error.value)
    assert "<layer> is one like" in str(error.value)


def test_a_lora_is_for_the_transformer(base: Path, tmp_path: Path, pair: dict[str, mx.array]) -> None:
    with pytest.raises(ltx2_mlx.InputError, match="the component is video_encoder"):
        ltx2_mlx.load("video_encoder", base, loras=[save(tmp_path, pair)])


def test_metadata_of_an_ic_lora(checkpoints: Path, tmp_path: Path, pair: dict[str, mx.array]) -> None:
    assert lora_metadata(checkpoints / "tiny-2.3-ic-lora.safetensors").reference_downscale_factor == 2
    assert lora_metadata(checkpoints / "tiny-2.3-lora.safetensors").reference_downscale_factor == 1
    for name in ("ss_reference_downscale_factor", "modelspec_reference_downscale", "reference_spatial_scale_factor"):
        assert lora_metadata(save(tmp_path, pair, **{name: "2.0"}).path).reference_downscale_factor == 2
    two = save(tmp_path, pair, reference_downscale_factor="2", ss_reference_downscale_factor="3")
    with pytest.raises(ltx2_mlx.ConfigError, match="expected one factor"):
        lora_metadata(two.path)
    for wrong in ("0", "-2", "1.5", "two", "", "nan", "9" * 5000):
        lora = save(tmp_path, pair, reference_downscale_factor=wrong)
        with pytest.raises(ltx2_mlx.ConfigError, match="reference_downscale_factor is"):
            lora_metadata(lora.path)


def test_both_files_of_a_lora_hold_the_same_values(checkpoints: Path) -> None:
    narrow, wide = (mx.load(str(checkpoints / f"tiny-2.0-lora{end}.safetensors")) for end in ("", "-f32"))
    assert narrow.keys() == wide.keys()
    for key, value in narrow.items():
        assert (value.dtype, wide[key].dtype) == (mx.bfloat16, mx.float32)
        assert np.array_equal(np.array(value.astype(mx.float32)), np.array(wide[key]))


SPELLINGS = {
    "diffusers": lambda key: "transformer." + key,
    "bare": lambda key: key,
    "ComfyUI": lambda key: "model.diffusion_model." + key,
    "PEFT": lambda key: "base_model.model." + key,
    "PEFT with an adapter's name": lambda key: "base_model.model." + key.replace(".weight", ".default.weight"),
    "musubi": lambda key: "diffusion_model." + key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
    "kohya": lambda key: (
        "lora_unet_"
        + key.split(".lora_")[0].replace(".", "_")
        + (".lora_down.weight" if "lora_A" in key else ".lora_up.weight")
    ),
    "old diffusers": lambda key: key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
    "an adapter's name with dashes": lambda key: key.replace(".weight", ".my-lora.weight_1.weight"),
    "small letters, compiled": lambda key: "_orig_mod.module." + key.replace("lora_A", "lora_a").replace("_B", "_b"),
    "LyCORIS": lambda key: "lycoris_" + SPELLINGS["kohya"](key).removeprefix("lora_unet_"),
    "to_out_0": lambda key: "diffusion_model." + key.replace("to_out.0", "to_out_0"),
}


@pytest.fixture(scope="module")
def original(base: Path, checkpoints: Path) -> nn.Module:
    """What the pairs give by the names of their file."""
    return ltx2_mlx.load("transformer", base, loras=[LoraPathStrength(checkpoints / "tiny-2.3-lora.safetensors", 0.7)])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_same_pairs_gives_the_same_weights(
    spelling: str, original: nn.Module, base: Path, checkpoints: Path, tmp_path: Path
) -> None:
    source = checkpoints / "tiny-2.3-lora.safetensors"
    spelled = {SPELLINGS[spelling](k.removeprefix("diffusion_model.")): x for k, x in mx.load(str(source)).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ltx2_mlx.load("transformer", base, loras=[LoraPathStrength(save(tmp_path, spelled).path, 0.7)])
    assert model.load_report.loras[0].matched == 84
    for (name, a), (_, b) in zip(tree_flatten(original.parameters()), tree_flatten(model.parameters()), strict=True):
        assert mx.array_equal(a, b), name


@pytest.mark.parametrize("alpha", ["alpha", "lora_alpha"])
def test_alpha_over_rank_scales_a_pair(alpha: str, base: Path, tmp_path: Path, pair: dict[str, mx.array]) -> None:
    half = save(tmp_path, pair | {f"{LAYER}.{alpha}": mx.array(1.5)})  # the rank is 3
    scaled = ltx2_mlx.load("transformer", base, mx.float32, [half]).transformer_blocks[0].attn1.to_q.weight
    plain = LoraPathStrength(save(tmp_path, pair).path, 0.5)
    expected = ltx2_mlx.load("transformer", base, mx.float32, [plain]).transformer_blocks[0].attn1.to_q.weight
    unchanged = ltx2_mlx.load("transformer", base, mx.float32).transformer_blocks[0].attn1.to_q.weight
    assert mx.array_equal(scaled, expected) and not mx.array_equal(scaled, unchanged)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), 1e30, 101])
def test_a_strength_that_makes_no_sense_is_refused(strength: float) -> None:
    with pytest.raises(ltx2_mlx.InputError, match=r"the strength is .*, expected -100 to 100"):
        LoraPathStrength("zoom.safetensors", strength)


@pytest.mark.parametrize("zero", [A, B, "alpha"])
def test_a_lora_that_changes_nothing_is_a_note(
    zero: str, base: Path, tmp_path: Path, pair: dict[str, mx.array]
) -> None:
    edited = pair | ({f"{LAYER}.alpha": mx.array(0.0)} if zero == "alpha" else {zero: mx.zeros_like(pair[zero])})
    with pytest.warns(UserWarning, match="it changes nothing"):
        model = ltx2_mlx.load("transformer", base, loras=[save(tmp_path, edited)])
    assert model.load_report.loras[0].idle


@pytest.mark.parametrize("quantization", [None, "fp8-cast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [A, B])
def test_a_lora_with_numbers_that_are_none_is_named(
    key: str, value: float, quantization: str | None, base: Path, tmp_path: Path, pair: dict[str, mx.array]
) -> None:
    bad = mx.array(np.where(np.arange(pair[key].size) == 1, value, 1).reshape(pair[key].shape).astype(np.float32))
    lora = save(tmp_path, pair | {key: bad})
    with pytest.raises(WeightsError, match=r"lora.safetensors: its [AB] for transformer_blocks.0.attn1.to_q holds NaN"):
        ltx2_mlx.load("transformer", base, loras=[lora], quantization=quantization)


def test_a_lora_that_overflows_says_so(base: Path, tmp_path: Path, pair: dict[str, mx.array]) -> None:
    lora = save(tmp_path, pair | {B: pair[B] * 30000})
    with pytest.raises(WeightsError, match=r"to_q overflows at strength 1. Use a smaller strength"):
        ltx2_mlx.load("transformer", base, mx.float16, loras=[lora])
