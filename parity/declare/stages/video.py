"""The video side: encoder, decoder and latent upsamplers, whole and in tiles, down to bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import normal
from ..model import Case, Counterparts, Data, FunctionTap, Loaded, Obj, Stage, section

_REF = "ltx_core.model.video_vae"
_OURS = "ltx2_mlx.video_vae"


def _vae(name: str, **flags: Any) -> FunctionTap:
    """A function, looked up where encoder and decoder call it, or a method of theirs."""
    return FunctionTap(name.rpartition(".")[2], Counterparts(f"{_REF}.video_vae:{name}", f"{_OURS}:{name}"), **flags)


def _statistics(name: str) -> FunctionTap:
    at = f"PerChannelStatistics.{name}"
    return FunctionTap(name, Counterparts(f"{_REF}.ops:{at}", f"ltx2_mlx.nn.norm:{at}"))


ROUND = ("tiny-2.0", "tiny-2.3", "tiny-2.0-timestep")  # what is around the networks is compared as well
# 2.5's convolutional VAE, and the encoder beside its diffusion decoder, are 2.3's in files of their own (zeros padding,
# a decoder that is not causal and has no timestep): the reference is the class of 1.0.0 that 2.3 has.
CONFIGS = (*ROUND, "tiny-2.5-video-vae-conv")
NOISY = ("tiny-2.0-timestep",)
NORMS = ("*norm1", "*norm2", "*norm3", "*conv_norm_out")
CLASSES = {
    name: Counterparts(f"{_REF}.tiling:{name}", f"ltx2_mlx.tiling:{name}")
    for name in ("TilingConfig", "SpatialTilingConfig", "TemporalTilingConfig")
}
CLASSES |= {"decode_video": Counterparts(f"{_REF}.video_vae:decode_video", f"{_OURS}:decode_video")}
# Ours alone works in slabs; both sides must give the same.
IN_SLABS = {
    name: Counterparts(f"parity.sides.torch:{name}", f"parity.sides.mlx:{name}")
    for name in ("decoded_in_slabs", "encoded_in_slabs")
}
CLASSES |= IN_SLABS
CLASSES |= {
    "upsample_video": Counterparts("ltx_core.model.upsampler.model:upsample_video", "ltx2_mlx.upsampler:upsample_video")
}


def _tiling(pixels: tuple[int, int], frames: tuple[int, int]) -> Obj:
    """Size and overlap along space and time."""
    sizes = ("tile_size_in_pixels", "tile_overlap_in_pixels"), ("tile_size_in_frames", "tile_overlap_in_frames")
    spatial = Obj("SpatialTilingConfig", dict(zip(sizes[0], pixels, strict=True)))
    temporal = Obj("TemporalTilingConfig", dict(zip(sizes[1], frames, strict=True)))
    return Obj("TilingConfig", {"spatial_config": spatial, "temporal_config": temporal})


def _video(name: str, *shape: int) -> Data:
    """A video in [−1, 1]: smooth gradients that differ along every axis, and noise."""
    b, c, t, h, w = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    smooth = np.sin(5 * t + 3 * b) * 0.3 + 0.5 * h - 0.4 * w * w + 0.2 * c - 0.1
    return Data((np.clip(smooth + 0.25 * normal(name, *shape), -1, 1)).astype(np.float32))


_LONG = ("*conv_in", "*blocks.?", "*conv_out", "Video?ncoder", "Video?ecoder", "*normalize")


def _is_alone(config: dict[str, Any]) -> bool:
    """True for 2.5's VAE, whose file holds nothing else: what is around its networks is compared with 2.3's."""
    vae = config["vae"]
    return set(config) == {"vae"} and ("encoder" in vae or vae["latent_channels"] >= 64)


def encoder_cases(config: dict[str, Any]) -> dict[str, Case]:
    vae = config["vae"]
    if _is_alone(config):
        return {"base": Case({"sample": _video("encode alone", 1, 3, 9, 64, 96)}, half=False)}
    cases = {"base": Case({"sample": _video("encode", 2, 3, 9, 64, 96)}, half=False)}
    # Half precision on a small clip: torch's 3-D convolutions take twenty times as long in it.
    width = 64 if vae.get("spatial_padding_mode") == "reflect" else 32
    cases["clip"] = Case({"sample": _video("encode clip", 1, 3, 9, 64, width)})
    cases["image"] = Case({"sample": _video("encode image", 1, 3, 1, 96, 64)}, half=False)
    clip = {"video": _video("encode slabs", 1, 3, 25, 64, 64), "video_encoder": Loaded("video_encoder")}
    cases["slabs"] = Case(clip, function="encoded_in_slabs", half=False, taps=("*encoded_in_slabs",))
    if vae["latent_channels"] < 64:  # narrow enough for tiles; the plan knows no widths
        # Twice two tiles; overlaps below the least that encoding takes are widened to it.
        kwargs = {"video": _video("encode tiles", 1, 3, 25, 128, 64), "tiling_config": _tiling((96, 32), (24, 8))}
        tiles = ("*tiled_encode", "*prepare_tiles_for_encoding", "VideoEncoder")  # the cases above judge what is inside
        cases["tiled"] = Case(kwargs, method="tiled_encode", half=False, taps=tiles)
        # 73 frames in three tiles of time, of which the first ends at frame 64; whole, and 137 frames at once.
        kwargs = {"video": _video("encode long", 1, 3, 73, 64, 96), "tiling_config": _tiling((96, 32), (64, 24))}
        cases["long-tiled"] = Case(kwargs, method="tiled_encode", half=False, taps=tiles)
        whole = {"sample": _video("encode longest", 1, 3, 137, 64, 64)}
        cases["long"] = Case(whole, half=False, taps=_LONG)
    return cases


def decoder_cases(config: dict[str, Any]) -> dict[str, Case]:
    channels = config["vae"]["latent_channels"]

    def latent(name: str, *shape: int) -> Data:
        return Data(normal(f"decode {name}", shape[0], channels, *shape[1:]))

    cases = {"base": Case({"sample": latent("base", 2, 2, 2, 3)})}
    if _is_alone(config):
        return cases
    cases["image"] = Case({"sample": latent("image", 1, 1, 3, 2)}, half=False)
    frames = 6 if channels < 64 else 4  # in three tiles, or two; two along height
    tiles = (
        "*decode_video",
        "*tiled_decode",
        "*_prepare_tiles",
        "VideoDecoder",
    )  # of tiles; base judges what is inside
    kwargs = {"latent": latent("tiles", 2, frames, 3, 2), "tiling_config": _tiling((64, 32), (24, 8))}
    conditioned = config["vae"]["timestep_conditioning"]
    if conditioned:
        kwargs["timestep"] = Data(np.array([0.12, 0.3], np.float32))
    # In half precision a conditioned reference is too far from its oracle to judge by.
    cases["tiled"] = Case(kwargs, method="tiled_decode", half=not conditioned, taps=tiles)
    kwargs = {"latent": latent("pixels", 1, 1, 2, 3), "video_decoder": Loaded("video_decoder")}
    cases["pixels"] = Case(kwargs, function="decode_video")
    # Three tiles along width, overlapping so far that their weights do not add up to one.
    wide = {"latent": latent("wide", 1, 1, 2, 5), "tiling_config": _tiling((96, 64), (16, 0))}
    cases["tiled-pixels"] = Case(kwargs | wide, function="decode_video", taps=tiles)
    if channels < 64:
        # How clips of real proportions are cut: one side's tiles rounded up, and half a cell rounded to even.
        for name, size, tiles_of in (
            ("plan", (21, 17, 30), ((384, 64), (64, 24))),
            ("half", (3, 5, 10), ((160, 32), (16, 8))),
        ):
            kwargs = {"latent": latent(name, 1, *size), "tiling_config": _tiling(*tiles_of)}
            cases[name] = Case(kwargs, method="_prepare_tiles", half=False, taps=("*_prepare_tiles",))
        # 73 frames in tiles of 64, and 137 frames whole.
        long = {"latent": latent("long tiles", 1, 10, 2, 3), "tiling_config": _tiling((64, 32), (64, 24))}
        cases["long-tiled"] = Case(long, method="tiled_decode", half=False, taps=tiles)
        cases["long"] = Case({"sample": latent("long", 1, 18, 2, 2)}, half=False, taps=_LONG)
    if not conditioned:  # where nothing is drawn
        clip = {"latent": latent("slabs", 1, 8, 2, 2), "video_decoder": Loaded("video_decoder")}
        cases["slabs"] = Case(clip, function="decoded_in_slabs", half=False, taps=("*decoded_in_slabs",))
    else:
        levels = Data(np.array([0.05, 0.3], np.float32))
        cases["timestep"] = Case({"sample": latent("timestep", 2, 1, 2, 3), "timestep": levels}, half=False)
    return cases


def upsampler_cases(config: dict[str, Any]) -> dict[str, Case]:
    # A mean that moves from frame to frame, or a norm over single frames could not be told from one over all.
    latent = normal("upsample", 2, config["in_channels"], 3, 4, 6)
    latent += np.linspace(-1.5, 2.0, 3, dtype=np.float32)[None, None, :, None, None]
    kwargs = {"latent": Data(latent), "video_encoder": Loaded("video_encoder"), "upsampler": Loaded("upsampler")}
    # A latent as long and wide as a real one's, of few frames' worth of taps.
    large = Data(normal("upsample long", 1, config["in_channels"], 9, 11, 14))
    taps = ("*initial_conv", "*upsampler", "*final_conv", "un_normalize", "normalize")
    long = Case(kwargs | {"latent": large}, function="upsample_video", half=False, taps=taps)
    return {"base": Case(kwargs, function="upsample_video"), "long": long}


def _is_flat(config: dict[str, Any]) -> bool:
    """True for a VAE whose decoder ltx-core 1.0.0 has: that of a diffusion VAE is another stage's."""
    return bool(section(config, "vae").get("_class_name") != "CausalDiffusionVAE")


VIDEO_ENCODER = Stage(
    name="video_encoder",
    layout="video",
    component="video_encoder",
    cases=encoder_cases,
    classes=CLASSES,
    configs=(*CONFIGS, "tiny-2.5-diffusion-vae"),
    functions=(
        _vae("patchify", exact=True, channels_last=True),
        _statistics("normalize"),
        _vae("prepare_tiles_for_encoding", exact=True, configs=NOISY),
        _vae("VideoEncoder.tiled_encode", configs=NOISY),
        FunctionTap("encoded_in_slabs", IN_SLABS["encoded_in_slabs"], configs=ROUND),
    ),
    probes=NORMS,
)

VIDEO_DECODER = Stage(
    name="video_decoder",
    fits=_is_flat,
    layout="video",
    component="video_decoder",
    cases=decoder_cases,
    classes=CLASSES,
    configs=CONFIGS,
    functions=(
        FunctionTap("randn", Counterparts("torch:randn", f"{_OURS}:randn"), injected=True, configs=NOISY),
        _statistics("un_normalize"),
        FunctionTap(
            "_feed_spatial_noise",
            Counterparts(
                f"{_REF}.resnet:ResnetBlock3D._feed_spatial_noise", f"{_OURS}:ResnetBlock3D._feed_spatial_noise"
            ),
            channels_last=True,
            configs=NOISY,
        ),
        _vae("unpatchify", exact=True, channels_last=True),
        _vae("VideoDecoder._prepare_tiles", exact=True, configs=ROUND),
        _vae("VideoDecoder.tiled_decode", configs=ROUND),
        _vae("decode_video", configs=ROUND),
        FunctionTap("decoded_in_slabs", IN_SLABS["decoded_in_slabs"], configs=ROUND[:2]),
    ),
    probes=NORMS,
    defined=("*time_proj",),
)

UPSAMPLER = Stage(
    name="upsampler",
    layout="video",
    component="upsampler",
    also={"video_encoder": "tiny-2.0"},
    cases=upsampler_cases,
    classes=CLASSES,
    configs=(
        "tiny-2.0-upsampler-x2",
        "tiny-2.3-upsampler-x2",
        "tiny-2.3-upsampler-x1.5",
        "tiny-2.3-upsampler-time",
        "tiny-2.3-upsampler-space-time",
    ),
    functions=(_statistics("un_normalize"), _statistics("normalize")),
    probes=("*norm1", "*norm2", "*initial_norm"),
    idle={"tiny-2.0-upsampler-x2": ("upsampler.blur_down.kernel",)},  # nothing to blur where nothing is left out
)
