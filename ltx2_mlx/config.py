"""The networks that a checkpoint describes: one frozen dataclass per section of its ``config`` metadata.

Nothing is taken from a default that the released files contradict. A key that we do not know raises, because it may
change the network; the keys that are known to change nothing are listed beside those that are read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
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
