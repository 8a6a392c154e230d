"""diffusers' classes of LTX-2 as a side (PyPI ``diffusers`` 0.42.1): as a subject, or as another reference, as it is of
LTX-2.5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from ..port import NotComparableError, Part
from . import diffusion_decoder
from .components import timestep_embedding
from .diffusers_vae import COMPONENTS
from .port import TorchPort  # first: it makes torchaudio importable

import diffusers  # isort: skip
from diffusers import LTX2VideoTransformer3DModel  # isort: skip
from diffusers.pipelines.ltx2 import LTX2TextConnectors  # isort: skip
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE  # isort: skip

Config = dict[str, Any]
NORMS = (("q_norm", "norm_q"), ("k_norm", "norm_k"))


# ---- transformer --------------------------------------------------------------------------------------------------


def transformer(config: Config) -> Any:
    t = config["transformer"]
    if t["rope_type"] != "split" or not t.get("use_audio_video_cross_attention"):
        raise NotComparableError("diffusers has split rotary embeddings, and video and audio together, only")
    gated = t.get("apply_gated_attention", False)
    heads, dim, audio_heads, audio_dim = (
        t[f"{stream}{name}"] for stream in ("", "audio_") for name in ("num_attention_heads", "attention_head_dim")
    )
    return LTX2VideoTransformer3DModel(
        in_channels=t["in_channels"],
        out_channels=t["out_channels"],
        audio_in_channels=t["audio_out_channels"],
        audio_out_channels=t["audio_out_channels"],
        num_attention_heads=heads,
        attention_head_dim=dim,
        cross_attention_dim=t["cross_attention_dim"],
        audio_num_attention_heads=audio_heads,
        audio_attention_head_dim=audio_dim,
        audio_cross_attention_dim=t["audio_cross_attention_dim"],
        num_layers=t["num_layers"],
        caption_channels=t["caption_channels"],
        rope_type="split",
        gated_attn=gated,
        audio_gated_attn=gated,
        cross_attn_mod=gated,
        audio_cross_attn_mod=gated,
        use_prompt_embeddings=not gated,
        perturbed_attn=True,
        norm_eps=t["norm_eps"],
        ff_bias=t.get("ff_bias", True),
        use_keyframes_abs_pos_embedding=t.get("use_keyframes_abs_pos_embedding", False),
    )


def velocity(model: Any, case: SimpleNamespace) -> Any:
    """The velocities of both streams."""
    video, audio = case.video, case.audio
    if not all(stream is not None and getattr(stream, "enabled", True) for stream in (video, audio)):
        raise NotComparableError("diffusers computes both streams, always")
    if getattr(video, "attention_mask", None) is not None:
        raise NotComparableError("diffusers' self-attention takes strengths in another form")

    def times(stream: SimpleNamespace) -> torch.Tensor:
        scaled: torch.Tensor = stream.timesteps * 1000
        return scaled.reshape(len(stream.latent), -1)

    marking = model.config.use_keyframes_abs_pos_embedding
    arguments = dict(
        hidden_states=video.latent,
        audio_hidden_states=audio.latent,
        encoder_hidden_states=video.context,
        audio_encoder_hidden_states=audio.context,
        timestep=times(video),
        audio_timestep=times(audio),
        sigma=video.sigma * 1000,
        audio_sigma=audio.sigma * 1000,
        encoder_attention_mask=getattr(video, "context_mask", None),
        audio_encoder_attention_mask=getattr(audio, "context_mask", None),
        video_coords=video.positions,
        audio_coords=audio.positions,
        video_keyframes_mask=getattr(video, "keyframes_mask", None),
        use_cross_timestep=not marking,
        return_dict=False,
        **_perturbed(case.perturbations, len(model.transformer_blocks)),
    )
    if not marking:
        return model(**arguments)
    with _gates_timed_as_upstream(model, video.sigma * 1000, audio.sigma * 1000):
        return model(**arguments)


@contextmanager
def _gates_timed_as_upstream(model: Any, sigma: torch.Tensor, audio_sigma: torch.Tensor) -> Iterator[None]:
    """While it lasts, the gates of audio-video attention are timed by the other stream's sigma, one value a sample, as
    Lightricks' own code times them since 1.1.4. diffusers has one time for a gate and its scale and shift; with the
    stream's own for these, this is upstream's rule to the last bit."""
    others = {"av_cross_attn_video_a2v_gate": audio_sigma, "av_cross_attn_audio_v2a_gate": sigma}
    factor = model.config.cross_attn_timestep_scale_multiplier / model.config.timestep_scale_multiplier
    with ExitStack() as undo:
        for name, other in others.items():

            def timed(module: Any, args: Any, kwargs: Any, other: torch.Tensor = other) -> Any:
                return (other * factor, *args[1:]), kwargs

            hook = getattr(model, name).register_forward_pre_hook(timed, with_kwargs=True)
            undo.callback(hook.remove)
        yield


def _perturbed(perturbations: SimpleNamespace | None, blocks: int) -> dict[str, Any]:
    """The same for every sample of a batch: self-attention skipped in some blocks, or the streams apart."""
    samples = [] if perturbations is None else [sample.perturbations for sample in perturbations.perturbations]
    wanted = {
        tuple(sorted((p.type, tuple(p.blocks or range(blocks))) for p in some if p.blocks != [])) for some in samples
    }
    if wanted <= {()}:
        return {}
    if len(wanted) > 1:
        raise NotComparableError("diffusers perturbs every sample of a batch alike")
    kinds = dict(next(iter(wanted)))
    both = [kinds.get(f"skip_{stream}_self_attn") for stream in ("video", "audio")]
    if len(kinds) == 2 and both[0] == both[1] and both[0]:
        return {"spatio_temporal_guidance_blocks": list(both[0])}
    if kinds == dict.fromkeys(("skip_a2v_cross_attn", "skip_v2a_cross_attn"), tuple(range(blocks))):
        return {"isolate_modalities": True}
    raise NotComparableError("diffusers perturbs both streams alike")


_ADALN = (
    (r"audio_prompt_adaln_single", "audio_prompt_adaln"),
    (r"prompt_adaln_single", "prompt_adaln"),
    (r"av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    (r"av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    (r"av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    (r"av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    (r"scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
    (r"scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table"),
    (r"audio_adaln_single", "audio_time_embed"),
    (r"adaln_single", "time_embed"),
    (r"audio_patchify_proj", "audio_proj_in"),
    (r"patchify_proj", "proj_in"),
)


# ---- text ---------------------------------------------------------------------------------------------------------


def connectors(config: Config) -> Any:
    t = config["transformer"]
    second = t.get("caption_proj_before_connector", False)
    heads, dim = t["connector_num_attention_heads"], t["connector_attention_head_dim"]
    gated = t.get("connector_apply_gated_attention", False)
    options: dict[str, Any] = {}
    if second:
        options = {
            "per_modality_projections": True,
            "proj_bias": True,
            "video_hidden_dim": heads * dim,
            "audio_hidden_dim": t["audio_connector_num_attention_heads"] * t["audio_connector_attention_head_dim"],
        }
    return LTX2TextConnectors(
        caption_channels=t["caption_channels"],
        text_proj_in_factor=8,
        video_connector_num_attention_heads=heads,
        video_connector_attention_head_dim=dim,
        video_connector_num_layers=t["connector_num_layers"],
        audio_connector_num_attention_heads=t.get("audio_connector_num_attention_heads", heads),
        audio_connector_attention_head_dim=t.get("audio_connector_attention_head_dim", dim),
        audio_connector_num_layers=t["connector_num_layers"],
        video_gated_attn=gated,
        audio_gated_attn=gated,
        connector_rope_base_seq_len=t["connector_positional_embedding_max_pos"][0],
        rope_type="split",
        **options,
    )


def contexts(model: Any, case: SimpleNamespace) -> Any:
    states = torch.stack(case.hidden_states, dim=-1)
    return model(states, case.attention_mask, padding_side=case.padding_side)


# ---- vocoders ------------------------------------------------------------------------------------------------------


def vocoder(config: Config) -> Any:
    section = config["vocoder"]

    def sizes(part: Config, prefix: str = "") -> dict[str, Any]:
        return {
            f"{prefix}hidden_channels": part["upsample_initial_channel"],
            f"{prefix}upsample_kernel_sizes": part["upsample_kernel_sizes"],
            f"{prefix}upsample_factors": part["upsample_rates"],
            f"{prefix}resnet_kernel_sizes": part["resblock_kernel_sizes"],
            f"{prefix}resnet_dilations": part["resblock_dilation_sizes"],
        }

    if "bwe" not in section:
        act = "tanh" if section.get("use_tanh_at_final", True) else "clamp"
        return LTX2Vocoder(**sizes(section), final_bias=section.get("use_bias_at_final", True), final_act_fn=act)
    if "hop_length" in section["bwe"] and section["bwe"]["hop_length"] != 80:
        raise NotComparableError("the spectrogram between its networks has the released sizes here")
    return LTX2VocoderWithBWE(**sizes(section["vocoder"]), **sizes(section["bwe"], "bwe_"), final_act_fn="clamp")


def _rms_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
    return normed if self.weight is None else normed * self.weight


def _split_rotary(x: torch.Tensor, freqs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``(B, T, H·D)`` with the halves of each head turned by ``(B, H, T, D/2)`` cosines and sines."""
    cos, sin = freqs
    first, second = x.reshape(*x.shape[:2], cos.shape[1], -1).swapaxes(1, 2).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.swapaxes(1, 2).flatten(2)


class Diffusers(TorchPort):
    name, version = "diffusers", diffusers.__version__
    wide_functions = {  # noqa: RUF012
        "diffusers.models.embeddings:get_timestep_embedding": timestep_embedding,
        "diffusers.models.transformers.transformer_ltx2:apply_split_rotary_emb": _split_rotary,
    }
    wide_modules = {"RMSNorm": _rms_norm, **diffusion_decoder.WIDE_MODULES}  # noqa: RUF012
    components = {  # noqa: RUF012
        "transformer": Part(transformer, velocity, (*_ADALN, *NORMS)),
        "embeddings_processor": Part(
            connectors,
            contexts,
            (
                (r"transformer_1d_blocks", "transformer_blocks"),
                *NORMS,
                (r"feature_extractor\.(video|audio)_aggregate_embed", r"\1_text_proj_in"),
                (r"feature_extractor\.aggregate_embed", "text_proj_in"),
            ),
            entry="process_hidden_states",
        ),
        "vocoder": Part(
            vocoder,
            lambda model, case: model(*vars(case).values()),
            (
                (r"conv_pre", "conv_in"),
                (r"\bups\b", "upsamplers"),
                (r"resblocks", "resnets"),
                (r"conv_post", "conv_out"),
                (r"act_post", "act_out"),
                (r"downsample\.lowpass", "downsample"),
            ),
        ),
        **COMPONENTS,
    }

    def part(self, component: str, config: Config) -> Part:
        if component == "video_decoder" and config["vae"].get("_class_name") == "CausalDiffusionVAE":
            return diffusion_decoder.PART
        return super().part(component, config)


SIDE = Diffusers
