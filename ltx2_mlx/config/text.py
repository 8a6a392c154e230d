"""Gemma 3, the feature extractors and the connectors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError
from ..nn.rope import LTXRopeType
from .reading import choice, read_fields, require, section_of

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
    """The text side's keys of section ``transformer``.

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
        """Width of the features that the extractor passes to the video connector."""
        return self.num_attention_heads * self.attention_head_dim if self._v2 else self.hidden_size

    @property
    def audio_features(self) -> int:
        return self.audio_num_attention_heads * self.audio_attention_head_dim if self._v2 else self.hidden_size

    @property
    def _v2(self) -> bool:
        return self.caption_proj_before_connector

    def _connector(self, stream: str) -> ConnectorConfig:
        def value(name: str) -> int:
            number: int = getattr(self, f"{stream}{name}") or getattr(self, name)
            return number

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
        """Read and check the text side's keys of section ``transformer``; the others are the transformer's."""
        section = section_of(config, "transformer")
        if not section.get("use_audio_video_cross_attention", False):
            raise ConfigError(
                "the checkpoint is video-only, and its text side (one connector) is not supported. Use an audio-video "
                "checkpoint"
            )
        fixed = {k: v for k, v in _TEXT_FIXED.items() if k in section}
        require(section, "transformer", fixed)
        given = [k for k in _V2 if k in section]
        if given:
            require(section, "transformer", _V2)
        ours = {f.name for f in fields(cls)} | set(_TEXT_FIXED) | set(_V2)
        unread = {k for k in section if k not in ours and "connector" not in k}
        read = read_fields(cls, section, "transformer", unread | ours | _TEXT_IGNORED)
        read["rope_type"] = choice(section, "transformer", "rope_type", {t.value: t for t in LTXRopeType})
        result = cls(**read)
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
        scaling: float = self.query_pre_attn_scalar**-0.5
        return scaling

    def rope(self, layer_type: str) -> tuple[float, float]:
        """Base of the frequencies, and what they are divided by."""
        if layer_type == "full_attention":
            factor: float = self.rope_scaling["factor"]
            return self.rope_theta, factor
        return self.rope_local_base_freq, 1.0

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> Gemma3TextConfig:
        """Read and check section ``text_config`` of ``config.json``."""
        section = {k: v for k, v in section_of(config, "text_config").items() if v is not None}
        if section.get("model_type") != "gemma3_text":
            raise ConfigError(f"text_config.model_type is {section.get('model_type')!r}, expected 'gemma3_text'")
        require({"hidden_activation": "gelu_pytorch_tanh"} | section, "text_config", _GEMMA_FIXED)
        result = cls(**read_fields(cls, section, "text_config", _GEMMA_IGNORED | set(_GEMMA_FIXED)))
        scaling = result.rope_scaling
        if set(scaling) != {"factor", "rope_type"} or scaling["rope_type"] != "linear":
            raise ConfigError(f"text_config.rope_scaling is {scaling!r}, expected a linear one with a factor")
        if result.num_attention_heads % result.num_key_value_heads:
            raise ConfigError(
                f"text_config.num_attention_heads ({result.num_attention_heads}) is not a multiple of "
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
