"""The video VAE, upsampler, audio VAE and vocoders of ``mlx-video-with-audio``, as components of its side.

Each is made as the port's own loader makes it, with the sizes of the checkpoint's config.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_video.models.ltx import upsampler as upsampling
from mlx_video.models.ltx.audio_vae import (
    AudioDecoder,
    BigVGANVocoder,
    CausalityAxis,
    NormType,
    Vocoder,
    VocoderWithBWE,
)
from mlx_video.models.ltx.video_vae.convolution import PaddingModeType
from mlx_video.models.ltx.video_vae.decoder import LTX2VideoDecoder
from mlx_video.models.ltx.video_vae.video_vae import LogVarianceType, VideoEncoder

from ..port import NotComparableError, Part

Config = dict[str, Any]


def turned(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of convolutions as MLX has them: channels last; of transposed ones from the output's channels on."""

    def turn(name: str, array: np.ndarray) -> np.ndarray:
        if array.ndim < 3 or not name.endswith(".weight"):
            return array
        return array.transpose(1, 2, 0) if ".ups." in f".{name}" else np.moveaxis(array, 1, -1)

    return {name: turn(name, array) for name, array in tensors.items()}


# ---- video --------------------------------------------------------------------------------------------------------


def video_encoder(config: Config) -> Any:
    vae = config["vae"]
    if any(kind == "res_x_y" for kind, _ in vae["encoder_blocks"]):
        raise NotComparableError(
            "its blocks that change the number of channels have no norm; no released file has them"
        )
    return VideoEncoder(
        out_channels=vae["latent_channels"],
        encoder_blocks=[tuple(block) for block in vae["encoder_blocks"]],
        patch_size=vae["patch_size"],
        latent_log_var=LogVarianceType(vae["latent_log_var"]),
        encoder_spatial_padding_mode=PaddingModeType(vae.get("spatial_padding_mode", "zeros")),
    )


def video_decoder(config: Config) -> Any:
    """Its first layer is made for 1,024 channels, whatever the config says; the weights say how many there are."""
    vae = config["vae"]
    if vae["timestep_conditioning"]:
        raise NotComparableError("its decoder with timesteps is made for released sizes, and draws noise of its own")
    return LTX2VideoDecoder(
        in_channels=vae["latent_channels"],
        patch_size=vae["patch_size"],
        decoder_blocks=vae["decoder_blocks"],
        spatial_padding_mode=PaddingModeType(vae.get("spatial_padding_mode", "reflect")),
        timestep_conditioning=False,
    )


def upsampler(config: Config) -> Any:
    factor = config.get("spatial_scale", 2.0) if config.get("rational_resampler") else 2.0
    if config["temporal_upsample"] or not config["spatial_upsample"] or factor != 2:
        raise NotComparableError("it doubles height and width, and nothing else")
    return upsampling.LatentUpsampler(config["in_channels"], config["mid_channels"], config["num_blocks_per_stage"])


def upsampled(model: Any, case: SimpleNamespace) -> Any:
    statistics = case.video_encoder.per_channel_statistics
    return upsampling.upsample_latents(case.latent, model, statistics.mean, statistics.std)


# ---- audio --------------------------------------------------------------------------------------------------------


def audio_decoder(config: Config) -> Any:
    """With an attention block in the middle, as its loader makes it: that is the default of its class."""
    options = config["audio_vae"]["model"]["params"]["ddconfig"]
    if not options["causality_axis"]:
        raise NotComparableError("its loader makes causal decoders with pixel norms, only")
    return AudioDecoder(
        ch=options["ch"],
        out_ch=options["out_ch"],
        ch_mult=tuple(options["ch_mult"]),
        num_res_blocks=options["num_res_blocks"],
        attn_resolutions=set(options["attn_resolutions"]),
        resolution=options["resolution"],
        z_channels=options["z_channels"],
        norm_type=NormType(options["norm_type"]),
        causality_axis=CausalityAxis(options["causality_axis"]),
        mel_bins=options["mel_bins"],
    )


def _sizes(section: Config) -> Config:
    names = ("resblock_kernel_sizes", "upsample_rates", "upsample_kernel_sizes", "resblock_dilation_sizes")
    return {name: section[name] for name in (*names, "upsample_initial_channel")}


def _big_vgan(section: Config, final: bool) -> Any:
    ends = {name: section.get(name, False) for name in ("use_tanh_at_final", "use_bias_at_final")}
    return BigVGANVocoder(
        **_sizes(section), **ends, apply_final_activation=section.get("apply_final_activation", final)
    )


def vocoder(config: Config) -> Any:
    section = config["vocoder"]
    if "bwe" not in section:
        if not (section.get("use_tanh_at_final", True) and section.get("use_bias_at_final", True)):
            raise NotComparableError("its vocoder of LTX-2.0 ends in a bias and a tanh, always")
        return Vocoder(**_sizes(section))
    bwe = section["bwe"]
    return VocoderWithBWE(
        vocoder=_big_vgan(section["vocoder"], True),
        bwe_generator=_big_vgan(bwe, False),
        input_sampling_rate=bwe["input_sampling_rate"],
        output_sampling_rate=bwe["output_sampling_rate"],
        hop_length=bwe["hop_length"],
        win_length=bwe["win_size"],
    )


def outside(module: Any) -> bool:
    """True for a vocoder: it has its channels first, and what is in it has them last."""
    return isinstance(module, (Vocoder, BigVGANVocoder, VocoderWithBWE))


COMPONENTS = {
    "video_encoder": Part(
        video_encoder,
        lambda model, case: model(case.sample),
        (
            (r"per_channel_statistics\.mean-of-means", "per_channel_statistics.mean"),
            (r"per_channel_statistics\.std-of-means", "per_channel_statistics.std"),
            (r"non_linearity", "act"),
        ),
        turned,
        channels_last=lambda module: isinstance(module, nn.Conv3d),
    ),
    "video_decoder": Part(
        video_decoder,
        lambda model, case: model(case.sample),
        (
            (r"per_channel_statistics\.mean-of-means", "latents_mean"),
            (r"per_channel_statistics\.std-of-means", "latents_std"),
            (r"(conv_in|conv_out|conv1|conv2)\.conv", r"\1.conv.conv"),
            (r"non_linearity", "act"),
        ),
        turned,
        loose=("*",),
        channels_last=lambda module: isinstance(module, nn.Conv3d),
    ),
    "upsampler": Part(
        upsampler,
        upsampled,
        ((r"^upsampler\.0", "upsampler.conv"), (r"^upsampler\.1", "upsampler.pixel_shuffle")),
        turned,
        unused=("upsampler.blur_down.kernel",),
        own=("upsampler.blur_down_kernel",),
        channels_last=lambda module: not isinstance(module, upsampling.LatentUpsampler),
        entry="upsample_video",
    ),
    "audio_decoder": Part(
        audio_decoder,
        lambda model, case: model(case.sample),
        ((r"mean-of-means", "_mean_of_means"), (r"std-of-means", "_std_of_means")),
        turned,
        own=("mid.attn_1.*",),
        channels_last=lambda module: not isinstance(module, AudioDecoder),
    ),
    "vocoder": Part(
        vocoder,
        lambda model, case: model(*vars(case).values()),
        (),
        turned,
        unused=("mel_stft.stft_fn.inverse_basis",),
        own=("*inverse_basis", "vocoder.mel_stft.*", "bwe_generator.mel_stft.*"),
        loose=("mel_stft.*",),
        channels_last=lambda module: not outside(module),
    ),
}
mx.random.seed(0)  # what a checkpoint lacks keeps what it was made with
