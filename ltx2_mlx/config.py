"""The networks that a checkpoint describes: one frozen dataclass per section of its ``config`` metadata.

Nothing is taken from a default that the released files contradict. A key that we do not know raises, because it may
change the network; the keys that are known to change nothing are listed beside those that are read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from math import prod
from typing import Any

from .errors import ConfigError
from .nn.rope import LTXRopeType

SUPPORTED_VERSIONS = ("2.0", "2.3")


@dataclass(frozen=True)
class TransformerConfig:
    """Section ``transformer``. Source: ``ltx_core.model.transformer.model_configurator``."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    cross_attention_dim: int
    caption_channels: int
    norm_eps: float
    positional_embedding_theta: float
    positional_embedding_max_pos: tuple[int, ...]
    timestep_scale_multiplier: int
    rope_type: LTXRopeType
    # The released files carry all of the above. What follows is absent from some of them, and absent means this.
    frequencies_precision: str = "float32"
    apply_gated_attention: bool = False
    cross_attention_adaln: bool = False
    caption_proj_before_connector: bool = False
    # Audio-video checkpoints only (``use_audio_video_cross_attention``).
    use_audio_video_cross_attention: bool = False
    audio_num_attention_heads: int = 32
    audio_attention_head_dim: int = 64
    audio_in_channels: int = 128
    audio_out_channels: int = 128
    audio_cross_attention_dim: int = 2048
    audio_positional_embedding_max_pos: tuple[int, ...] = (20,)
    av_ca_timestep_scale_multiplier: float | None = None

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def audio_inner_dim(self) -> int:
        return self.audio_num_attention_heads * self.audio_attention_head_dim

    @property
    def double_precision_rope(self) -> bool:
        return self.frequencies_precision == "float64"

    @property
    def adaln_rows(self) -> int:
        """Modulation rows of a block: shift, scale, gate of self-attention and of the MLP, and of text attention."""
        return 9 if self.cross_attention_adaln else 6

    @property
    def cross_pe_max_pos(self) -> int:
        return max(self.positional_embedding_max_pos[0], self.audio_positional_embedding_max_pos[0])

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> TransformerConfig:
        """Read and check section ``transformer`` of the whole ``config`` dictionary."""
        section = _section(config, "transformer")
        _require(section, "transformer", _TRANSFORMER_FIXED)
        av = section.get("use_audio_video_cross_attention", False)
        _require(section, "transformer", _TRANSFORMER_FIXED_AV if av else {})
        read = _read(cls, section, "transformer", _TRANSFORMER_IGNORED | {*_TRANSFORMER_FIXED, *_TRANSFORMER_FIXED_AV})
        if av and read.get("av_ca_timestep_scale_multiplier") is None:
            raise ConfigError(
                "transformer.av_ca_timestep_scale_multiplier is missing. Every released audio-video checkpoint says "
                "1000, and ltx-core would silently take 1: refusing to guess"
            )
        read["rope_type"] = _choice(section, "transformer", "rope_type", {t.value: t for t in LTXRopeType})
        precision = read.get("frequencies_precision")
        read["frequencies_precision"] = "float64" if precision == "float64" else "float32"
        result = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})
        result._check()
        return result

    def _check(self) -> None:
        rules = [("cross_attention_dim", self.cross_attention_dim, "video width", self.inner_dim)]
        if self.use_audio_video_cross_attention:
            rules += [
                ("audio_cross_attention_dim", self.audio_cross_attention_dim, "audio width", self.audio_inner_dim),
                ("audio_num_attention_heads", self.audio_num_attention_heads, "video heads", self.num_attention_heads),
            ]
        for key, value, name, expected in rules:
            if value != expected:
                raise ConfigError(f"transformer.{key} is {value}, expected {expected} (the {name})")
        if len(self.positional_embedding_max_pos) != 3:
            raise ConfigError(
                "transformer.positional_embedding_max_pos needs three values (time, height, width), "
                f"found {list(self.positional_embedding_max_pos)}"
            )


# Values that the reference insists on: any other describes a network that neither of us builds.
_TRANSFORMER_FIXED = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_middle_indices_grid": True,
}
_TRANSFORMER_FIXED_AV = {"share_ff": False, "av_cross_ada_norm": True}
# Found in released headers, without effect on this section's network (``connector_*`` belong to the text side).
_TRANSFORMER_IGNORED = {
    "_class_name",
    "_diffusers_version",
    "_name_or_path",
    "norm_num_groups",
    "attention_type",
    "causal_temporal_positioning",
    "use_embeddings_connector",
    "caption_projection_first_linear",
    "caption_projection_second_linear",
    "caption_proj_input_norm",
    "text_encoder_norm_type",
    "connector_num_layers",
    "connector_num_attention_heads",
    "connector_attention_head_dim",
    "connector_apply_gated_attention",
    "connector_positional_embedding_max_pos",
    "connector_num_learnable_registers",
    "connector_learnable_registers_std",
    "connector_norm_output",
    "audio_connector_num_attention_heads",
    "audio_connector_attention_head_dim",
    "audio_connector_num_layers",
}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        found = ", ".join(sorted(config)) or "none"
        raise ConfigError(f"the checkpoint's config has no section '{name}' (found: {found})")
    return section


def _require(section: dict[str, Any], name: str, fixed: dict[str, Any]) -> None:
    for key, expected in fixed.items():
        if section.get(key) != expected:
            raise ConfigError(f"{name}.{key} is {section.get(key)!r}, and only {expected!r} is supported")


def _choice(section: dict[str, Any], name: str, key: str, choices: dict[str, Any]) -> Any:
    if section[key] not in choices:
        raise ConfigError(f"{name}.{key} is {section[key]!r}, expected one of {sorted(choices)}")
    return choices[section[key]]


def _read(cls: type, section: dict[str, Any], name: str, ignored: set[str]) -> dict[str, Any]:
    """The fields of ``cls`` out of ``section``; a missing one without a default and an unknown key both raise."""
    known = {f.name: f for f in fields(cls)}
    unknown = [k for k in section if k not in known and k not in ignored]
    # A key that is off (false, null, zero) asks for nothing that its absence would not give.
    if changing := [k for k in unknown if section[k]]:
        listed = ", ".join(f"{k}={section[k]!r}" for k in changing)
        raise ConfigError(f"{name} has keys that we do not know and that may change the network: {listed}")
    required = [f.name for f in fields(cls) if f.default is f.default_factory]  # both MISSING: no default
    if missing := [k for k in required if k not in section]:
        raise ConfigError(f"{name} lacks {', '.join(missing)}; ltx-core's defaults are not the released values")
    read = {k: section[k] for k in known if k in section}
    for key, value in read.items():
        wanted = known[key].type
        if wanted in _TYPES and (
            isinstance(value, bool) is not (wanted == "bool") or not isinstance(value, _TYPES[wanted])
        ):
            raise ConfigError(f"{name}.{key} is {value!r}, expected {wanted}")
        if wanted == "int" and value <= 0:
            raise ConfigError(f"{name}.{key} is {value!r}, expected a positive number")
    return read


_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str, "tuple[int, ...]": (list, tuple)}


# ---- the video VAE and the latent upsamplers ---------------------------------------------------------------------

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


@dataclass(frozen=True)
class VAEBlock:
    """One entry of ``encoder_blocks`` or ``decoder_blocks``.

    multiplier: of the channels when encoding, their divisor when decoding. residual: the input, rearranged, is added.
    """

    kind: str
    num_layers: int = 1
    multiplier: int = 1
    residual: bool = False
    inject_noise: bool = False

    @property
    def stride(self) -> tuple[int, int, int]:
        """Cells along time, height and width that become one (or come of one)."""
        return _STRIDES[self.kind.split("_")[1] if self.kind.startswith("compress") else ""]


@dataclass(frozen=True)
class VideoVAEConfig:
    """Section ``vae``. Source: ``ltx_core.model.video_vae.model_configurator``."""

    in_channels: int
    out_channels: int
    latent_channels: int
    encoder_blocks: tuple[VAEBlock, ...]
    decoder_blocks: tuple[VAEBlock, ...]  # as listed: the decoder is built from the last to the first
    patch_size: int
    latent_log_var: str
    causal_decoder: bool
    timestep_conditioning: bool  # ltx-core's default is true, every released file says false
    decoder_base_channels: int = 128
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
        """Read and check section ``vae`` of the whole ``config`` dictionary."""
        section = _section(config, "vae")
        _require(section, "vae", _VAE_FIXED)
        read = _read(cls, section, "vae", _VAE_IGNORED | set(_VAE_FIXED))
        _choice(section, "vae", "latent_log_var", {"per_channel": 0, "uniform": 0, "constant": 0})
        if "spatial_padding_mode" in section:
            _choice(section, "vae", "spatial_padding_mode", {"zeros": 0, "reflect": 0})
        read["encoder_blocks"] = _blocks(section, "encoder_blocks", _ENCODER_BLOCKS)
        read["decoder_blocks"] = _blocks(section, "decoder_blocks", _DECODER_BLOCKS)
        for key in ("encoder_blocks", "decoder_blocks"):
            factors = [1, section["patch_size"], section["patch_size"]]
            for block in read[key]:
                factors = [f * s for f, s in zip(factors, block.stride, strict=True)]
            if factors != [8, 32, 32]:
                raise ConfigError(f"vae.{key} and patch_size make {factors} pixels a latent cell, expected [8, 32, 32]")
        return cls(**read)


_VAE_FIXED = {"dims": 3, "norm_layer": "pixel_norm"}
_VAE_IGNORED = {"_class_name", "_diffusers_version", "scaling_factor", "encoder_base_channels"}


def _blocks(section: dict[str, Any], key: str, kinds: dict[str, dict[str, Any]]) -> tuple[VAEBlock, ...]:
    blocks = []
    for i, entry in enumerate(section[key]):
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
            raise ConfigError(f"vae.{key}[{i}] is {entry!r}, expected a pair of a name and parameters")
        kind, given = entry
        if kind not in kinds:
            raise ConfigError(f"vae.{key}[{i}] is a {kind!r}, expected one of {sorted(kinds)}")
        given = given if isinstance(given, dict) else {"num_layers": given}
        params = {name: given.get(name, default) for name, default in kinds[kind].items()}
        unknown = [k for k, v in given.items() if k not in params and k != "num_layers" and v]
        if unknown:
            raise ConfigError(f"vae.{key}[{i}] ({kind}) has parameters that we do not know: {', '.join(unknown)}")
        for name, value in params.items():
            wanted = bool if name in ("residual", "inject_noise") else int
            if type(value) is not wanted or (wanted is int and value <= 0):
                raise ConfigError(f"vae.{key}[{i}] ({kind}) has {name} {value!r}, expected a {wanted.__name__}")
        blocks.append(VAEBlock(kind, **params))
    return tuple(blocks)


@dataclass(frozen=True)
class LatentUpsamplerConfig:
    """The whole ``config`` of a latent upsampler's file, which has no sections.

    Source: ``ltx_core.model.upsampler.model_configurator``; what released files leave out has its default.
    """

    in_channels: int
    mid_channels: int
    num_blocks_per_stage: int
    spatial_upsample: bool = True
    temporal_upsample: bool = False
    spatial_scale: float = 2.0
    rational_resampler: bool = False

    @staticmethod
    def describes(config: dict[str, Any]) -> bool:
        """Whether a file's ``config`` is that of an upsampler."""
        return "mid_channels" in config and "num_blocks_per_stage" in config

    @property
    def resamples(self) -> tuple[int, int] | None:
        """Up and down factors of the rational resampler, None where a plain pixel shuffle doubles."""
        rational = self.rational_resampler and self.spatial_upsample and not self.temporal_upsample
        return _RATIONAL[self.spatial_scale] if rational else None

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> LatentUpsamplerConfig:
        if not cls.describes(config):
            raise ConfigError("the file's config has no mid_channels and num_blocks_per_stage: no latent upsampler")
        _require({"dims": 3} | config, "upsampler", {"dims": 3})
        read = _read(cls, config, "upsampler", {"dims", "_class_name", "_diffusers_version"})
        result = cls(**read)
        if not (result.spatial_upsample or result.temporal_upsample):
            raise ConfigError("upsampler.spatial_upsample and temporal_upsample are both false: nothing to do")
        if result.rational_resampler and result.spatial_scale not in _RATIONAL:
            raise ConfigError(f"upsampler.spatial_scale is {result.spatial_scale!r}, expected one of {list(_RATIONAL)}")
        if result.mid_channels % 32:
            raise ConfigError(f"upsampler.mid_channels is {result.mid_channels}, expected a multiple of 32 (groups)")
        return result


_RATIONAL = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}


# ---- the audio VAE and the vocoders ------------------------------------------------------------------------------


class NormType(Enum):
    GROUP = "group"
    PIXEL = "pixel"


class CausalityAxis(Enum):
    """Along what the audio VAE sees nothing later: time is the height of a spectrogram, frequency its width."""

    NONE = None
    WIDTH = "width"
    HEIGHT = "height"
    WIDTH_COMPATIBILITY = "width-compatibility"


@dataclass(frozen=True)
class AudioVAEConfig:
    """Section ``audio_vae``: ``model.params`` with its ``ddconfig``, and ``preprocessing``.

    Source: ``ltx_core.model.audio_vae.model_configurator``. Rates in Hz, lengths in samples.
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int
    in_channels: int
    out_ch: int
    mid_block_add_attention: bool  # ltx-core's default is true, every released file says false
    norm_type: NormType
    causality_axis: CausalityAxis
    mel_bins: int
    sampling_rate: int
    hop_length: int
    filter_length: int
    causal: bool = True

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> AudioVAEConfig:
        """Read and check section ``audio_vae`` of the whole ``config`` dictionary."""
        outer = _section(config, "audio_vae")
        _known(outer, "audio_vae", {"model", "preprocessing"}, _AUDIO_IGNORED)
        params = _table(_table(outer, "audio_vae", "model"), "audio_vae.model", "params")
        _known(params, "audio_vae.model.params", {"ddconfig", "sampling_rate"}, _AUDIO_IGNORED)
        dd = dict(_table(params, "audio_vae.model.params", "ddconfig"))
        preprocessing = _table(outer, "audio_vae", "preprocessing")
        stft = _table(preprocessing, "audio_vae.preprocessing", "stft")
        mel = preprocessing.get("mel", {})
        flat = dd | {key: stft[key] for key in ("hop_length", "filter_length", "causal") if key in stft}
        flat |= {"sampling_rate": params["sampling_rate"]} if "sampling_rate" in params else {}
        flat.setdefault("mel_bins", mel.get("n_mel_channels", 0))
        _require(_AUDIO_FIXED | flat, "audio_vae", _AUDIO_FIXED)
        read = _read(cls, flat, "audio_vae", {"dropout", *_AUDIO_FIXED})
        read["norm_type"] = _choice(flat, "audio_vae", "norm_type", {t.value: t for t in NormType})
        axes = {axis.value: axis for axis in CausalityAxis}
        if flat["causality_axis"] not in axes:
            raise ConfigError(f"audio_vae.causality_axis is {flat['causality_axis']!r}, expected one of {list(axes)}")
        read["causality_axis"] = axes[flat["causality_axis"]]
        result = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})
        result._check({**stft, **mel, **preprocessing.get("audio", {})})
        return result

    def _check(self, said: dict[str, Any]) -> None:
        bins = self.mel_bins // 2 ** (len(self.ch_mult) - 1)
        rules = [
            ("ch", self.ch, self.z_channels * bins, "latent channels times latent bins"),
            ("win_length", said.get("win_length", self.filter_length), self.filter_length, "the filter length"),
            ("n_mel_channels", said.get("n_mel_channels", self.mel_bins), self.mel_bins, "mel_bins"),
            ("mel_fmin", said.get("mel_fmin", 0), 0, "ltx-core's"),
            ("mel_fmax", said.get("mel_fmax", self.sampling_rate / 2), self.sampling_rate / 2, "half the rate"),
            ("audio.sampling_rate", said.get("sampling_rate", self.sampling_rate), self.sampling_rate, "the model's"),
        ]
        for key, value, expected, name in rules:
            if value != expected:
                raise ConfigError(f"audio_vae: {key} is {value}, expected {expected} ({name})")
        if self.norm_type is NormType.GROUP and self.causality_axis is not CausalityAxis.NONE:
            raise ConfigError("audio_vae: norm_type group with a causality_axis: a group norm sees all of time")
        if self.norm_type is NormType.GROUP and self.ch % 32:
            raise ConfigError(f"audio_vae: ch is {self.ch}, expected a multiple of 32 (the groups of norm_type group)")


# Ways to build that no file asks for; absent means these values.
_AUDIO_FIXED = {"double_z": True, "resamp_with_conv": True, "attn_type": "vanilla", "downsample_time": False}
_AUDIO_IGNORED = {"target", "variables"}


@dataclass(frozen=True)
class VocoderConfig:
    """Section ``vocoder`` of 2.0, or either network of the two in that of 2.3: spectrogram → waveform.

    Source: ``ltx_core.model.audio_vae.model_configurator``. ``resblock``: "1" HiFi-GAN, "AMP1" BigVGAN.
    """

    resblock: str
    upsample_initial_channel: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    output_sampling_rate: int = 24000  # absent from released files of 2.0
    use_tanh_at_final: bool = True
    use_bias_at_final: bool = True
    apply_final_activation: bool = True

    @classmethod
    def read(cls, section: dict[str, Any], name: str, resblock: str, **fixed: Any) -> VocoderConfig:
        """One network's part of the section; ``fixed`` overrides what it says."""
        expected = {"resblock": resblock, "stereo": True} | ({"activation": "snakebeta"} if resblock == "AMP1" else {})
        _require(section, name, expected)
        rates = {"input_sampling_rate", "output_sampling_rate", "hop_length", "n_fft", "win_size", "num_mels"}
        read = _read(cls, section, name, {"stereo", "activation", *rates}) | fixed
        read["resblock_dilation_sizes"] = tuple(tuple(d) for d in read["resblock_dilation_sizes"])
        result = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})
        result._check(name)
        return result

    def _check(self, name: str) -> None:
        for a, b in (("upsample_rates", "upsample_kernel_sizes"), ("resblock_kernel_sizes", "resblock_dilation_sizes")):
            if len(getattr(self, a)) != len(getattr(self, b)):
                raise ConfigError(f"{name}: {a} has {len(getattr(self, a))} entries, {b} {len(getattr(self, b))}")
        if any(len(d) != 3 for d in self.resblock_dilation_sizes):
            raise ConfigError(f"{name}.resblock_dilation_sizes is {self.resblock_dilation_sizes}, expected triples")
        if any(k % 2 == 0 for k in self.resblock_kernel_sizes):
            raise ConfigError(f"{name}.resblock_kernel_sizes is {self.resblock_kernel_sizes}, expected odd numbers")
        if self.upsample_initial_channel % 2 ** len(self.upsample_rates):
            raise ConfigError(
                f"{name}.upsample_initial_channel is {self.upsample_initial_channel}, which cannot be halved "
                f"{len(self.upsample_rates)} times, once for each of the upsample_rates"
            )


@dataclass(frozen=True)
class VocoderWithBWEConfig:
    """Section ``vocoder`` of 2.3: a vocoder at ``input_sampling_rate`` and a bandwidth extension beyond it.

    hop_length, n_fft: of the extension's own spectrogram, in samples at ``input_sampling_rate`` Hz.
    """

    vocoder: VocoderConfig
    bwe: VocoderConfig
    input_sampling_rate: int
    output_sampling_rate: int
    hop_length: int
    n_fft: int
    num_mels: int

    @staticmethod
    def describes(config: dict[str, Any]) -> bool:
        """Whether the section is that of 2.3."""
        return "bwe" in _section(config, "vocoder")

    @property
    def ratio(self) -> int:
        return self.output_sampling_rate // self.input_sampling_rate

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> VocoderWithBWEConfig:
        """Read and check section ``vocoder`` of the whole ``config`` dictionary."""
        section = _section(config, "vocoder")
        _known(section, "vocoder", {"vocoder", "bwe"}, set())
        low, bwe = (_table(section, "vocoder", key) for key in ("vocoder", "bwe"))
        own = {f.name for f in fields(cls)} - {"vocoder", "bwe"}
        if missing := sorted(own - bwe.keys()):
            raise ConfigError(f"vocoder.bwe lacks {', '.join(missing)}")
        numbers = {key: bwe[key] for key in own}
        if bad := [k for k, v in numbers.items() if type(v) is not int or v <= 0]:
            raise ConfigError(f"vocoder.bwe.{bad[0]} is {numbers[bad[0]]!r}, expected a positive number")
        rate = {"output_sampling_rate": numbers["input_sampling_rate"]}
        result = cls(
            vocoder=VocoderConfig.read(low, "vocoder.vocoder", "AMP1", **rate),
            bwe=VocoderConfig.read(bwe, "vocoder.bwe", "AMP1", apply_final_activation=False),
            **numbers,
        )
        result._check(bwe.get("win_size", result.n_fft))
        return result

    def _check(self, win_size: int) -> None:
        rules = [
            ("output_sampling_rate", self.output_sampling_rate, self.ratio * self.input_sampling_rate, "a multiple"),
            ("win_size", win_size, self.n_fft, "n_fft"),
            (
                "upsampling in all",
                prod(self.bwe.upsample_rates),
                self.hop_length * self.ratio,
                "hop length times ratio",
            ),
            ("num_mels", self.num_mels, 64, "128 channels into the network, of two"),
        ]
        for key, value, expected, name in rules:
            if value != expected:
                raise ConfigError(f"vocoder.bwe: {key} is {value}, expected {expected} ({name})")


def read_vocoder_config(config: dict[str, Any]) -> VocoderConfig | VocoderWithBWEConfig:
    """Section ``vocoder`` of the whole ``config`` dictionary, of 2.0 or of 2.3."""
    if VocoderWithBWEConfig.describes(config):
        return VocoderWithBWEConfig.from_metadata(config)
    return VocoderConfig.read(_section(config, "vocoder"), "vocoder", "1")


def _table(section: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    if not isinstance(section.get(key), dict):
        raise ConfigError(f"{name}.{key} is {section.get(key)!r}, expected a table")
    return section[key]


def _known(section: dict[str, Any], name: str, known: set[str], ignored: set[str]) -> None:
    if changing := [k for k in section if k not in known | ignored and section[k]]:
        raise ConfigError(f"{name} has keys that we do not know and that may change the network: {', '.join(changing)}")


# ---- the text side -----------------------------------------------------------------------------------------------

NUM_LEARNABLE_REGISTERS = 128  # of every connector; ltx-core has no other


@dataclass(frozen=True)
class ConnectorConfig:
    """One ``Embeddings1DConnector``. ``max_pos``: positions that the rotary table is scaled by."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    max_pos: tuple[int, ...]
    rope_type: LTXRopeType
    double_precision_rope: bool
    apply_gated_attention: bool
    num_learnable_registers: int = NUM_LEARNABLE_REGISTERS
    theta: float = 10000.0  # of every connector: ltx-core does not read positional_embedding_theta here

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class EmbeddingsProcessorConfig:
    """What section ``transformer`` says of the text side.

    Source: ``EmbeddingsProcessorConfigurator`` of ``ltx_core.text_encoders.gemma.encoders.encoder_configurator``.
    """

    caption_channels: int  # Gemma's width, in every released file
    num_attention_heads: int
    attention_head_dim: int
    audio_num_attention_heads: int
    audio_attention_head_dim: int
    connector_num_attention_heads: int
    connector_attention_head_dim: int
    connector_num_layers: int
    connector_positional_embedding_max_pos: tuple[int, ...]
    rope_type: LTXRopeType
    frequencies_precision: str = "float32"
    connector_apply_gated_attention: bool = False
    # Absent means: as for video.
    audio_connector_num_attention_heads: int | None = None
    audio_connector_attention_head_dim: int | None = None
    audio_connector_num_layers: int | None = None
    # All four of the values below are in 2.3's files, none in 2.0's; it is what tells the two extractors apart.
    caption_proj_before_connector: bool = False

    @property
    def hidden_size(self) -> int:
        return self.caption_channels

    @property
    def video_connector(self) -> ConnectorConfig:
        return self._connector("")

    @property
    def audio_connector(self) -> ConnectorConfig:
        return self._connector("audio_")

    @property
    def video_features(self) -> int:
        """Width of what the extractor hands to the video connector."""
        return self.num_attention_heads * self.attention_head_dim if self._v2 else self.hidden_size

    @property
    def audio_features(self) -> int:
        return self.audio_num_attention_heads * self.audio_attention_head_dim if self._v2 else self.hidden_size

    @property
    def _v2(self) -> bool:
        return self.caption_proj_before_connector

    def _connector(self, stream: str) -> ConnectorConfig:
        def value(name: str) -> int:
            return getattr(self, f"{stream}{name}") or getattr(self, name)

        return ConnectorConfig(
            num_attention_heads=value("connector_num_attention_heads"),
            attention_head_dim=value("connector_attention_head_dim"),
            num_layers=value("connector_num_layers"),
            max_pos=self.connector_positional_embedding_max_pos,
            rope_type=self.rope_type,
            double_precision_rope=self.frequencies_precision == "float64",
            apply_gated_attention=self.connector_apply_gated_attention,
        )

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> EmbeddingsProcessorConfig:
        """Read and check the text side's keys of section ``transformer``; the others are the transformer's business."""
        section = _section(config, "transformer")
        if not section.get("use_audio_video_cross_attention", False):
            raise ConfigError("the checkpoint is video-only, and its text side (one connector) is not supported")
        fixed = {k: v for k, v in _TEXT_FIXED.items() if k in section}
        _require(section, "transformer", fixed)
        given = [k for k in _V2 if k in section]
        if given:
            _require(section, "transformer", _V2)
        ours = {f.name for f in fields(cls)} | set(_TEXT_FIXED) | set(_V2)
        unread = {k for k in section if k not in ours and "connector" not in k}
        read = _read(cls, section, "transformer", unread | ours | _TEXT_IGNORED)
        read["rope_type"] = _choice(section, "transformer", "rope_type", {t.value: t for t in LTXRopeType})
        result = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})
        for name, features, connector in (
            ("connector", result.video_features, result.video_connector),
            ("audio_connector", result.audio_features, result.audio_connector),
        ):
            if features != connector.inner_dim:
                raise ConfigError(
                    f"transformer.{name} is {connector.inner_dim} wide (heads · head_dim), expected {features}, "
                    "the width of the text features"
                )
        return result


_TEXT_FIXED = {"connector_num_learnable_registers": NUM_LEARNABLE_REGISTERS, "connector_norm_output": True}
_V2 = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}
# How registers were initialised, and a switch that the reference does not read.
_TEXT_IGNORED = {"connector_learnable_registers_std", "use_embeddings_connector"}


@dataclass(frozen=True)
class Gemma3TextConfig:
    """Section ``text_config`` of a Gemma 3 folder's ``config.json``.

    The official 12B file leaves out what has a default here (transformers' own); ltx-core never reads the file and has
    the same values built in.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int
    rope_scaling: dict[str, Any]
    head_dim: int = 256
    query_pre_attn_scalar: int = 256
    vocab_size: int = 262208
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    sliding_window_pattern: int = 6

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Five layers that see a window, then one that sees everything."""
        pattern = self.sliding_window_pattern
        return tuple(
            "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(self.num_hidden_layers)
        )

    @property
    def scaling(self) -> float:
        return self.query_pre_attn_scalar**-0.5

    def rope(self, layer_type: str) -> tuple[float, float]:
        """Base of the frequencies, and what they are divided by."""
        if layer_type == "full_attention":
            return self.rope_theta, self.rope_scaling["factor"]
        return self.rope_local_base_freq, 1.0

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> Gemma3TextConfig:
        """Read and check section ``text_config`` of ``config.json``."""
        section = {k: v for k, v in _section(config, "text_config").items() if v is not None}
        if section.get("model_type") != "gemma3_text":
            raise ConfigError(f"text_config.model_type is {section.get('model_type')!r}, expected 'gemma3_text'")
        _require({"hidden_activation": "gelu_pytorch_tanh"} | section, "text_config", _GEMMA_FIXED)
        result = cls(**_read(cls, section, "text_config", _GEMMA_IGNORED | set(_GEMMA_FIXED)))
        scaling = result.rope_scaling
        if set(scaling) != {"factor", "rope_type"} or scaling["rope_type"] != "linear":
            raise ConfigError(f"text_config.rope_scaling is {scaling!r}, expected a linear one with a factor")
        if result.num_attention_heads % result.num_key_value_heads:
            raise ConfigError(
                f"text_config.num_attention_heads ({result.num_attention_heads}) is no multiple of "
                f"num_key_value_heads ({result.num_key_value_heads})"
            )
        return result


_GEMMA_FIXED = {"hidden_activation": "gelu_pytorch_tanh"}
# Training, generation and bookkeeping. What is not listed and not off (soft caps, biases) raises.
_GEMMA_IGNORED = {
    "model_type",
    "max_position_embeddings",
    "initializer_range",
    "cache_implementation",
    "use_cache",
    "torch_dtype",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "transformers_version",
    "_attn_implementation_autoset",
}
