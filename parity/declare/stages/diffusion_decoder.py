"""LTX-2.5's diffusion video decoder, beside diffusers' class, which equals upstream's in one piece."""

from __future__ import annotations

from typing import Any

from ..inputs import normal
from ..model import Case, Counterparts, Data, FunctionTap, Loaded, Stage, section

_REF = "diffusers.models.autoencoders.ltx2_diffusion_decoder"
_OURS = "ltx2_mlx.diffusion_decoder"


def is_diffusion_vae(config: dict[str, Any]) -> bool:
    """True for a checkpoint whose video decoder is this one."""
    return bool(section(config, "vae").get("_class_name") == "CausalDiffusionVAE")


def cases(config: dict[str, Any]) -> dict[str, Case]:
    channels = config["vae"]["decoder"]["in_channels"]

    def latent(name: str, *shape: int) -> dict[str, Any]:
        return {"sample": Data(normal(f"diffuse {name}", shape[0], channels, *shape[1:]))}

    return {
        "base": Case(latent("base", 2, 3, 3, 5)),
        # Less than a window of the first stage along every axis: the edges are repeated, and the pixels cut. Ours alone
        # works in slabs, here of fewer frames than a window has.
        "small": Case(
            {"latent": latent("small", 1, 2, 2, 1)["sample"], "video_decoder": Loaded("video_decoder")},
            function="diffused_in_slabs",
            half=False,
            taps=("conv_in", "*VideoDecoder", "*randn", "*diffused_in_slabs"),
        ),
    }


IN_SLABS = Counterparts("parity.sides.torch:decoded_in_slabs", "parity.sides.mlx:diffused_in_slabs")


VIDEO_DECODER_25 = Stage(
    name="video_decoder_25",
    layout="video",
    component="video_decoder",
    reference="diffusers",
    fits=is_diffusion_vae,
    cases=cases,
    classes={"diffused_in_slabs": IN_SLABS},
    configs=("tiny-2.5-diffusion-vae",),
    functions=(
        FunctionTap("diffused_in_slabs", IN_SLABS),
        FunctionTap("randn", Counterparts(f"{_REF}:randn_tensor", f"{_OURS}:randn"), injected=True),
        FunctionTap(
            "project_qkv",
            Counterparts(
                f"{_REF}:LTX2VideoVaeNeighborhoodAttention.project_qkv", f"{_OURS}:NeighborhoodAttention3D.project_qkv"
            ),
        ),
    ),
    probes=("*norm1", "*norm2", "*q_norm", "*k_norm", "*norm_out"),
    defined=("*time_proj",),
)
