"""The diffusion transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..nn.rope import LTXRopeType
from .reading import Base, Epsilon, Factor, Layers, Size, check_product, choice, read_fields, require, section_of


@dataclass(frozen=True)
class StreamConfig:
    """The sizes of one stream.

    name: "video" or "audio". prefix: of its parameters' names. axes, max_pos: of its positions. ff_bias: the
    feed-forward layers have biases. keyframes: the tokens of single pictures are marked.
    """

    name: str
    prefix: str
    axes: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    cross_attention_dim: int
    max_pos: tuple[int, ...]
    ff_bias: bool = True
    keyframes: bool = False

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """Section ``transformer``. Source: ``ltx_core.model.transformer.model_configurator``."""

    num_layers: Layers
    num_attention_heads: Size
    attention_head_dim: Size
    in_channels: Size
    out_channels: Size
    cross_attention_dim: Size
    caption_channels: Size
    norm_eps: Epsilon
    positional_embedding_theta: Base
    positional_embedding_max_pos: tuple[Size, ...]
    timestep_scale_multiplier: Size
    rope_type: LTXRopeType
    # The released files carry all of the above. What follows is absent from some of them, and absent means this.
    frequencies_precision: str = "float32"
    apply_gated_attention: bool = False
    cross_attention_adaln: bool = False
    caption_proj_before_connector: bool = False
    ff_bias: bool = True
    use_keyframes_abs_pos_embedding: bool = False
    # Audio-video checkpoints only (``use_audio_video_cross_attention``).
    use_audio_video_cross_attention: bool = False
    audio_num_attention_heads: Size = 32
    audio_attention_head_dim: Size = 64
    audio_in_channels: Size = 128
    audio_out_channels: Size = 128
    audio_cross_attention_dim: Size = 2048
    audio_ff_bias: bool = True
    audio_positional_embedding_max_pos: tuple[Size, ...] = (20,)
    av_ca_timestep_scale_multiplier: Factor | None = None

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def audio_inner_dim(self) -> int:
        return self.audio_num_attention_heads * self.audio_attention_head_dim

    @property
    def video(self) -> StreamConfig:
        return StreamConfig(
            name="video",
            prefix="",
            axes=3,
            num_attention_heads=self.num_attention_heads,
            attention_head_dim=self.attention_head_dim,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            cross_attention_dim=self.cross_attention_dim,
            max_pos=self.positional_embedding_max_pos,
            ff_bias=self.ff_bias,
            keyframes=self.use_keyframes_abs_pos_embedding,
        )

    @property
    def audio(self) -> StreamConfig:
        return StreamConfig(
            name="audio",
            prefix="audio_",
            axes=1,
            num_attention_heads=self.audio_num_attention_heads,
            attention_head_dim=self.audio_attention_head_dim,
            in_channels=self.audio_in_channels,
            out_channels=self.audio_out_channels,
            cross_attention_dim=self.audio_cross_attention_dim,
            max_pos=self.audio_positional_embedding_max_pos,
            ff_bias=self.audio_ff_bias,
        )

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
        section = section_of(config, "transformer")
        require(section, "transformer", _TRANSFORMER_FIXED)
        av = section.get("use_audio_video_cross_attention", False)
        require(section, "transformer", _TRANSFORMER_FIXED_AV if av else {})
        require(_TRANSFORMER_FIXED_WHERE_STATED | section, "transformer", _TRANSFORMER_FIXED_WHERE_STATED)
        fixed = {*_TRANSFORMER_FIXED, *_TRANSFORMER_FIXED_AV, *_TRANSFORMER_FIXED_WHERE_STATED}
        read = read_fields(cls, section, "transformer", _TRANSFORMER_IGNORED | fixed)
        if av and read.get("av_ca_timestep_scale_multiplier") is None:
            raise ConfigError(
                "transformer.av_ca_timestep_scale_multiplier is missing. Every released audio-video checkpoint says "
                "1000, and ltx-core silently takes 1 without it; we do not guess. Use an official checkpoint"
            )
        read["rope_type"] = choice(section, "transformer", "rope_type", {t.value: t for t in LTXRopeType})
        precision = read.get("frequencies_precision")
        read["frequencies_precision"] = "float64" if precision == "float64" else "float32"
        result = cls(**read)
        result._check()
        return result

    def _check(self) -> None:
        check_product("transformer.num_attention_heads · attention_head_dim", self.inner_dim)
        check_product("transformer.audio_num_attention_heads · audio_attention_head_dim", self.audio_inner_dim)
        if self.attention_head_dim % 2 or self.audio_attention_head_dim % 2:
            raise ConfigError("transformer.attention_head_dim and audio_attention_head_dim: expected even numbers")
        rules = [("cross_attention_dim", self.cross_attention_dim, "video width", self.inner_dim)]
        if self.use_audio_video_cross_attention:
            rules += [
                ("audio_cross_attention_dim", self.audio_cross_attention_dim, "audio width", self.audio_inner_dim),
                ("audio_num_attention_heads", self.audio_num_attention_heads, "video heads", self.num_attention_heads),
            ]
        for key, value, name, expected in rules:
            if value != expected:
                raise ConfigError(f"transformer.{key} is {value}, expected {expected} (the {name})")
        if len(self.audio_positional_embedding_max_pos) != 1:
            raise ConfigError(
                "transformer.audio_positional_embedding_max_pos needs one value (time), "
                f"found {list(self.audio_positional_embedding_max_pos)}"
            )
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
_TRANSFORMER_FIXED_WHERE_STATED = {"use_prompt_adaln_single": True}  # no file before 2.5 has it
# Keys of released headers that change nothing in this section's network (``connector_*`` belong to the text side).
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
