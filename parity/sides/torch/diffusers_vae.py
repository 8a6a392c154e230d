"""diffusers' autoencoders and upsamplers as components of its side: see ``diffusers``.

Its ``encode`` and ``decode`` know latents as the networks make them. What the checkpoint calls a latent is normalised,
by statistics that it keeps beside them, so the two halves here do that around them.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Literal

import torch

from ..port import NotComparableError, Part, Rename
from .port import TorchPort  # noqa: F401  first: it makes torchaudio importable

from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video  # isort: skip
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel  # isort: skip

Config = dict[str, Any]
Blocks = list[tuple[str, Config]]
TYPES = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}
STATISTICS = (
    (r"per_channel_statistics\.mean-of-means", "latents_mean"),
    (r"per_channel_statistics\.std-of-means", "latents_std"),
)


class Half(torch.nn.Module):
    """One half of an autoencoder, with normalised latents outside."""

    def __init__(self, vae: Any, other: Literal["encoder", "decoder"]):
        super().__init__()
        delattr(vae, other)
        self.vae = vae

    def statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation, in the shape that goes with a latent."""
        mean, std = (self.vae.get_buffer(name).to(like) for name in ("latents_mean", "latents_std"))
        if like.ndim == 5:
            return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
        shape = like.shape[1], 1, like.shape[3]  # an audio latent has one of each for a channel and bin
        return mean.view(shape), std.view(shape)

    def normalize(self, latent: torch.Tensor) -> torch.Tensor:
        mean, std = self.statistics(latent)
        return (latent - mean) / std

    def un_normalize(self, latent: torch.Tensor) -> torch.Tensor:
        mean, std = self.statistics(latent)
        return latent * std + mean


class Encoder(Half):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """A video or a spectrogram → its normalised latent."""
        return self.normalize(self.vae.encode(sample).latent_dist.mode())


class Decoder(Half):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """A normalised latent → a video or a spectrogram.

        A video decoder with timesteps is given the noise that ltx-core adds, which is the pipeline's business here.
        """
        if not getattr(self.vae.config, "timestep_conditioning", False):
            decoded: torch.Tensor = self.vae.decode(self.un_normalize(sample)).sample
            return decoded
        sample = 0.025 * torch.randn(sample.shape, dtype=sample.dtype) + 0.975 * sample
        if timestep is None:
            timestep = torch.full((len(sample),), 0.05, dtype=sample.dtype)
        decoded = self.vae.decode(self.un_normalize(sample), timestep).sample
        return decoded


# ---- video --------------------------------------------------------------------------------------------------------


def _blocks(config: Config, half: str) -> Blocks:
    """Kind and options of each block, in the order in which they run."""
    if f"{half}_blocks" not in config["vae"]:
        raise NotComparableError(f"its {half} is another class of diffusers, or none")
    blocks = config["vae"][f"{half}_blocks"]
    named = [(name, {"num_layers": options} if isinstance(options, int) else options) for name, options in blocks]
    return named if half == "encoder" else named[::-1]


def _grouped(blocks: Blocks) -> tuple[list[Config], Blocks]:
    """The rows of residual blocks before, between and after the resamplings; and the resamplings."""
    rows: list[Config] = [{"num_layers": 0}]
    resamplings: Blocks = []
    for name, options in blocks:
        if name == "res_x":
            if rows[-1]["num_layers"]:
                raise NotComparableError("diffusers has one row of residual blocks between two resamplings")
            rows[-1] = options
        elif name.startswith("compress_"):
            resamplings.append((name, options))
            rows.append({"num_layers": 0})
        else:
            raise NotComparableError(f"diffusers has no block '{name}' in a video VAE")
    return rows, resamplings


_SMALL_ENCODER: Config = {  # in place of the half that is not looked at
    "block_out_channels": (8,),
    "down_block_types": ("LTX2VideoDownBlock3D",),
    "layers_per_block": (0, 0),
    "spatio_temporal_scaling": (True,),
    "downsample_type": ("spatial",),
}
_SMALL_DECODER: Config = {
    "decoder_block_out_channels": (8,),
    "decoder_layers_per_block": (0, 0),
    "decoder_spatio_temporal_scaling": (True,),
    "decoder_inject_noise": (False, False),
    "upsample_type": ("spatial",),
    "upsample_residual": (False,),
    "upsample_factor": (1,),
}


def video_encoder(config: Config) -> Any:
    vae, channels = config["vae"], config["vae"]["latent_channels"]
    rows, resamplings = _grouped(_blocks(config, "encoder"))
    if vae.get("latent_log_var", "uniform") != "uniform":
        raise NotComparableError("diffusers' video encoder has one variance for all channels, only")
    widths = []
    for name, options in resamplings:
        if not name.endswith("_res"):
            raise NotComparableError("diffusers' video encoder resamples with a residual, or along all axes at once")
        channels *= options.get("multiplier", 2)
        widths.append(channels)
    model = AutoencoderKLLTX2Video(
        latent_channels=vae["latent_channels"],
        block_out_channels=tuple(widths),
        down_block_types=("LTX2VideoDownBlock3D",) * len(widths),
        layers_per_block=tuple(row["num_layers"] for row in rows),
        spatio_temporal_scaling=(True,) * len(widths),
        downsample_type=tuple(TYPES[name.split("_")[1]] for name, _ in resamplings),
        encoder_spatial_padding_mode=vae.get("spatial_padding_mode", "zeros"),
        patch_size=vae["patch_size"],
        **_SMALL_DECODER,
    )
    return Encoder(model, "decoder")


def video_decoder(config: Config) -> Any:
    vae, channels = config["vae"], 8 * config["vae"].get("decoder_base_channels", 128)
    rows, resamplings = _grouped(_blocks(config, "decoder"))
    if vae["timestep_conditioning"] and not all(row["num_layers"] for row in rows):
        raise NotComparableError("diffusers has a timestep embedding in every block of a decoder with timesteps")
    widths, factors = [], []
    for _, options in resamplings:
        widths.append(channels)
        factors.append(options.get("multiplier", 1))
        channels //= factors[-1]
    model = AutoencoderKLLTX2Video(
        latent_channels=vae["latent_channels"],
        decoder_block_out_channels=tuple(widths[::-1]),
        decoder_layers_per_block=tuple(row["num_layers"] for row in rows[::-1]),
        decoder_spatio_temporal_scaling=(True,) * len(widths),
        decoder_inject_noise=tuple(row.get("inject_noise", False) for row in rows[::-1]),
        upsample_type=tuple(TYPES[name.split("_")[1]] for name, _ in resamplings),  # the only one not turned around
        upsample_residual=tuple(options.get("residual", False) for _, options in resamplings[::-1]),
        upsample_factor=tuple(factors[::-1]),
        timestep_conditioning=vae["timestep_conditioning"],
        decoder_causal=vae.get("causal_decoder", False),
        decoder_spatial_padding_mode=vae.get("spatial_padding_mode", "reflect"),
        patch_size=vae["patch_size"],
        **_SMALL_ENCODER,
    )
    return Decoder(model, "encoder")


def video_names(half: str) -> Any:
    """The rename rules of one half, by its config: which blocks lie within which depends on the list of them."""
    side, resampler = ("down_blocks", "downsamplers.0") if half == "encoder" else ("up_blocks", "upsamplers.0")

    def rules(config: Config) -> tuple[Rename, ...]:
        places, level = [], 0 if half == "encoder" else -1  # an up-block begins with its resampling
        kinds = [name for name, _ in _blocks(config, half)]
        for number, kind in enumerate(kinds):
            if kind.startswith("compress_"):
                level += half == "decoder"
                places.append(f"{side}.{level}.{resampler}")
                level += half == "encoder"
            else:
                middle = number == (len(kinds) - 1 if half == "encoder" else 0)
                places.append("mid_block" if middle else f"{side}.{level}")

        def placed(match: re.Match[str]) -> str:
            kind, place = kinds[int(match[1])], places[int(match[1])]
            row = kind == "res_x" and place != "mid_block"  # its like is a part of a block of theirs
            return f"{place}{match[2]}" if match[2] or not row else ""

        return (
            (rf"^{side}\.(\d+)(.*)$", placed),
            (r"res_blocks", "resnets"),
            (r"non_linearity", "nonlinearity"),
            (r"conv_norm_out", "norm_out"),
            (r"^last_", ""),
            *STATISTICS,
            (r"^(?=latents_)", "vae."),
            (r"^(?!vae\.)", f"vae.{half}."),
        )

    return rules


# ---- audio --------------------------------------------------------------------------------------------------------


def _audio(config: Config) -> Any:
    section = config["audio_vae"]
    options = section["model"]["params"]["ddconfig"]
    return AutoencoderKLLTX2Audio(
        base_channels=options["ch"],
        output_channels=options["out_ch"],
        ch_mult=tuple(options["ch_mult"]),
        num_res_blocks=options["num_res_blocks"],
        attn_resolutions=tuple(options["attn_resolutions"]),
        in_channels=options["in_channels"],
        resolution=options["resolution"],
        latent_channels=options["z_channels"],
        norm_type=options["norm_type"],
        causality_axis=options["causality_axis"] or "none",
        mid_block_add_attention=options["mid_block_add_attention"],
        mel_bins=options["mel_bins"],
        double_z=options["double_z"],
    )


def _audio_names(half: str) -> tuple[Rename, ...]:
    return (*STATISTICS, (r"^(?=latents_)", "vae."), (r"^(?!vae\.)", f"vae.{half}."))


# ---- upsamplers ---------------------------------------------------------------------------------------------------


def upsampler(config: Config) -> Any:
    return LTX2LatentUpsamplerModel(
        in_channels=config["in_channels"],
        mid_channels=config["mid_channels"],
        num_blocks_per_stage=config["num_blocks_per_stage"],
        spatial_upsample=config["spatial_upsample"],
        temporal_upsample=config["temporal_upsample"],
        use_rational_resampler=config.get("rational_resampler", False),
        rational_spatial_scale=config.get("spatial_scale", 2.0),
    )


def upsampled(model: Any, case: SimpleNamespace) -> Any:
    """A normalised latent, upsampled."""
    return case.video_encoder.normalize(model(case.video_encoder.un_normalize(case.latent)))


COMPONENTS = {
    "video_encoder": Part(video_encoder, lambda model, case: model(case.sample), video_names("encoder")),
    "video_decoder": Part(video_decoder, lambda model, case: model(**vars(case)), video_names("decoder")),
    "audio_encoder": Part(
        lambda config: Encoder(_audio(config), "decoder"),
        lambda model, case: model(case.spectrogram),
        _audio_names("encoder"),
    ),
    "audio_decoder": Part(
        lambda config: Decoder(_audio(config), "encoder"),
        lambda model, case: model(case.sample),
        _audio_names("decoder"),
    ),
    "upsampler": Part(upsampler, upsampled, entry="upsample_video"),
}
