"""The audio VAE and the vocoders."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from math import prod
from typing import Annotated, Any, get_type_hints

from ..errors import ConfigError
from .reading import (
    Layers,
    Rate,
    Size,
    Within,
    choice,
    fitted,
    read_fields,
    require,
    require_known,
    section_of,
    short,
    table_of,
)


class NormType(Enum):
    """The norm of the audio VAE's blocks."""

    GROUP = "group"
    PIXEL = "pixel"


class CausalityAxis(Enum):
    """The axis along which the audio VAE sees nothing later: time is a spectrogram's height, frequency its width."""

    NONE = None
    WIDTH = "width"
    HEIGHT = "height"
    WIDTH_COMPATIBILITY = "width-compatibility"


@dataclass(frozen=True)
class AudioVAEConfig:
    """Section ``audio_vae``: ``model.params`` with its ``ddconfig``, and ``preprocessing``.

    Source: ``ltx_core.model.audio_vae.model_configurator``. Rates in Hz, lengths in samples.
    """

    ch: Size
    ch_mult: tuple[Annotated[int, Within(1, 64)], ...]
    num_res_blocks: Layers
    attn_resolutions: tuple[Size, ...]
    resolution: Size
    z_channels: Size
    in_channels: Size
    out_ch: Size
    mid_block_add_attention: bool  # ltx-core's default is true, every released file says false
    norm_type: NormType
    causality_axis: CausalityAxis
    mel_bins: Size
    sampling_rate: Rate
    hop_length: Size
    filter_length: Size
    causal: bool = True

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> AudioVAEConfig:
        """Read and check section ``audio_vae`` of the whole ``config`` dictionary."""
        outer = section_of(config, "audio_vae")
        require_known(outer, "audio_vae", {"model", "preprocessing"}, _AUDIO_IGNORED)
        params = table_of(table_of(outer, "audio_vae", "model"), "audio_vae.model", "params")
        require_known(params, "audio_vae.model.params", {"ddconfig", "sampling_rate"}, _AUDIO_IGNORED)
        dd = dict(table_of(params, "audio_vae.model.params", "ddconfig"))
        preprocessing = table_of(outer, "audio_vae", "preprocessing")
        stft = table_of(preprocessing, "audio_vae.preprocessing", "stft")
        mel = table_of({"mel": {}} | preprocessing, "audio_vae.preprocessing", "mel")
        audio = table_of({"audio": {}} | preprocessing, "audio_vae.preprocessing", "audio")
        flat = dd | {key: stft[key] for key in ("hop_length", "filter_length", "causal") if key in stft}
        flat |= {"sampling_rate": params["sampling_rate"]} if "sampling_rate" in params else {}
        flat.setdefault("mel_bins", mel.get("n_mel_channels", 0))
        require(_AUDIO_FIXED | flat, "audio_vae", _AUDIO_FIXED)
        read = read_fields(cls, flat, "audio_vae", {"dropout", *_AUDIO_FIXED})
        read["norm_type"] = choice(flat, "audio_vae", "norm_type", {t.value: t for t in NormType})
        axes = {axis.value or "null": axis for axis in CausalityAxis}
        named = {"causality_axis": "null"} if flat["causality_axis"] is None else flat
        read["causality_axis"] = choice(named, "audio_vae", "causality_axis", axes)
        result = cls(**read)
        result._check({**stft, **mel, **audio})
        return result

    def _check(self, said: dict[str, Any]) -> None:
        if not 1 <= len(self.ch_mult) <= 16:
            raise ConfigError(f"audio_vae.ch_mult has {len(self.ch_mult)} entries, expected 1 to 16")
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
                raise ConfigError(f"audio_vae: {key} is {short(value)}, expected {expected} ({name})")
        if self.norm_type is NormType.GROUP and self.causality_axis is not CausalityAxis.NONE:
            raise ConfigError("audio_vae: norm_type group with a causality_axis: a group norm sees all of time")
        if self.norm_type is NormType.GROUP and self.ch % 32:
            raise ConfigError(f"audio_vae: ch is {self.ch}, expected a multiple of 32 (the groups of norm_type group)")


# Ways to build that no file asks for; absent means these values.
_AUDIO_FIXED = {"double_z": True, "resamp_with_conv": True, "attn_type": "vanilla", "downsample_time": False}
_AUDIO_IGNORED = {"target", "variables"}


Small = Annotated[int, Within(1, 1024)]


@dataclass(frozen=True)
class VocoderConfig:
    """Section ``vocoder`` of 2.0, or either network of the two in that of 2.3: spectrogram → waveform.

    Source: ``ltx_core.model.audio_vae.model_configurator``. ``resblock``: "1" HiFi-GAN, "AMP1" BigVGAN.
    """

    resblock: str
    upsample_initial_channel: Size
    upsample_rates: tuple[Small, ...]
    upsample_kernel_sizes: tuple[Small, ...]
    resblock_kernel_sizes: tuple[Small, ...]
    resblock_dilation_sizes: tuple[tuple[Small, ...], ...]
    output_sampling_rate: Rate = 24000  # absent from released files of 2.0
    use_tanh_at_final: bool = True
    use_bias_at_final: bool = True
    apply_final_activation: bool = True

    @classmethod
    def read(cls, section: dict[str, Any], name: str, resblock: str, **fixed: Any) -> VocoderConfig:
        """One network's part of the section; ``fixed`` overrides what it says."""
        expected = {"resblock": resblock, "stereo": True} | ({"activation": "snakebeta"} if resblock == "AMP1" else {})
        require(section, name, expected)
        rates = {"input_sampling_rate", "output_sampling_rate", "hop_length", "n_fft", "win_size", "num_mels"}
        read = read_fields(cls, section, name, {"stereo", "activation", *rates}) | fixed
        result = cls(**read)
        result._check(name)
        return result

    def _check(self, name: str) -> None:
        for a, b in (("upsample_rates", "upsample_kernel_sizes"), ("resblock_kernel_sizes", "resblock_dilation_sizes")):
            if len(getattr(self, a)) != len(getattr(self, b)):
                raise ConfigError(f"{name}: {a} has {len(getattr(self, a))} entries, {b} {len(getattr(self, b))}")
        if not 1 <= len(self.upsample_rates) <= 16 or not 1 <= len(self.resblock_kernel_sizes) <= 16:
            raise ConfigError(f"{name}: upsample_rates and resblock_kernel_sizes need 1 to 16 entries each")
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if kernel < rate:
                raise ConfigError(f"{name}: an upsample_kernel_size of {kernel} is smaller than its rate, {rate}")
        if any(len(d) != 3 for d in self.resblock_dilation_sizes):
            raise ConfigError(
                f"{name}.resblock_dilation_sizes is {short(self.resblock_dilation_sizes)}, expected triples"
            )
        if any(k % 2 == 0 for k in self.resblock_kernel_sizes):
            raise ConfigError(
                f"{name}.resblock_kernel_sizes is {short(self.resblock_kernel_sizes)}, expected odd numbers"
            )
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
    input_sampling_rate: Rate
    output_sampling_rate: Rate
    hop_length: Size
    n_fft: Size
    num_mels: Size

    @staticmethod
    def describes(config: dict[str, Any]) -> bool:
        """True for the section of 2.3."""
        return "bwe" in section_of(config, "vocoder")

    @property
    def ratio(self) -> int:
        return self.output_sampling_rate // self.input_sampling_rate

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> VocoderWithBWEConfig:
        """Read and check section ``vocoder`` of the whole ``config`` dictionary."""
        section = section_of(config, "vocoder")
        require_known(section, "vocoder", {"vocoder", "bwe"}, set())
        low, bwe = (table_of(section, "vocoder", key) for key in ("vocoder", "bwe"))
        own = {f.name for f in fields(cls)} - {"vocoder", "bwe"}
        if missing := sorted(own - bwe.keys()):
            raise ConfigError(f"vocoder.bwe lacks {', '.join(missing)}")
        types = get_type_hints(cls, include_extras=True)
        numbers = {key: fitted(bwe[key], types[key], f"vocoder.bwe.{key}") for key in sorted(own)}
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
                raise ConfigError(f"vocoder.bwe: {key} is {short(value)}, expected {expected} ({name})")


def read_vocoder_config(config: dict[str, Any]) -> VocoderConfig | VocoderWithBWEConfig:
    """Section ``vocoder`` of the whole ``config`` dictionary, of 2.0 or of 2.3."""
    if VocoderWithBWEConfig.describes(config):
        return VocoderWithBWEConfig.from_metadata(config)
    return VocoderConfig.read(section_of(config, "vocoder"), "vocoder", "1")
