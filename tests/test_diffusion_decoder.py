"""The diffusion video decoder: exact windows in whatever blocks and slabs, its file, and what it refuses."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx2_mlx import load, read_checkpoint
from ltx2_mlx.cli.plan import plan
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.config import DiffusionDecoderConfig, VideoVAEConfig
from ltx2_mlx.diffusion_decoder import DiffusionVideoDecoder
from ltx2_mlx.errors import ConfigError, InputError, WeightsError
from ltx2_mlx.nn import neighborhood
from ltx2_mlx.nn.neighborhood import Slab, neighborhood_attention
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.tiling import TilingConfig
from ltx2_mlx.vae_memory import choose_frames, diffusion_memory
from ltx2_mlx.video_vae import decode_video

NAME = "tiny-2.5-diffusion-vae"
RELEASED = {
    "_class_name": "NADiffusionDecoder",
    "in_channels": 128,
    "out_channels": 3,
    "patch_size": 4,
    "head_dim": 64,
    "stage_channels": [2048, 1024, 512, 512, 256],
    "stage_depths": [4, 6, 4, 2, 8],
    "stage_kernels": [[3, 7, 7], [3, 7, 7], [3, 5, 5], [3, 5, 5], [11, 11, 11]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
    "spatial_padding_mode": "zeros",
    "resampler_kind": "linear",
    "stage5_kernel": [11, 11, 11],
    "timestep_scale_multiplier": 1000.0,
    "default_num_inference_steps": 1,
}


def described(**changes: Any) -> dict[str, Any]:
    """The config of the released file with other values; None leaves a key out."""
    decoder = {key: value for key, value in (RELEASED | changes).items() if value is not None}
    vae = {"_class_name": "CausalDiffusionVAE", "dims": 3, "decoder": decoder, "model_output_type": "x0"}
    return {"vae": vae}


@pytest.fixture(scope="module")
def decoder(checkpoints: Path) -> DiffusionVideoDecoder:
    return load("video_decoder", checkpoints / f"{NAME}.safetensors", mx.float32)


def pixels(decoder: DiffusionVideoDecoder, latent: mx.array, slab: int | None = None, seed: int = 3) -> np.ndarray:
    decoder.slab = slab
    try:
        return np.array(decoder(latent, Generator(seed)))
    finally:
        decoder.slab = None


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# ---- windows ------------------------------------------------------------------------------------------------------


def by_masks(q: np.ndarray, k: np.ndarray, v: np.ndarray, kernel: tuple[int, int, int]) -> np.ndarray:
    """The definition, in float64: every pair has a score, and a window's centre is moved inward at the ends."""
    B, T, H, W, heads, D = q.shape
    mask = np.ones((T, H, W, T, H, W), bool)
    for axis, (n, size) in enumerate(zip((T, H, W), kernel, strict=True)):
        kept = min(size, n)
        for i in range(n):
            first = min(max(i - kept // 2, 0), n - kept)
            seen = np.isin(np.arange(n), np.arange(first, first + kept))
            row = [slice(None)] * 6
            row[axis] = i
            shape = [1] * 5
            shape[2 + axis] = n
            mask[tuple(row)] &= seen.reshape(shape)
    q, k, v = (x.astype(np.float64).reshape(B, -1, heads, D) for x in (q, k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    scores = np.where(mask.reshape(T * H * W, -1), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, T, H, W, heads, D)


@pytest.mark.parametrize(
    ("grid", "kernel", "block", "scores"),
    [
        ((5, 9, 9), (3, 7, 5), (4, 8, 8), 2**24),
        ((5, 6, 19), (3, 5, 7), (4, 8, 8), 1),  # one block of width a call
        ((4, 3, 2), (5, 3, 7), (4, 8, 8), 2**24),  # fewer cells than a window
        ((1, 1, 1), (11, 11, 11), (4, 8, 8), 2**24),
        ((6, 7, 11), (3, 5, 1), (1, 3, 2), 2**24),
        ((3, 11, 9), (1, 11, 9), (2, 5, 4), 2**24),
    ],
)
def test_blocks_give_what_a_mask_over_all_pairs_gives(
    monkeypatch: pytest.MonkeyPatch,
    grid: tuple[int, int, int],
    kernel: tuple[int, int, int],
    block: tuple[int, int, int],
    scores: int,
) -> None:
    monkeypatch.setattr(neighborhood, "BLOCK", block)
    monkeypatch.setattr(neighborhood, "scores", lambda: scores)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, *grid, 2, 8)).astype(np.float32) for _ in range(3))
    expected = by_masks(q, k, v, kernel)
    whole = np.array(neighborhood_attention(*map(mx.array, (q, k, v)), kernel))
    assert distance(whole, expected) < 1e-6
    T = grid[0]
    for begin in range(0, T, 2):  # the same frames, two at a time, with the keys that they see and no others
        slab = Slab.of(begin, min(begin + 2, T), T, kernel[0])
        assert slab.last - slab.first <= kernel[0] + 1
        own = (
            mx.array(x[:, at])
            for x, at in ((q, slice(begin, slab.end)), *((y, slice(slab.first, slab.last)) for y in (k, v)))
        )
        assert distance(np.array(neighborhood_attention(*own, kernel, slab)), expected[:, begin : slab.end]) < 1e-6


def test_slabs_of_any_length_give_the_pixels_of_the_whole_clip(decoder: DiffusionVideoDecoder) -> None:
    latent = mx.array(np.random.default_rng(1).standard_normal((1, 128, 3, 3, 4)).astype(np.float32))
    whole = pixels(decoder, latent)
    assert whole.shape == (1, 3, 17, 96, 128)
    for frames in (3, 16):
        assert distance(pixels(decoder, latent, frames), whole) < 2e-6, frames
    decoder.slab = 6
    chunks = [chunk.shape[2] for chunk in decoder.decode_in_slabs(latent, Generator(3))]
    decoder.slab = None
    assert sum(chunks) == 17 and max(chunks) <= 6


def test_each_frame_is_told_by_its_neighbours_alone(decoder: DiffusionVideoDecoder) -> None:
    latent = np.random.default_rng(2).standard_normal((1, 128, 8, 3, 3)).astype(np.float32)
    other = latent.copy()
    other[:, :, -1] += 1.0
    a, b = (pixels(decoder, mx.array(x)) for x in (latent, other))
    assert np.array_equal(a[:, :, :9], b[:, :, :9]) and not np.array_equal(a[:, :, -9:], b[:, :, -9:])


# ---- sizes, noise and memory --------------------------------------------------------------------------------------


def test_a_small_latent_is_that_of_its_repeated_edges(decoder: DiffusionVideoDecoder) -> None:
    latent = np.random.default_rng(4).standard_normal((1, 128, 1, 2, 1)).astype(np.float32)
    larger = np.pad(latent, ((0, 0), (0, 0), (0, 2), (0, 1), (1, 1)), mode="edge")
    small, large = (pixels(decoder, mx.array(x)) for x in (latent, larger))
    assert small.shape == (1, 3, 1, 64, 32) and large.shape == (1, 3, 17, 96, 96)
    assert np.array_equal(small, large[:, :, :1, :64, 32:64])


def test_noise_comes_from_the_generator_once_at_the_padded_size(decoder: DiffusionVideoDecoder) -> None:
    asked = []

    class Noting(Generator):
        def randn(self, shape: Any, dtype: mx.Dtype) -> mx.array:
            asked.append((tuple(shape), dtype))
            return super().randn(shape, dtype)

    latent = mx.random.normal((1, 128, 1, 2, 3))
    first = np.array(decoder(latent, Noting(5)))
    assert asked == [((1, 3, 17, 96, 96), mx.float32)]
    assert np.array_equal(first, pixels(decoder, latent, seed=5))
    assert distance(pixels(decoder, latent, seed=6), first) > 1e-3


def test_the_product_decodes_to_bytes_with_either_kind_of_decoder(decoder: DiffusionVideoDecoder) -> None:
    latent = mx.random.normal((1, 128, 3, 3, 3))
    frames = np.concatenate([np.array(chunk) for chunk in decode_video(latent, decoder, generator=Generator(3))])
    expected = np.clip((pixels(decoder, latent)[0] + 1) / 2, 0, 1) * 255
    assert frames.shape == (17, 96, 96, 3) and frames.dtype == np.uint8
    assert (np.abs(frames.transpose(3, 0, 1, 2) - np.trunc(expected)) <= 1).all()


def test_tiles_latents_of_another_kind_and_small_budgets_are_refused(decoder: DiffusionVideoDecoder) -> None:
    latent = mx.zeros((1, 128, 3, 3, 3))
    with pytest.raises(InputError, match=r"tiles do not apply .* leave the tiling out"):
        next(decode_video(latent, decoder, TilingConfig.default()))
    assert next(decode_video(latent, decoder, TilingConfig(), Generator(0))).shape[1:] == (96, 96, 3)
    with pytest.raises(InputError, match=r"GB in the shortest slabs, and the budget is 0.00 GB"):
        next(decode_video(latent, decoder, memory_budget=1000))
    with pytest.raises(InputError, match=r"expected \(batch, 128, frames, height, width\)"):
        decoder(mx.zeros((1, 16, 3, 3, 3)))
    with pytest.raises(InputError, match="at least one frame, row and column"):
        decoder(mx.zeros((1, 128, 0, 3, 3)))


def test_memory_stays_within_its_estimate_and_shorter_slabs_take_less(decoder: DiffusionVideoDecoder) -> None:
    latent = mx.random.normal((1, 128, 5, 8, 8))
    taken = []
    for frames in (32, 4):
        decoder.slab = frames
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for chunk in decoder.decode_in_slabs(latent, Generator(0)):
            mx.eval(chunk)
        decoder.slab = None
        taken.append(mx.get_peak_memory() - before)
        estimate = diffusion_memory(decoder.config, latent.shape, 4, frames)
        assert 0.4 * estimate < taken[-1] < 1.2 * estimate, (frames, taken[-1] / estimate)
    assert taken[1] < 0.7 * taken[0]


def test_the_estimate_counts_pixels_and_noise_where_a_cell_has_more_of_them_than_channels(checkpoints: Path) -> None:
    """Within 15 %, at a size where the blocks take half of it."""
    decoder = load("video_decoder", checkpoints / f"{NAME}.safetensors", mx.bfloat16)
    latent = mx.random.normal((1, 128, 4, 8, 8)).astype(mx.bfloat16)
    mx.eval(latent)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(decoder(latent, Generator(0)))
    taken = mx.get_peak_memory() - before
    estimate = diffusion_memory(decoder.config, latent.shape, 2, 32)
    assert 0.85 * estimate < taken < 1.15 * estimate, taken / estimate


def test_the_longest_slabs_that_fit_are_chosen() -> None:
    config = DiffusionDecoderConfig.from_metadata(described())
    shape = (1, 128, 16, 16, 24)  # 121 frames of 512 x 768
    sizes = [diffusion_memory(config, shape, 2, frames) for frames in (32, 16, 8, 4, 2, 1)]
    assert sizes == sorted(sizes, reverse=True) and 5e9 < sizes[-1] < sizes[0] < 2e10
    assert choose_frames(config, shape, sizes[2]).frames == 8
    assert choose_frames(config, shape, sizes[2] - 1).frames == 4
    with pytest.raises(InputError, match="give more memory, or make a smaller or shorter video"):
        choose_frames(config, shape, sizes[-1] - 1)


# ---- the file -----------------------------------------------------------------------------------------------------


def test_the_released_config_has_the_released_tensors() -> None:
    config = DiffusionDecoderConfig.from_metadata(described())
    assert config.least_size == (3, 7, 7) and config.ghost_frames == 2
    known = runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "diffusion_vae.py"))["decoder_shapes"](RELEASED)
    assert len(known) == 310
    own = {name: array.shape for name, array in tree_flatten(DiffusionVideoDecoder(config).parameters())}
    statistics = {name for name in own if name.startswith("per_channel_statistics.")}
    assert len(statistics) == 2
    assert {name: shape for name, shape in own.items() if name not in statistics} | {"type_emb": (128,)} == known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_channels": None}, "lacks stage_channels"),
        ({"timestep_scale_multiplier": None}, "lacks timestep_scale_multiplier"),
        ({"default_num_inference_steps": None}, "default_num_inference_steps is None, and only 1 is supported"),
        ({"default_num_inference_steps": 2}, "default_num_inference_steps is 2, and only 1 is supported"),
        ({"resampler_kind": "conv"}, "resampler_kind is 'conv', and only 'linear'"),
        ({"stage5_channels": 128}, "stage5_channels=128"),
        ({"stage_depths": [4, 6]}, "stage_depths has 2 entries, expected 5"),
        ({"stage_depths": [4, 6, 4, 2, -1]}, "stage_depths"),
        ({"stage_channels": [2048, 1024, 512, 512, 512]}, r"upsamples\[3\] makes 256 channels, and stage 5 has 512"),
        ({"head_dim": 96}, "expected multiples of 96"),
        ({"stage5_kernel": [11, 10, 11]}, r"kernel \(11, 10, 11\), expected odd sizes"),
        ({"stage5_kernel": [11, 11]}, "expected 3 values"),
        ({"patch_size": 8}, r"make \[8, 64, 64\] pixels of a latent cell"),
        ({"upsamples": [[[1, 2, 2]]]}, "expected a pair of a stride and a divisor"),
        ({"upsamples": 3}, "expected a list of pairs"),
        ({"upsamples": [[[4, 2, 2], 2]]}, "makes 4 frames of one, expected 1 or 2"),
    ],
)
def test_configs_that_describe_another_decoder_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusionDecoderConfig.from_metadata(described(**change))


def test_a_decoder_that_predicts_velocity_is_refused() -> None:
    config = described()
    config["vae"]["model_output_type"] = "v"
    with pytest.raises(ConfigError, match="model_output_type is 'v', and only 'x0' is supported"):
        DiffusionDecoderConfig.from_metadata(config)


def written(checkpoints: Path, path: Path, change: Any = lambda arrays: None, **metadata: str) -> Path:
    """The tiny file with other tensors or metadata."""
    source = checkpoints / f"{NAME}.safetensors"
    arrays = mx.load(str(source))
    change(arrays)
    mx.save_safetensors(str(path), arrays, metadata=read_checkpoint(source).metadata | metadata)
    return path


def parameters(path: Path, dtype: mx.Dtype | None = None) -> dict[str, mx.array]:
    return dict(tree_flatten(load("video_decoder", path, dtype).parameters()))


def test_static_gates_are_folded_in_float32_and_rounded_as_the_file(checkpoints: Path, tmp_path: Path) -> None:
    block, rng = "decoder.diff_blocks.1", np.random.default_rng(0)
    gates = {name: rng.standard_normal(16).astype(np.float32) for name in ("gate_msa", "gate_mlp", "gate_ctx")}
    layers = {"attn.proj": "gate_msa", "mlp.w_down": "gate_mlp", "context_proj": "gate_ctx"}

    def gated(arrays: dict[str, mx.array]) -> None:
        arrays |= {f"{block}.{name}": mx.array(gate) for name, gate in gates.items()}

    plain = parameters(checkpoints / f"{NAME}.safetensors")
    for dtype in (None, mx.float32):
        folded = parameters(written(checkpoints, tmp_path / "gated.safetensors", gated), dtype)
        for name, value in plain.items():
            wanted, layer = value, name.removeprefix("diff_blocks.1.").rpartition(".")[0]
            if name.startswith("diff_blocks.1.") and layer in layers:
                rows = mx.array(gates[layers[layer]]).reshape(-1, *(1,) * (value.ndim - 1))
                wanted = (value.astype(mx.float32) * rows).astype(mx.bfloat16)
            assert mx.array_equal(folded[name], wanted.astype(dtype or wanted.dtype)), name


def test_gates_that_fit_nothing_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    def short(arrays: dict[str, mx.array]) -> None:
        arrays["decoder.diff_blocks.0.gate_msa"] = mx.ones((7,))

    def stray(arrays: dict[str, mx.array]) -> None:
        arrays["decoder.gate_msa"] = mx.ones((16,))

    with pytest.raises(WeightsError, match=r"gate_msa is F32 \(7,\), expected a number for each of \(16,\)"):
        load("video_decoder", written(checkpoints, tmp_path / "a.safetensors", short))
    with pytest.raises(WeightsError, match=r"left over vae\.decoder\.gate_msa"):
        load("video_decoder", written(checkpoints, tmp_path / "b.safetensors", stray))


def test_previews_are_dropped_the_marker_is_named_and_all_else_must_fit(checkpoints: Path, tmp_path: Path) -> None:
    def coarse(arrays: dict[str, mx.array]) -> None:
        arrays["decoder.coarse_head.weight"] = mx.ones((3, 4))

    report = load("video_decoder", written(checkpoints, tmp_path / "a.safetensors", coarse)).load_report
    assert report.unused == ("coarse_head.weight", "type_emb") and "not used: coarse_head.weight, type_emb" in str(
        report
    )

    def without(arrays: dict[str, mx.array]) -> None:
        del arrays["decoder.diff_blocks.0.attn.qkv.bias"]

    with pytest.raises(WeightsError, match=r"missing vae\.decoder\.diff_blocks\.0\.attn\.qkv\.bias"):
        load("video_decoder", written(checkpoints, tmp_path / "b.safetensors", without))


def test_a_file_of_the_decoder_alone_is_known_by_its_names(checkpoints: Path, tmp_path: Path) -> None:
    def alone(arrays: dict[str, mx.array]) -> None:
        for name in [name for name in arrays if name.startswith("encoder.")]:
            del arrays[name]

    path = written(checkpoints, tmp_path / "alone.safetensors", alone)
    assert (
        load("video_decoder", path).load_report.tensors
        == load("video_decoder", checkpoints / f"{NAME}.safetensors").load_report.tensors
    )


def test_the_encoder_of_the_file_is_that_of_a_flat_file(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / f"{NAME}.safetensors"
    config = copy.deepcopy(read_checkpoint(source).config)
    encoder = config["vae"].pop("encoder")
    flat = {"_class_name": "CausalVideoAutoencoder", "latent_channels": 128, "encoder_blocks": encoder["blocks"]}
    flat |= {
        "decoder_blocks": encoder["blocks"],
        "out_channels": 3,
        "causal_decoder": False,
        "timestep_conditioning": False,
    }
    flat |= {
        name: encoder[name]
        for name in ("dims", "in_channels", "patch_size", "latent_log_var", "norm_layer", "spatial_padding_mode")
    }
    flat["decoder_blocks"] = [[name.removesuffix("_res"), {}] for name, _ in encoder["blocks"] if name != "res_x"]
    path = written(checkpoints, tmp_path / "flat.safetensors", config=json.dumps({"vae": flat}))
    video = mx.random.normal((1, 3, 9, 64, 96))
    own, other = (load("video_encoder", file, mx.float32) for file in (source, path))
    assert own.config.decoder_blocks == () and mx.array_equal(own(video), other(video))


def test_a_nested_encoder_must_be_described_whole(checkpoints: Path) -> None:
    config = copy.deepcopy(read_checkpoint(checkpoints / f"{NAME}.safetensors").config)
    del config["vae"]["encoder"]["blocks"]
    with pytest.raises(ConfigError, match=r"vae\.encoder lacks blocks"):
        VideoVAEConfig.from_metadata(config)
    config["vae"]["encoder"] = 3
    with pytest.raises(ConfigError, match=r"vae\.encoder is 3, expected a table"):
        VideoVAEConfig.from_metadata(config)


def test_plan_knows_the_decoder_and_refuses_tiles(checkpoints: Path, tmp_path: Path) -> None:
    vae = written(checkpoints, tmp_path / "vae.safetensors", model_version="2.3.0")
    flags = [
        "--pipeline",
        "ti2vid_one_stage",
        "--checkpoint-path",
        checkpoints / "tiny-2.3.safetensors",
        "--video-vae-path",
        vae,
    ]
    flags += ["--gemma-root", checkpoints / "tiny-gemma", "--prompt", "a fox", "--output-path", tmp_path / "x.mp4"]
    flags += [
        "--height",
        "64",
        "--width",
        "64",
        "--num-frames",
        "9",
        "--video-stg-blocks",
        "1",
        "--audio-stg-blocks",
        "1",
    ]
    made = plan(parse("plan", list(map(str, flags))))
    assert made.problems == []
    assert next(stage.what for stage in made.stages if stage.name == "frames") == "9 of 64x64, in slabs of 9 frames"
    refused = plan(parse("plan", [*map(str, flags), "--tiling", "default"])).problems
    assert len(refused) == 1 and refused[0].startswith("tiles do not apply to this checkpoint's video decoder")
    assert plan(parse("plan", [*map(str, flags), "--tiling", "none"])).problems == []
