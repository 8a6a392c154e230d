"""LTX-2.5's diffusion video decoder of diffusers, as a part of that side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.attention import flex_attention

from ..port import NotComparableError, Part
from .components import Torch  # noqa: F401  first: it makes torchaudio importable

from diffusers import LTX2VideoDiffusionDecoderModel  # isort: skip

# Without it torch traces every call as if it were to be compiled, which takes seconds, and counts no sums.
vars(flex_attention).update(_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG=True)


_Model: Any = LTX2VideoDiffusionDecoderModel  # whose classes state few types


class Decoder(_Model):
    """diffusers' decoder, called as upstream's is: with a normalised latent of any size.

    diffusers leaves both to its caller, and refuses latents that are smaller than a window of stage 1. Upstream repeats
    their edges, at the end of time and at both sides of a frame, and cuts the pixels.
    """

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        sizes = sample.shape[2:]
        frames, height, width = sizes
        least = self.config.decoder_stage_kernels[0]
        need = [max(wanted - found, 0) for wanted, found in zip(least, sizes, strict=True)]
        top, left = need[1] // 2, need[2] // 2
        pad = (left, need[2] - left, top, need[1] - top, 0, need[0])
        sample = torch.nn.functional.pad(sample, pad, mode="replicate") if any(need) else sample
        mean, std = (values.view(1, -1, 1, 1, 1) for values in (self.latents_mean, self.latents_std))
        pixels: torch.Tensor = super().forward(sample * std + mean, return_dict=False)[0]
        pixels = pixels[:, :, : 8 * frames - 7, 32 * top : 32 * (top + height)]
        return pixels[..., 32 * left : 32 * (left + width)]


def make(config: dict[str, Any]) -> Any:
    vae = config["vae"]
    if vae.get("_class_name") != "CausalDiffusionVAE":
        raise NotComparableError("its decoder is a convolutional one, which ltx-core has")
    d = vae["decoder"]
    return Decoder(
        out_channels=d["out_channels"],
        latent_channels=d["in_channels"],
        patch_size=d["patch_size"],
        decoder_head_dim=d["head_dim"],
        decoder_stage_channels=tuple(d["stage_channels"]),
        decoder_stage_depths=tuple(d["stage_depths"]),
        decoder_stage_kernels=tuple(map(tuple, d["stage_kernels"][: len(d["upsamples"])])),
        decoder_stage5_kernel=tuple(d["stage5_kernel"]),
        decoder_upsample_strides=tuple(tuple(stride) for stride, _ in d["upsamples"]),
        decoder_upsample_channel_reductions=tuple(reduction for _, reduction in d["upsamples"]),
        decoder_t_emb_dim=d.get("t_emb_dim", 384),
        decoder_timestep_scale_multiplier=d["timestep_scale_multiplier"],
        decoder_model_output_type=vae["model_output_type"],
        decoder_num_inference_steps=d["default_num_inference_steps"],
    )


def in_thirds(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a layer each for queries, keys and values: the thirds of the file's ``qkv``."""
    result: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        thirds = dict(zip(("to_q", "to_k", "to_v"), np.split(array, 3), strict=True)) if ".attn.qkv." in name else {}
        result |= {name.replace("qkv", layer): third for layer, third in thirds.items()} or {name: array}
    return result


PART = Part(
    make,
    lambda model, case: model(case.sample),
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
    weights=in_thirds,
)


# ---- in float64 ---------------------------------------------------------------------------------------------------


def rotary(self: Any, x: Any) -> torch.Tensor:
    """The rotary embedding in the precision of ``x``, by angles that are float32 as the reference has them."""
    turned = []
    for axis, part in enumerate(torch.split(x, self.rope_dim_split, dim=-1), 1):
        places = torch.arange(x.shape[axis], dtype=torch.float32)
        angles = (places[:, None] * self._inv_freqs(part.shape[-1], x.device)).to(x.dtype)
        shape = [1] * (x.ndim - 1) + [-1]
        shape[axis] = len(places)
        cos, sin = angles.cos().reshape(shape), angles.sin().reshape(shape)
        even, odd = part[..., ::2], part[..., 1::2]
        turned.append(torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2))
    return torch.cat(turned, dim=-1)


def attention(self: Any, x: torch.Tensor, block_mask: Any = None) -> torch.Tensor:
    """Neighbourhood attention by its definition, with a score for every pair. The reference's own flex attention has no
    gradients on a CPU, by which coverage is measured."""
    B, *grid, C = x.shape
    q, k, v = (part.flatten(1, 3).transpose(1, 2) for part in self.project_qkv(x))
    seen = torch.ones(1, 1, 1, 1, 1, 1, dtype=torch.bool)
    for axis, (size, kernel) in enumerate(zip(grid, self.kernel_size, strict=True)):
        places = torch.arange(size)
        first = (places - min(kernel, size) // 2).clamp(0, size - min(kernel, size))[:, None]
        shape = [1] * 6
        shape[axis] = shape[3 + axis] = size
        seen = seen & ((places >= first) & (places < first + kernel)).reshape(shape)
    scores = (q @ k.transpose(-1, -2)).masked_fill(~seen.reshape(q.shape[2], -1), float("-inf"))
    out: torch.Tensor = self.to_out[0]((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, *grid, C))
    return out


WIDE_MODULES = {"LTX2VideoVaeRotaryPosEmbed3D": rotary, "LTX2VideoVaeNeighborhoodAttention": attention}
