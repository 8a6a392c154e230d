"""Gemma 3, the feature extractors and the connectors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from ..errors import ConfigError
from ..nn.rope import LTXRopeType
from .reading import (
    Base,
    Epsilon,
    Factor,
    Layers,
    Size,
    Within,
    check_product,
    choice,
    fitted,
    read_fields,
    require,
    section_of,
    short,
    table_of,
)

NUM_LEARNABLE_REGISTERS = 128  # of every connector; ltx-core has no other


@dataclass(frozen=True)
class ConnectorConfig:
    """One ``Embeddings1DConnector``. ``max_pos``: positions that the rotary table is scaled by."""

    num_attention_heads: Size
    attention_head_dim: Size
    num_layers: Layers
    max_pos: tuple[Size, ...]
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

    caption_channels: Size  # Gemma's width, in every released file
    num_attention_heads: Size
    attention_head_dim: Size
    audio_num_attention_heads: Size
    audio_attention_head_dim: Size
    connector_num_attention_heads: Size
    connector_attention_head_dim: Size
    connector_num_layers: Layers
    connector_positional_embedding_max_pos: tuple[Size, ...]
    rope_type: LTXRopeType
    frequencies_precision: str = "float32"
    connector_apply_gated_attention: bool = False
    # Absent means: as for video.
    audio_connector_num_attention_heads: Size | None = None
    audio_connector_attention_head_dim: Size | None = None
    audio_connector_num_layers: Layers | None = None
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
        if len(result.connector_positional_embedding_max_pos) != 1:
            raise ConfigError(
                "transformer.connector_positional_embedding_max_pos needs one value, found "
                f"{list(result.connector_positional_embedding_max_pos)}"
            )
        for name, features, connector in (
            ("connector", result.video_features, result.video_connector),
            ("audio_connector", result.audio_features, result.audio_connector),
        ):
            check_product(f"the width of transformer.{name}", connector.inner_dim)
            if connector.attention_head_dim % 2:
                raise ConfigError(f"transformer.{name}_attention_head_dim is odd, expected an even number")
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

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    sliding_window: Size
    rope_scaling: dict[str, Any]
    head_dim: Size = 256
    query_pre_attn_scalar: Size = 256
    vocab_size: Annotated[int, Within(1, 1 << 24)] = 262208
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Base = 1_000_000.0
    rope_local_base_freq: Base = 10_000.0
    sliding_window_pattern: Size = 6

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
        """Read and check section ``text_config`` of ``config.json``, or all of it where the folder holds the text model
        alone. Raises ConfigError."""
        flat = config.get("model_type") == "gemma3_text"
        section = {k: v for k, v in (config if flat else section_of(config, "text_config")).items() if v is not None}
        if section.get("model_type") != "gemma3_text":
            raise ConfigError(f"text_config.model_type is {short(section.get('model_type'))}, expected 'gemma3_text'")
        section = _as_by_transformers_4(section)
        require({"hidden_activation": "gelu_pytorch_tanh"} | section, "text_config", _GEMMA_FIXED)
        result = cls(**read_fields(cls, section, "text_config", GEMMA_IGNORED | set(_GEMMA_FIXED)))
        scaling = table_of(section, "text_config", "rope_scaling")
        if set(scaling) != {"factor", "rope_type"} or scaling["rope_type"] != "linear":
            raise ConfigError(f"text_config.rope_scaling is {short(scaling)}, expected a linear one with a factor")
        fitted(scaling["factor"], Factor, "text_config.rope_scaling.factor")
        check_product("text_config.num_attention_heads · head_dim", result.num_attention_heads, result.head_dim)
        if result.head_dim % 2:
            raise ConfigError(f"text_config.head_dim is {result.head_dim}, expected an even number")
        if (stated := section.get("layer_types")) is not None and stated != list(result.layer_types):
            pattern = result.sliding_window_pattern
            raise ConfigError(
                f"text_config.layer_types is not that of Gemma 3: every {pattern}th layer sees everything"
            )
        if result.num_attention_heads % result.num_key_value_heads:
            raise ConfigError(
                f"text_config.num_attention_heads ({result.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({result.num_key_value_heads})"
            )
        return result


def _as_by_transformers_4(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the keys that transformers wrote before version 5: it now states the rotary tables of each kind
    of layer in ``rope_parameters``."""
    section = dict(section)
    if "_sliding_window_pattern" in section:
        section.setdefault("sliding_window_pattern", section.pop("_sliding_window_pattern"))
    if "rope_parameters" in section:
        both = table_of(section, "text_config", "rope_parameters")
        full, sliding = (table_of(both, "text_config.rope_parameters", f"{kind}_attention") for kind in _KINDS)
        if sliding.get("rope_type", "default") != "default":
            found = f"rope_type is {short(sliding['rope_type'])}"
            raise ConfigError(f"text_config.rope_parameters.sliding_attention.{found}, expected 'default'")
        section["rope_scaling"] = {k: v for k, v in full.items() if k != "rope_theta"}
        for table, key in ((full, "rope_theta"), (sliding, "rope_local_base_freq")):
            if "rope_theta" in table:
                section[key] = table["rope_theta"]
    if isinstance(section.get("rope_scaling"), dict):  # older files say "type", some say both
        scaling = dict(section["rope_scaling"])
        older = scaling.pop("type", None)
        section["rope_scaling"] = ({"rope_type": older} if older is not None else {}) | scaling
    return section


_KINDS = ("full", "sliding")
_GEMMA_FIXED = {"hidden_activation": "gelu_pytorch_tanh"}
# Training, generation and bookkeeping. What is not listed and not off (soft caps, biases) raises.
GEMMA_IGNORED = {
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
    # Written by transformers 5, or by those who convert for it; the first two are read above.
    "rope_parameters",
    "layer_types",
    "architectures",
    "attn_implementation",
    "id2label",
    "label2id",
    "return_dict",
    "_name_or_path",
    "unsloth_fixed",
    "unsloth_version",
}
