"""The video VAE and the latent upsamplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..errors import ConfigError
from .reading import Layers, Size, Within, choice, fitted, read_fields, require, section_of, short, table_of

_STRIDES = {"": (1, 1, 1), "time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}
# Block kind → what its parameters are when the file does not say (None: it must).
_ENCODER_BLOCKS: dict[str, dict[str, Any]] = {
    "res_x": {"num_layers": None},
    "res_x_y": {"multiplier": 2},
    "compress_time": {},
    "compress_space": {},
    "compress_all": {},
    "compress_all_x_y": {"multiplier": 2},
    "compress_time_res": {"multiplier": 2},
    "compress_space_res": {"multiplier": 2},
    "compress_all_res": {"multiplier": 2},
}
_DECODER_BLOCKS: dict[str, dict[str, Any]] = {
    "res_x": {"num_layers": None, "inject_noise": False},
    "res_x_y": {"multiplier": 2, "inject_noise": False},
    "compress_time": {"multiplier": 1},
    "compress_space": {"multiplier": 1},
    "compress_all": {"multiplier": 1, "residual": False},
}


Multiplier = Annotated[int, Within(1, 64)]


@dataclass(frozen=True)
class VAEBlock:
    """One entry of ``encoder_blocks`` or ``decoder_blocks``.

    multiplier: of the channels when encoding, their divisor when decoding. residual: the input, rearranged, is added.
    """

    kind: str
    num_layers: Layers = 1
    multiplier: Multiplier = 1
    residual: bool = False
    inject_noise: bool = False

    @property
    def stride(self) -> tuple[int, int, int]:
        """Cells along time, height and width that become one (or come of one)."""
        return _STRIDES[self.kind.split("_")[1] if self.kind.startswith("compress") else ""]


@dataclass(frozen=True)
class VideoVAEConfig:
    """Section ``vae``. Source: ``ltx_core.model.video_vae.model_configurator``."""

    in_channels: Size
    out_channels: Size
    latent_channels: Size
    encoder_blocks: tuple[VAEBlock, ...]
    decoder_blocks: tuple[VAEBlock, ...]  # as listed: the decoder is built from the last to the first
    patch_size: Annotated[int, Within(1, 64)]
    latent_log_var: str
    causal_decoder: bool
    timestep_conditioning: bool  # ltx-core's default is true, every released file says false
    decoder_base_channels: Size = 128
    spatial_padding_mode: str | None = None

    @property
    def encoder_reflects(self) -> bool:
        """Mirrored padding at the sides of a frame; zeros where the file does not say."""
        return self.spatial_padding_mode == "reflect"

    @property
    def decoder_reflects(self) -> bool:
        """Mirrored padding also where the file does not say: so it is in 2.0."""
        return self.spatial_padding_mode in (None, "reflect")

    @property
    def encoder_out_channels(self) -> int:
        """Means, and their log-variances: one for each, or one for all."""
        return self.latent_channels * 2 if self.latent_log_var == "per_channel" else self.latent_channels + 1

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> VideoVAEConfig:
        """Read and check section ``vae`` of the whole ``config`` dictionary: of a file with a diffusion decoder, its
        encoder's part, with no decoder's blocks."""
        section = section_of(config, "vae")
        diffuses = DiffusionDecoderConfig.describes(config)
        section = _of_the_encoder(section) if diffuses else section
        require(section, "vae", _VAE_FIXED)
        read = read_fields(cls, section, "vae", _VAE_IGNORED | set(_VAE_FIXED))
        choice(section, "vae", "latent_log_var", {"per_channel": 0, "uniform": 0, "constant": 0})
        if section.get("spatial_padding_mode") is not None:
            choice(section, "vae", "spatial_padding_mode", {"zeros": 0, "reflect": 0})
        read["encoder_blocks"] = _blocks(section, "encoder_blocks", _ENCODER_BLOCKS)
        read["decoder_blocks"] = _blocks(section, "decoder_blocks", _DECODER_BLOCKS)
        for key in ("encoder_blocks",) if diffuses else ("encoder_blocks", "decoder_blocks"):
            factors = [1, read["patch_size"], read["patch_size"]]
            for block in read[key]:
                factors = [f * s for f, s in zip(factors, block.stride, strict=True)]
            if factors != [8, 32, 32]:
                raise ConfigError(
                    f"vae.{key} and patch_size make {factors} pixels of a latent cell, expected [8, 32, 32]"
                )
        return cls(**read)


def _of_the_encoder(section: dict[str, Any]) -> dict[str, Any]:
    """Section ``vae.encoder`` of a file with a diffusion decoder, with the names that other files have for it."""
    encoder = dict(table_of(section, "vae", "encoder"))
    names = {"blocks": "encoder_blocks", "out_channels": "latent_channels", "base_channels": "encoder_base_channels"}
    if missing := [name for name in ("blocks", "out_channels") if name not in encoder]:
        raise ConfigError(f"vae.encoder lacks {', '.join(missing)}")
    encoder.pop("latent_log_var_value", None)  # of the log-variances, which are not used
    decodes = {"out_channels": 3, "decoder_blocks": [], "causal_decoder": False, "timestep_conditioning": False}
    return {names.get(name, name): value for name, value in encoder.items()} | decodes


_VAE_FIXED = {"dims": 3, "norm_layer": "pixel_norm"}
_VAE_IGNORED = {"_class_name", "_diffusers_version", "scaling_factor", "encoder_base_channels"}


_BLOCK_TYPES = {"num_layers": Layers, "multiplier": Multiplier, "residual": bool, "inject_noise": bool}


def _blocks(section: dict[str, Any], key: str, kinds: dict[str, dict[str, Any]]) -> tuple[VAEBlock, ...]:
    blocks = []
    if not isinstance(section[key], list) or len(section[key]) > 64:
        raise ConfigError(f"vae.{key} is {short(section[key])}, expected a list of blocks")
    for i, entry in enumerate(section[key]):
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
            raise ConfigError(f"vae.{key}[{i}] is {short(entry)}, expected a pair of a name and parameters")
        kind, given = entry
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f"vae.{key}[{i}] is a {short(kind)}, expected one of {sorted(kinds)}")
        given = given if isinstance(given, dict) else {"num_layers": given}
        params = {name: given.get(name, default) for name, default in kinds[kind].items()}
        unknown = [k for k, v in given.items() if k not in params and k != "num_layers" and v]
        if unknown:
            raise ConfigError(f"vae.{key}[{i}] ({kind}) has unknown parameters: {', '.join(unknown)}")
        for name, value in params.items():
            fitted(value, _BLOCK_TYPES[name], f"vae.{key}[{i}].{name}")
        blocks.append(VAEBlock(kind, **params))
    return tuple(blocks)


# ---- the diffusion decoder ----------------------------------------------------------------------------------------

Kernel = tuple[Size, Size, Size]


@dataclass(frozen=True)
class Upsample:
    """Cells along time, height and width that come of one, and the divisor of the channels."""

    stride: tuple[int, int, int]
    reduction: int


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Section ``vae.decoder`` of a file whose decoder is a diffusion model of one step.

    Source: ``ltx_core.model.video_vae.model_configurator`` of 1.2.0, whose defaults are not the released values.
    stage_channels, stage_depths: of five stages. stage_kernels: along time, height and width; the fifth is not used,
    ``stage5_kernel`` is. t_emb_dim: released files do not say, and their tensors have the default's shape.
    """

    in_channels: Size
    out_channels: Size
    patch_size: Annotated[int, Within(1, 64)]
    head_dim: Annotated[int, Within(8, 1024)]
    stage_channels: tuple[Size, ...]
    stage_depths: tuple[Layers, ...]
    stage_kernels: tuple[Kernel, ...]
    upsamples: tuple[Upsample, ...]
    stage5_kernel: Kernel
    timestep_scale_multiplier: Annotated[float, Within(1e-6, 1e6)]
    t_emb_dim: Size = 384

    @staticmethod
    def describes(config: dict[str, Any]) -> bool:
        """True for the ``config`` of a file with such a decoder."""
        section = config.get("vae")
        return isinstance(section, dict) and section.get("_class_name") == "CausalDiffusionVAE"

    @property
    def ghost_frames(self) -> int:
        """How often the last latent frame is repeated in stages 1 to 4, so that windows of the clip's own frames are
        not shifted at its end."""
        return self.stage_kernels[0][0] // 2 * 2

    @property
    def least_size(self) -> tuple[int, int, int]:
        """The smallest latent, along time, height and width, in which every stage has room for its window."""
        kernels = (*self.stage_kernels[: len(self.upsamples)], self.stage5_kernel)
        least, strides = (1, 1, 1), (1, 1, 1)  # strides: cells of the stage that come of a latent cell
        for kernel, step in zip(kernels, (*(upsample.stride for upsample in self.upsamples), (1, 1, 1)), strict=True):
            time, height, width = (max(n, -(-k // s)) for n, k, s in zip(least, kernel, strides, strict=True))
            least, strides = (time, height, width), (strides[0] * step[0], strides[1] * step[1], strides[2] * step[2])
        return least

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> DiffusionDecoderConfig:
        """Read and check sections ``vae`` and ``vae.decoder`` of the whole ``config`` dictionary."""
        section = section_of(config, "vae")
        require(section, "vae", {"model_output_type": "x0"})
        decoder = table_of(section, "vae", "decoder")
        for key, only in (("default_num_inference_steps", 1), ("resampler_kind", "linear")):
            if key == "default_num_inference_steps" or key in decoder:
                require(decoder, "vae.decoder", {key: only})
        read = read_fields(cls, decoder, "vae.decoder", _DIFFUSION_IGNORED)
        read["upsamples"] = _upsamples(decoder["upsamples"])
        result = cls(**read)
        result._check()
        return result

    def _check(self) -> None:
        stages = len(self.upsamples) + 1
        for name in ("stage_channels", "stage_depths", "stage_kernels"):
            count = len(getattr(self, name))
            if count != stages and not (name == "stage_kernels" and count == stages - 1):
                raise ConfigError(f"vae.decoder.{name} has {count} entries, expected {stages}, one for each stage")
        for i, upsample in enumerate(self.upsamples):
            made, expected = self.stage_channels[i] // upsample.reduction, self.stage_channels[i + 1]
            if made != expected:
                raise ConfigError(f"vae.decoder.upsamples[{i}] makes {made} channels, and stage {i + 2} has {expected}")
        if wrong := [size for size in self.stage_channels if size % self.head_dim]:
            raise ConfigError(f"vae.decoder.stage_channels has {wrong[0]}, expected multiples of {self.head_dim}")
        if self.head_dim % 8:
            raise ConfigError(
                f"vae.decoder.head_dim is {self.head_dim}, expected a multiple of 8 (three axes of pairs)"
            )
        if even := [k for k in (*self.stage_kernels, self.stage5_kernel) if not all(size % 2 for size in k)]:
            raise ConfigError(f"vae.decoder has a kernel {even[0]}, expected odd sizes")
        factors = [1, self.patch_size, self.patch_size]
        for upsample in self.upsamples:
            factors = [f * s for f, s in zip(factors, upsample.stride, strict=True)]
        if factors != [8, 32, 32]:
            raise ConfigError(
                f"vae.decoder.upsamples and patch_size make {factors} pixels of a latent cell, expected [8, 32, 32]"
            )


_DIFFUSION_IGNORED = {
    "_class_name",
    "default_num_inference_steps",
    "resampler_kind",
    "spatial_padding_mode",  # of convolutions, and there are none
}


def _upsamples(entries: Any) -> tuple[Upsample, ...]:
    place, found = "vae.decoder.upsamples", []
    if not isinstance(entries, list) or not 1 <= len(entries) <= 16:
        raise ConfigError(f"{place} is {short(entries)}, expected a list of pairs")
    for i, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2):
            raise ConfigError(f"{place}[{i}] is {short(entry)}, expected a pair of a stride and a divisor")
        stride = fitted(entry[0], tuple[Multiplier, Multiplier, Multiplier], f"{place}[{i}][0]")
        if stride[0] > 2:
            raise ConfigError(f"{place}[{i}] makes {stride[0]} frames of one, expected 1 or 2")
        found.append(Upsample(stride, fitted(entry[1], Multiplier, f"{place}[{i}][1]")))
    return tuple(found)


def read_video_decoder_config(config: dict[str, Any]) -> VideoVAEConfig | DiffusionDecoderConfig:
    """The description of a file's video decoder, of whichever kind it is."""
    kind = DiffusionDecoderConfig if DiffusionDecoderConfig.describes(config) else VideoVAEConfig
    return kind.from_metadata(config)


@dataclass(frozen=True)
class LatentUpsamplerConfig:
    """The whole ``config`` of a latent upsampler's file, which has no sections.

    Source: ``ltx_core.model.upsampler.model_configurator``; what released files leave out has its default.
    """

    in_channels: Size
    mid_channels: Size
    num_blocks_per_stage: Layers
    spatial_upsample: bool = True
    temporal_upsample: bool = False
    spatial_scale: Annotated[float, Within(0.25, 8.0)] = 2.0
    rational_resampler: bool = False

    @staticmethod
    def describes(config: dict[str, Any]) -> bool:
        """True for the ``config`` of an upsampler's file."""
        return "mid_channels" in config and "num_blocks_per_stage" in config

    @property
    def resamples(self) -> tuple[int, int] | None:
        """Up and down factors of the rational resampler, None where a plain pixel shuffle doubles."""
        rational = self.rational_resampler and self.spatial_upsample and not self.temporal_upsample
        return _RATIONAL[self.spatial_scale] if rational else None

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> LatentUpsamplerConfig:
        if not cls.describes(config):
            raise ConfigError("not a latent upsampler: the config has no mid_channels and num_blocks_per_stage")
        require({"dims": 3} | config, "upsampler", {"dims": 3})
        read = read_fields(cls, config, "upsampler", {"dims", "_class_name", "_diffusers_version"})
        result = cls(**read)
        if not (result.spatial_upsample or result.temporal_upsample):
            raise ConfigError("upsampler.spatial_upsample and temporal_upsample are both false, expected at least one")
        if result.rational_resampler and result.spatial_scale not in _RATIONAL:
            raise ConfigError(f"upsampler.spatial_scale is {result.spatial_scale!r}, expected one of {list(_RATIONAL)}")
        if result.mid_channels % 32:
            raise ConfigError(f"upsampler.mid_channels is {result.mid_channels}, expected a multiple of 32 (groups)")
        return result


_RATIONAL = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}
