"""The video side: sizes that are refused, tiles from a budget, memory bounded by the tile, noise from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx import load, read_checkpoint, vae_memory, video_vae
from ltx2_mlx.config import LatentUpsamplerConfig, VideoVAEConfig
from ltx2_mlx.errors import ConfigError, InputError
from ltx2_mlx.nn import conv
from ltx2_mlx.nn.conv import depth_to_space, space_to_depth
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig
from ltx2_mlx.vae_memory import Pieces, choose_pieces, decode_memory, decoder_slabs, encoder_slabs, tiles_memory
from ltx2_mlx.video_vae import (
    VideoDecoder,
    VideoEncoder,
    crop_frames,
    decode_video,
    patchify,
    to_uint8,
    unpatchify,
)


@pytest.fixture(scope="module")
def encoder(checkpoints: Path) -> VideoEncoder:
    return load("video_encoder", checkpoints / "tiny-2.3.safetensors", mx.float32)


def decoder(checkpoints: Path, name: str) -> VideoDecoder:
    return load("video_decoder", checkpoints / f"{name}.safetensors", mx.float32)


def vae(checkpoints: Path, name: str) -> dict:
    return read_checkpoint(checkpoints / f"{name}.safetensors").config["vae"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 10, 32, 32), r"10 frames, and the encoder takes 8k\+1: give 9 or 17"),
        ((1, 3, 0, 32, 32), r"0 frames, and the encoder takes 8k\+1"),
        ((1, 3, 9, 48, 32), "48 × 32 pixels, and both sides must be multiples of 32"),
        ((1, 3, 9, 32, 0), "multiples of 32"),
        ((1, 4, 9, 32, 32), r"expected \(batch, 3, frames, H, W\)"),
        ((3, 9, 32, 32), "expected"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "tiled_encode"])
def test_the_encoder_refuses_bad_sizes(encoder: VideoEncoder, shape: tuple, message: str, method: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(encoder, method)(mx.zeros(shape))


def test_frames_are_cropped_only_when_asked(encoder: VideoEncoder) -> None:
    video = mx.random.normal((1, 3, 12, 32, 32))
    assert crop_frames(video).shape[2] == 9
    assert mx.array_equal(encoder(crop_frames(video)), encoder(video[:, :, :9]))
    assert crop_frames(video[:, :, :1]).shape[2] == 1


def test_a_decoder_that_mirrors_needs_two_cells(checkpoints: Path) -> None:
    with pytest.raises(InputError, match="1 × 3 cells, and this decoder mirrors its padding, which needs two cells"):
        decoder(checkpoints, "tiny-2.0")(mx.zeros((1, 128, 1, 1, 3)))
    assert decoder(checkpoints, "tiny-2.3")(mx.zeros((1, 128, 1, 1, 1))).shape == (1, 3, 1, 32, 32)
    with pytest.raises(InputError, match=r"expected \(batch, 128, frames, height, width\)"):
        decoder(checkpoints, "tiny-2.3")(mx.zeros((1, 64, 1, 1, 1)))


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (SpatialTilingConfig, (48, 0), "multiple of 32 from 64 on"),
        (SpatialTilingConfig, (32, 0), "multiple of 32 from 64 on"),
        (SpatialTilingConfig, (64, 64), "below the size"),
        (SpatialTilingConfig, (64, 16), "multiple of 32"),
        (TemporalTilingConfig, (12, 0), "multiple of 8 from 16 on"),
        (TemporalTilingConfig, (16, -8), "below the size"),
    ],
)
def test_bad_tiles_are_refused(cls: type, arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cls(*arguments)


def test_tiles_too_small_to_encode_are_refused(encoder: VideoEncoder) -> None:
    with pytest.raises(InputError, match="tiles overlap by 64 when encoding"):
        encoder.tiled_encode(mx.zeros((1, 3, 1, 96, 96)), TilingConfig(SpatialTilingConfig(64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep_conditioning": None}, "lacks timestep_conditioning"),
        ({"norm_layer": "group_norm"}, "norm_layer is 'group_norm'"),
        ({"spatial_padding_mode": "circular"}, "spatial_padding_mode is 'circular'"),
        ({"latent_log_var": "none"}, "latent_log_var is 'none'"),
        ({"patch_size": 2}, r"make \[8, 16, 16\] pixels of a latent cell"),
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "is a 'attn_res_x'"),
        ({"decoder_blocks": [["res_x", {}]]}, "num_layers is None"),
        ({"encoder_blocks": [["res_x", {"num_layers": 1, "gated": True}]]}, "has unknown parameters: gated"),
        ({"encoder_blocks": ["res_x"]}, "expected a pair"),
        ({"surprise": 3}, "surprise=3"),
    ],
)
def test_configs_that_describe_another_network_are_refused(checkpoints: Path, change: dict, message: str) -> None:
    section = vae(checkpoints, "tiny-2.3") | change
    with pytest.raises(ConfigError, match=message):
        VideoVAEConfig.from_metadata({"vae": {k: v for k, v in section.items() if v is not None}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial_upsample": False}, "both false"),
        ({"rational_resampler": True, "spatial_scale": 3.0}, r"spatial_scale is 3.0, expected one of"),
        ({"mid_channels": 48}, "mid_channels is 48"),
        ({"dims": 2}, "dims is 2"),
        ({"surprise": 3}, "surprise=3"),
    ],
)
def test_upsamplers_of_another_kind_are_refused(checkpoints: Path, change: dict, message: str) -> None:
    config = read_checkpoint(checkpoints / "tiny-2.3-upsampler-x2.safetensors").config
    with pytest.raises(ConfigError, match=message):
        LatentUpsamplerConfig.from_metadata(config | change)


def test_zero_becomes_127_and_bytes_are_truncated() -> None:
    frames = mx.array([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6)
    assert np.array(to_uint8(frames)).ravel().tolist() == [0, 0, 127, 254, 255, 255]


def test_noise_can_be_injected_and_repeats_with_its_seed(checkpoints: Path) -> None:
    module = decoder(checkpoints, "tiny-2.0-timestep")
    latent = mx.random.normal((1, 14, 1, 2, 3))
    first, again, other = (module(latent, generator=Generator(seed)) for seed in (1, 1, 2))
    assert mx.array_equal(first, again) and not mx.array_equal(first, other)

    class Silent:
        def randn(self, shape: tuple, dtype: mx.Dtype) -> mx.array:
            return mx.zeros(shape, dtype)

    assert mx.array_equal(module(latent, generator=Silent()), module(latent, generator=Silent()))


def test_extra_statistics_of_released_files_are_known(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoints / "tiny-2.3.safetensors"
    arrays, path = mx.load(str(source)), tmp_path / "extra.safetensors"
    for name in ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means"):
        arrays[f"vae.per_channel_statistics.{name}"] = mx.ones((128,))
    mx.save_safetensors(str(path), arrays, metadata=read_checkpoint(source).metadata)
    assert load("video_encoder", path).load_report.tensors == load("video_encoder", source).load_report.tensors


# ---- memory -------------------------------------------------------------------------------------------------------


def config(checkpoints: Path, base: int) -> VideoVAEConfig:
    read = VideoVAEConfig.from_metadata({"vae": vae(checkpoints, "tiny-2.3")})
    return dataclasses.replace(read, decoder_base_channels=base)


def slab_size(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(vae_memory, "slab_size", lambda: elements)


def peak(function: object) -> int:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    function()
    return mx.get_peak_memory() - before


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """The estimate was measured there."""
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


@pytest.mark.parametrize(("base", "size"), [(8, (3, 4, 6)), (32, (3, 2, 3))])
def test_the_estimate_of_memory_holds(on_cpu: None, checkpoints: Path, base: int, size: tuple[int, int, int]) -> None:
    module = VideoDecoder(config(checkpoints, base))
    latent = mx.zeros((1, 128, *size))
    mx.eval(module.parameters(), latent)
    # Of a few: what is freed before the next is computed depends on what else the machine does.
    measured = max(peak(lambda: mx.eval(module(latent))) for _ in range(4))
    estimate = decode_memory(module.config, latent.shape, 4)
    assert 0.85 * measured <= estimate <= 1.15 * measured


def test_memory_is_bounded_by_the_tile(on_cpu: None, checkpoints: Path) -> None:
    module = VideoDecoder(config(checkpoints, 16))
    latent = mx.random.normal((1, 128, 4, 3, 4))
    mx.eval(module.parameters(), latent)
    tiling = TilingConfig(SpatialTilingConfig(64, 32), TemporalTilingConfig(16, 8))
    estimate = tiles_memory(module.config, latent.shape, tiling, 4)

    def tiled() -> None:
        for chunk in module.tiled_decode(latent, tiling):
            mx.eval(chunk)

    whole = peak(lambda: mx.eval(module(latent)))
    assert peak(tiled) < min(1.15 * estimate, whole / 2)


def test_a_video_is_decoded_in_tiles_when_the_budget_asks_for_them(
    on_cpu: None, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("video_decoder", checkpoints / "tiny-2.0.safetensors", mx.float32)
    latent = mx.random.normal((1, 128, 3, 3, 4), key=mx.random.key(5))
    tiling = TilingConfig(SpatialTilingConfig(64, 32), TemporalTilingConfig(16, 8))
    pieces = Pieces(2**40, tiling, 0)
    with monkeypatch.context() as patched:
        patched.setattr(video_vae, "choose_pieces", lambda config, shape, budget, itemsize: pieces)
        chosen = list(decode_video(latent, module, memory_budget=1))
    told = list(decode_video(latent, module, tiling))
    assert len(chosen) == len(told)
    assert all(mx.array_equal(a, b) for a, b in zip(chosen, told, strict=True))
    (whole,) = decode_video(latent, module)
    assert whole.shape == mx.concatenate(chosen).shape
    assert mx.array_equal(whole, to_uint8(module(latent)[0]))
    assert not mx.array_equal(whole, mx.concatenate(chosen))  # tiles leave their trace


def test_slabs_become_smaller_and_then_tiles_until_the_budget_holds_them(
    monkeypatch: pytest.MonkeyPatch, checkpoints: Path
) -> None:
    slab_size(monkeypatch, 2**60)
    shape, c = (1, 128, 16, 16, 24), config(checkpoints, 128)
    whole, least = decode_memory(c, shape, 2), decode_memory(c, shape, 2, slab=1)
    assert choose_pieces(c, shape, whole, 2) == (2**60, None, whole)
    in_slabs = [choose_pieces(c, shape, budget, 2) for budget in (whole // 2, whole // 8, least)]
    in_tiles = [choose_pieces(c, shape, int(least * share), 2) for share in (0.95, 0.8, 0.5)]
    assert all(pieces.tiling is None and pieces.slab < 2**60 for pieces in in_slabs)
    assert all(pieces.tiling is not None for pieces in in_tiles)
    taken = [pieces.memory for pieces in (*in_slabs, *in_tiles)]
    assert taken == sorted(taken, reverse=True) and len(set(taken)) == len(taken)
    with pytest.raises(InputError, match=r"in the smallest pieces, and the budget is 0\.00 GB"):
        choose_pieces(c, shape, 1000, 2)


def test_large_rearrangements_in_bands_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a copy is too large for one launch (see ``LARGEST_COPY``)."""
    x = mx.arange(2 * 4 * 6 * 10 * 8).reshape(2, 4, 6, 10, 8)
    moves = (lambda: depth_to_space(x, (2, 2, 2)), lambda: space_to_depth(x, (2, 3, 2)), lambda: unpatchify(x, 2))
    moves += (lambda: patchify(x, 2), lambda: depth_to_space(x[0], (2, 2)))
    whole = [move() for move in moves]
    for largest in (1, 700, 2000):
        monkeypatch.setattr(conv, "LARGEST_COPY", largest)
        for before, move in zip(whole, moves, strict=True):
            assert mx.array_equal(before, move()).item()


# ---- slabs --------------------------------------------------------------------------------------------------------


def error(ours: mx.array, truth: mx.array) -> float:
    return (mx.linalg.norm(ours - truth) / mx.linalg.norm(truth)).item()


@pytest.mark.parametrize("elements", [1, 2**17])
@pytest.mark.parametrize("name", ["tiny-2.0", "tiny-2.3", "tiny-2.0-timestep"])
def test_a_clip_decoded_in_slabs_is_the_clip_decoded_whole(
    monkeypatch: pytest.MonkeyPatch, checkpoints: Path, name: str, elements: int
) -> None:
    """Down to one frame a slab. Only the last bit of float32 may differ, where a BLAS sums the last rows of a matrix in
    another order."""
    module = decoder(checkpoints, name)
    latent = mx.random.normal((2, module.config.latent_channels, 4, 2, 2), key=mx.random.key(1))
    whole = module(latent, generator=Generator(1))
    slab_size(monkeypatch, elements)
    chunks = list(module.decode_in_slabs(latent, generator=Generator(1)))
    most = decoder_slabs(module.config, latent.shape)[-1] + 1  # the last slab brings the frame that waited
    assert len(chunks) > 4 and max(chunk.shape[2] for chunk in chunks) <= most
    assert mx.concatenate(chunks, axis=2).shape == whole.shape
    assert error(mx.concatenate(chunks, axis=2), whole) < 1e-6
    assert mx.array_equal(module(latent, generator=Generator(1)), mx.concatenate(chunks, axis=2))


@pytest.mark.parametrize("name", ["tiny-2.0", "tiny-2.3", "tiny-2.0-timestep"])
def test_a_clip_encoded_in_slabs_is_the_clip_encoded_whole(
    monkeypatch: pytest.MonkeyPatch, checkpoints: Path, name: str
) -> None:
    module = load("video_encoder", checkpoints / f"{name}.safetensors", mx.float32)
    video = mx.random.uniform(-1, 1, (1, 3, 25, 64, 64), key=mx.random.key(2))
    whole = module(video)
    slab_size(monkeypatch, 2**13)
    assert len(encoder_slabs(module.config, video.shape)[1]) > 2
    assert error(module(video), whole) < 1e-6


def test_slabs_bound_the_memory_of_a_clip(on_cpu: None, monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> None:
    """Twice the frames take the same, and the estimate holds."""
    module = VideoDecoder(config(checkpoints, 16))
    slab_size(monkeypatch, 2**17)
    taken = []
    for frames in (8, 16):
        latent = mx.random.normal((1, 128, frames, 2, 3))
        mx.eval(module.parameters(), latent)

        def decoded(latent: mx.array = latent) -> None:
            for chunk in module.decode_in_slabs(latent):
                mx.eval(chunk)

        taken.append(peak(decoded))
        estimate = decode_memory(module.config, latent.shape, 4)
        assert 0.85 * taken[-1] <= estimate <= 1.15 * taken[-1]
    assert taken[1] < 1.1 * taken[0]
    slab_size(monkeypatch, 2**60)
    assert peak(decoded) > 3 * taken[1]
