"""Gemma 4's text model (``gemma4_unified``), and the choice between it and Gemma 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..errors import ConfigError
from .reading import Base, Epsilon, Layers, Size, Within, check_product, fitted, read_fields, require, section_of, short
from .text import GEMMA_IGNORED, Gemma3TextConfig

_Share = Annotated[float, Within(1e-3, 1.0)]
_Id = Annotated[int, Within(0, 1 << 24)]
_KINDS = ("sliding_attention", "full_attention")


@dataclass(frozen=True)
class Gemma4UnifiedTextConfig:
    """Section ``text_config`` of a Gemma 4's config. Its layers are of two kinds: those that see a window, and global
    ones, whose heads are wider and whose values are their keys.

    placeholders: tokens that stand for an image, a video or audio; in a text each is embedded as a pad.
    """

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    num_global_key_value_heads: Size
    head_dim: Size
    global_head_dim: Size
    sliding_window: Size
    vocab_size: Annotated[int, Within(1, 1 << 24)]
    rms_norm_eps: Epsilon
    layer_types: tuple[str, ...]
    rope_parameters: dict[str, Any]
    placeholders: tuple[int, ...] = ()

    def heads(self, layer_type: str) -> tuple[int, int]:
        """The width of a layer's heads, and how many of them its keys and values have."""
        if layer_type == "full_attention":
            return self.global_head_dim, self.num_global_key_value_heads
        return self.head_dim, self.num_key_value_heads

    def rope(self, layer_type: str) -> tuple[float, int]:
        """Base of the frequencies, and how many of a head's pairs turn at all."""
        said = self.rope_parameters[layer_type]
        share = said.get("partial_rotary_factor", 1.0)
        return said["rope_theta"], int(share * self.heads(layer_type)[0] // 2)

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> Gemma4UnifiedTextConfig:
        """Read and check section ``text_config`` of a whole model's config, or all of that of a text model alone.
        Raises ConfigError."""
        flat = config.get("model_type") == _MODEL_TYPE
        section = {k: v for k, v in (config if flat else section_of(config, "text_config")).items() if v is not None}
        if section.get("model_type") != _MODEL_TYPE:
            raise ConfigError(f"text_config.model_type is {short(section.get('model_type'))}, expected {_MODEL_TYPE!r}")
        require(_UNSAID | section, "text_config", _FIXED)
        section = _without_overrides(section)
        read = read_fields(cls, section, "text_config", GEMMA_IGNORED | _IGNORED | set(_FIXED))
        given = {} if flat else {key: config[key] for key in _PLACEHOLDERS if config.get(key) is not None}
        read["placeholders"] = tuple(fitted(token, _Id, key) for key, token in given.items())
        result = cls(**read)
        _check_layers(result)
        for kind in _KINDS:
            _check_rope(result.rope_parameters, kind)
            width, groups = result.heads(kind)
            check_product("text_config.num_attention_heads · head_dim", result.num_attention_heads, width)
            if width % 2 or not result.rope(kind)[1]:
                raise ConfigError(f"text_config: heads of {kind} are {width} wide, and have no pair to turn")
            if result.num_attention_heads % groups:
                raise ConfigError(
                    f"text_config.num_attention_heads ({result.num_attention_heads}) is not a multiple of {groups}, "
                    f"the heads of keys in layers of {kind}"
                )
        return result


def _without_overrides(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the keys that transformers wrote before 5.20: it now states what the global layers have
    otherwise in ``per_layer_config``, layer by layer."""
    layers = section.get("per_layer_config")
    if layers is None:
        return section
    kinds = section.get("layer_types")
    overrides = layers if isinstance(layers, dict) else {}
    wanted = [str(i) for i, kind in enumerate(kinds if isinstance(kinds, list) else ()) if kind == "full_attention"]
    said = [overrides.get(name) for name in wanted]
    first = said[0] if said else None
    if sorted(map(str, overrides)) != sorted(wanted) or not isinstance(first, dict) or any(o != first for o in said):
        raise ConfigError("text_config.per_layer_config does not say the same of every global layer, and of no other")
    if unknown := sorted(first.keys() - {"head_dim", "num_key_value_heads"}):
        raise ConfigError(f"text_config.per_layer_config has unknown keys: {short(unknown)}")
    wide = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
    result = {key: value for key, value in section.items() if key != "per_layer_config"}
    return result | {wide[key]: value for key, value in first.items()}


def _check_layers(config: Gemma4UnifiedTextConfig) -> None:
    kinds = config.layer_types
    if len(kinds) != config.num_hidden_layers or not set(kinds) <= set(_KINDS):
        expected = f"{config.num_hidden_layers} of {' or '.join(_KINDS)}"
        raise ConfigError(f"text_config.layer_types is {short(list(kinds))}, expected {expected}")
    if kinds[-1] != "full_attention":  # transformers makes it one
        raise ConfigError(f"text_config.layer_types ends in {kinds[-1]}, expected full_attention")


def _check_rope(parameters: dict[str, Any], kind: str) -> None:
    place = f"text_config.rope_parameters.{kind}"
    table = parameters.get(kind) if isinstance(parameters, dict) else None
    known = _ROPE[kind]
    if not isinstance(table, dict) or set(table) != {"rope_type", *known[1]} or table["rope_type"] != known[0]:
        raise ConfigError(f"{place} is {short(table)}, expected rope_type {known[0]!r} with {' and '.join(known[1])}")
    for key, limits in known[1].items():
        fitted(table[key], limits, f"{place}.{key}")


_MODEL_TYPE = "gemma4_unified_text"
_ROPE: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding_attention": ("default", {"rope_theta": Base}),
    "full_attention": ("proportional", {"rope_theta": Base, "partial_rotary_factor": _Share}),
}
_FIXED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_k_eq_v": True,
    "use_bidirectional_attention": "vision",  # among image tokens, of which a text has none
    "bos_token_id": 2,
    "pad_token_id": 0,
}
# transformers' defaults of those of them that may be left out; it does not leave out attention_k_eq_v
_UNSAID = {key: value for key, value in _FIXED.items() if key != "attention_k_eq_v"}
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")
_IGNORED = {"final_logit_softcapping", "vocab_size_per_layer_input"}  # of the head; of embeddings that are off

GemmaTextConfig = Gemma3TextConfig | Gemma4UnifiedTextConfig


def read_gemma_config(config: dict[str, Any]) -> GemmaTextConfig:
    """Read and check a Gemma's config: Gemma 4's where ``model_type`` says so, otherwise Gemma 3's. Raises
    ConfigError."""
    cls = Gemma4UnifiedTextConfig if is_gemma4(config) else Gemma3TextConfig
    return cls.from_metadata(config)


def is_gemma4(config: dict[str, Any]) -> bool:
    """True for the config of a Gemma 4, whole or of its text model alone."""
    return config.get("model_type") in ("gemma4_unified", _MODEL_TYPE)
