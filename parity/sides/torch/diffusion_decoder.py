"""LTX-2.5's diffusion video decoder of diffusers, as a part of that side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..port import NotComparableError, Part

from diffusers import LTX2VideoDiffusionDecoderModel  # isort: skip

_MODULE = "diffusers.models.autoencoders.ltx2_diffusion_decoder"


def _make(config: dict[str, Any]) -> Any:
    vae = config["vae"]
    if vae.get("_class_name") != "CausalDiffusionVAE":
        raise NotComparableError("it is another decoder, which ltx-core has")
    d = vae["decoder"]
    stages = len(d["upsamples"])
    return LTX2VideoDiffusionDecoderModel(
        out_channels=d["out_channels"],
        latent_channels=d["in_channels"],
        patch_size=d["patch_size"],
        decoder_head_dim=d["head_dim"],
        decoder_stage_channels=tuple(d["stage_channels"]),
        decoder_stage_depths=tuple(d["stage_depths"]),
        decoder_stage_kernels=tuple(map(tuple, d["stage_kernels"][:stages])),
        decoder_stage5_kernel=tuple(d["stage5_kernel"]),
        decoder_upsample_strides=tuple(tuple(stride) for stride, _ in d["upsamples"]),
        decoder_upsample_channel_reductions=tuple(reduction for _, reduction in d["upsamples"]),
        decoder_t_emb_dim=d.get("t_emb_dim", 384),
        decoder_timestep_scale_multiplier=d["timestep_scale_multiplier"],
        decoder_model_output_type=vae["model_output_type"],
        decoder_num_inference_steps=d["default_num_inference_steps"],
    )


def _call(model: Any, case: SimpleNamespace) -> torch.Tensor:
    """Pixels of a normalised latent. diffusers refuses latents that are smaller than a window of stage 1; upstream repeats
    their edges, at the end of time and at both sides of a frame, and cuts the pixels."""
    sample = case.sample
    frames, *size = sample.shape[2:]
    least = model.config.decoder_stage_kernels[0]
    need = [max(wanted - found, 0) for wanted, found in zip(least, sample.shape[2:], strict=True)]
    before = [0, need[1] // 2, need[2] // 2]
    pad = [side for b, n in zip(before[::-1], need[::-1], strict=True) for side in (b, n - b)]
    sample = torch.nn.functional.pad(sample, pad, mode="replicate") if any(need) else sample
    shape = (1, -1, 1, 1, 1)
    pixels: torch.Tensor = model(
        sample * model.latents_std.view(shape) + model.latents_mean.view(shape), return_dict=False
    )[0]
    top, left = 32 * before[1], 32 * before[2]
    return pixels[:, :, : 8 * frames - 7, top : top + 32 * size[0], left : left + 32 * size[1]]


def _weights(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With one layer each for queries, keys and values, which are thirds of the file's ``qkv``."""
    result = {}
    for name, array in tensors.items():
        if ".attn.qkv." in name:
            parts = np.split(array, 3)
            result |= {
                name.replace(".qkv.", f".{to}."): part for to, part in zip(("to_q", "to_k", "to_v"), parts, strict=True)
            }
        else:
            result[name] = array
    return result


def rotate_axis(
    self: Any, x: torch.Tensor, positions: torch.Tensor, inv_freqs: torch.Tensor, axis: int
) -> torch.Tensor:
    """``_rotate_axis`` in the precision of ``x``, by angles that are float32 as the reference has them."""
    angles = (positions[:, None] * inv_freqs[None]).double()
    shape = [1, 1, 1, 1, 1, len(inv_freqs)]
    shape[axis] = len(positions)
    cos, sin = angles.cos().reshape(shape).to(x.dtype), angles.sin().reshape(shape).to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).reshape(x.shape)


WIDE = {f"{_MODULE}:LTX2VideoVaeRotaryPosEmbed3D._rotate_axis": rotate_axis}
PART = Part(
    _make,
    _call,
    (
        (r"per_channel_statistics\.mean-of-means", "latents_mean"),
        (r"per_channel_statistics\.std-of-means", "latents_std"),
        (r"^(?!latents_)", "decoder."),
        (r"attn\.proj", "attn.to_out.0"),
        (r"q_norm", "norm_q"),
        (r"k_norm", "norm_k"),
        (r"t_embedder\.mlp\.0", "t_embedder.timestep_embedder.linear_1"),
        (r"t_embedder\.mlp\.1", "t_embedder.timestep_embedder.act"),
        (r"t_embedder\.mlp\.2", "t_embedder.timestep_embedder.linear_2"),
    ),
    weights=_weights,
)
