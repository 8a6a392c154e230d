"""diffusers' classes of LTX-2 as a side (PyPI ``diffusers`` 0.42.1): as a subject, or as another reference."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch

from ..port import NotComparableError, Part
from .components import timestep_embedding
from .port import TorchPort  # first: it makes torchaudio importable

import diffusers  # isort: skip
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel  # isort: skip
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors  # isort: skip
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE  # isort: skip

Config = dict[str, Any]
NORMS = (("q_norm", "norm_q"), ("k_norm", "norm_k"))


# ---- transformer --------------------------------------------------------------------------------------------------


def transformer(config: Config) -> torch.nn.Module:
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
    )


def velocity(model: torch.nn.Module, case: SimpleNamespace) -> Any:
    """The velocities of both streams."""
    video, audio = case.video, case.audio
    if video is None or audio is None or not getattr(audio, "enabled", True):
        raise NotComparableError("diffusers computes both streams, always")
    if getattr(video, "attention_mask", None) is not None:
        raise NotComparableError("diffusers' self-attention takes strengths in another form")

    def times(stream: SimpleNamespace) -> torch.Tensor:
        return (stream.timesteps * 1000).reshape(len(stream.latent), -1)

    return model(
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
        use_cross_timestep=True,
        return_dict=False,
        **_perturbed(case.perturbations, len(model.transformer_blocks)),
    )


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


def connectors(config: Config) -> torch.nn.Module:
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


def contexts(model: torch.nn.Module, case: SimpleNamespace) -> Any:
    states = torch.stack(case.hidden_states, dim=-1)
    return model(states, case.attention_mask, padding_side=case.padding_side)


# ---- VAEs, vocoders, upsampler ------------------------------------------------------------------------------------


class VideoHalf(torch.nn.Module):
    """One half of the video VAE with the statistics around it, which diffusers leaves to its pipelines."""

    def __init__(self, config: Config, half: str):
        super().__init__()
        whole = video_vae(config)
        self.half, self.net = half, getattr(whole, half)
        for name in ("latents_mean", "latents_std"):
            self.register_buffer(name, getattr(whole, name))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        mean, std = (x.view(1, -1, 1, 1, 1).to(sample.dtype) for x in (self.latents_mean, self.latents_std))
        if self.half == "encoder":
            latent: torch.Tensor = self.net(sample, causal=True)
            return (latent[:, : mean.shape[1]] - mean) / std
        decoded: torch.Tensor = self.net(sample * std + mean, None, causal=False)
        return decoded


def video_vae(config: Config) -> torch.nn.Module:
    vae = config["vae"]
    if vae["timestep_conditioning"]:
        raise NotComparableError("diffusers draws a decoder's noise otherwise")
    kinds = [kind for kind, _ in vae["encoder_blocks"]], [kind for kind, _ in vae["decoder_blocks"]][::-1]
    if kinds[0] != [
        "compress_space_res",
        "res_x",
        "compress_time_res",
        "res_x",
        "compress_all_res",
        "res_x",
        "compress_all_res",
    ]:
        pass
    raise NotComparableError("not yet")


def vocoder(config: Config) -> torch.nn.Module:
    section = config["vocoder"]

    def sizes(part: Config, prefix: str = "") -> dict[str, Any]:
        return {
            f"{prefix}hidden_channels": part["upsample_initial_channel"],
            f"{prefix}upsample_kernel_sizes": part["upsample_kernel_sizes"],
            f"{prefix}upsample_factors": part["upsample_rates"],
        }

    if "bwe" not in section:
        return LTX2Vocoder(**sizes(section))
    return LTX2VocoderWithBWE(**sizes(section["vocoder"]), **sizes(section["bwe"], "bwe_"), final_act_fn="clamp")


def upsampler(config: Config) -> torch.nn.Module:
    return LTX2LatentUpsamplerModel(
        in_channels=config["in_channels"],
        mid_channels=config["mid_channels"],
        num_blocks_per_stage=config["num_blocks_per_stage"],
        spatial_upsample=config["spatial_upsample"],
        temporal_upsample=config["temporal_upsample"],
        rational_spatial_scale=config.get("spatial_scale", 2.0),
        use_rational_resampler=config.get("rational_resampler", False),
    )


def audio_vae(config: Config) -> torch.nn.Module:
    d = config["audio_vae"]["model"]["params"]["ddconfig"]
    names = {"base_channels": "ch", "output_channels": "out_ch", "latent_channels": "z_channels"}
    same = ("ch_mult", "num_res_blocks", "in_channels", "resolution", "norm_type", "causality_axis", "mel_bins")
    same += ("mid_block_add_attention", "double_z")
    return AutoencoderKLLTX2Audio(
        **{ours: d[theirs] for ours, theirs in names.items()},
        **{name: d[name] for name in same},
        attn_resolutions=d["attn_resolutions"] or None,
    )


class Diffusers(TorchPort):
    name, version = "diffusers", diffusers.__version__
    wide_functions = {"diffusers.models.embeddings:get_timestep_embedding": timestep_embedding}
    components = {
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
            lambda model, case: model(getattr(case, "mel_spec", None) if hasattr(case, "mel_spec") else case.x),
            (
                (r"conv_pre", "conv_in"),
                (r"\bups\b", "upsamplers"),
                (r"resblocks", "resnets"),
                (r"conv_post", "conv_out"),
                (r"act_post", "act_out"),
                (r"downsample\.lowpass", "downsample"),
            ),
        ),
    }


SIDE = Diffusers
