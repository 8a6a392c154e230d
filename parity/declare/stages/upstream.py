"""What upstream computes otherwise than 1.0.0, and what it has new around the transformer of LTX-2.5.

No package that can be installed here has it. So the reference is each formula, written by itself in
``parity/sides/torch/upstream.py``; a test compares the ancestral step with diffusers' as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import DISTILLED_SIGMAS, normal, uniform
from ..model import Case, Counterparts, Data, DType, Obj, Stage, Step

_STEPS = (
    "ancestral_coefficients",
    "ancestral_step",
    "euler_ancestral_denoising_loop",
    "video_positions",
    "with_keyframe",
    "with_replaced",
    "with_reference",
    "noise_interpolated",
    "guidance_in_float32",
    "frozen_stream",
    "of_version",
    "wired",
)
CLASSES = {
    name: Counterparts(f"parity.sides.torch.upstream:{name}", f"parity.sides.mlx_upstream:{name}") for name in _STEPS
}
CLASSES["LatentState"] = Counterparts("ltx_core.types:LatentState", "ltx2_mlx.types:LatentState")

# Unequal sizes; the video's latent has 3 frames of 2x4.
_B, _C, _F, _H, _W = 2, 6, 3, 2, 4
_T = _F * _H * _W
_SCHEDULE = np.array([*DISTILLED_SIGMAS, 0.0], np.float32)


def _state(name: str, tokens: int = _T, channels: int = _C, axes: int = 3, kept: bool = False) -> Obj:
    """A state in which every token has another mask, position and clean value. kept: a mask of zeros."""
    mask = uniform(f"{name}:mask", _B, tokens, 1) * (not kept)
    for row in range(0 if kept else _B):
        mask[row, row::3], mask[row, row + 1 :: 3] = 0.0, 1.0  # kept, denoised, and in between
    fields = {
        "latent": Data(normal(f"{name}:latent", _B, tokens, channels)),
        "denoise_mask": Data(mask.astype(np.float32), "none"),
        "positions": Data(uniform(f"{name}:positions", _B, axes, tokens, 2), "none"),
        "clean_latent": Data(normal(f"{name}:clean", _B, tokens, channels)),
    }
    return Obj("LatentState", fields)


def _ancestral() -> tuple[Step, ...]:
    steps = []
    for eta, factor in ((1.0, 1.0), (0.5, 1.0), (0.25, 0.8)):
        for index in range(len(_SCHEDULE) - 2):
            kwargs: dict[str, Any] = {"sigmas": Data(_SCHEDULE, "none"), "index": index, "eta": eta}
            name = f"{eta:g}.{index}"
            asked = kwargs | {"like": Data(np.ones(1, np.float32))}
            steps.append(Step(f"coefficients.{name}", "ancestral_coefficients", asked, exact=False))
            latents = {
                part: Data(normal(f"ancestral:{part}:{name}", 2, 7, 5), "lane" if part == "noise" else "model")
                for part in ("sample", "denoised", "noise")
            }
            steps.append(Step(f"step.{name}", "ancestral_step", kwargs | latents | {"s_noise": factor}, exact=False))
    return tuple(steps)


def _loops() -> tuple[Step, ...]:
    """Whole loops; the draws are compared by their number, order, shape and dtype."""
    steps = []
    for name, sigmas in {"distilled": _SCHEDULE, "short": np.array((0.9, 0.6, 0.3, 0.0), np.float32)}.items():
        kwargs = {
            "sigmas": Data(sigmas, "none"),
            "video": _state(f"ancestral:video:{name}"),
            "audio": _state(f"ancestral:audio:{name}", 18, 5, 1),
            "targets": (Data(normal("loop:video", _B, _T, _C)), Data(normal("loop:audio", _B, 18, 5))),
            "noise": [
                Data(normal(f"ancestral:{name}:{i}", _B, *((_T, _C) if i % 2 == 0 else (18, 5))), "lane")
                for i in range(2 * len(sigmas))
            ],
        }
        steps.append(Step(f"loop.{name}", "euler_ancestral_denoising_loop", kwargs, exact=False))
    return tuple(steps)


def _positions() -> tuple[Step, ...]:
    return tuple(
        Step(
            f"positions.{fps:g}.{'x'.join(map(str, size))}",
            "video_positions",
            {"size": (_B, _C, *size), "fps": fps, "dtype": DType.LANE},
        )
        for fps in (24.0, 29.97, 50.0)
        for size in ((3, 2, 4), (1, 3, 2), (16, 2, 2))
    )


def _keyframes() -> tuple[Step, ...]:
    """Conditions of each kind: where they lie, what noise will be added to, and which tokens are marked."""
    steps = []
    for fps in (24.0, 29.97):
        for frames, at in ((1, 0), (1, 8), (1, 13), (2, 0), (2, 5)):
            for strength in (1.0, 0.7):
                kwargs = {
                    "state": _state(f"keyframe:{frames}:{at}"),
                    "latent": Data(normal(f"keyframe:{frames}", _B, _C, frames, _H, _W)),
                    "frame_idx": at,
                    "strength": strength,
                    "size": (_B, _C, _F, _H, _W),
                    "fps": fps,
                }
                name = f"keyframe.{frames}.{at}.{strength:g}.{fps:g}"
                steps.append(Step(name, "with_keyframe", kwargs, exact=False))
    for frames, at in ((1, 0), (2, 1)):
        kwargs = {
            "state": _state(f"replaced:{at}"),
            "latent": Data(normal(f"replaced:{at}", _B, _C, frames, _H, _W)),
            "latent_idx": at,
            "strength": 0.8,
            "size": (_B, _C, _F, _H, _W),
        }
        steps.append(Step(f"replaced.{at}", "with_replaced", kwargs, exact=False))
    kwargs = {
        "state": _state("reference"),
        "latent": Data(normal("reference", _B, _C, 3, 1, 2)),
        "factor": 2,
        "strength": 0.9,
        "size": (_B, _C, _F, _H, _W),
        "fps": 29.97,
    }
    steps.append(Step("reference", "with_reference", kwargs, exact=False))
    return tuple(steps)


def _noise() -> tuple[Step, ...]:
    steps = []
    for scale in (1.0, 0.909375, 0.13, 0.0):
        noise = Data(normal(f"interpolated:{scale}", _B, _T, _C), "lane")
        kwargs = {"noise": noise, "state": _state(f"interpolated:{scale}"), "scale": scale}
        steps.append(Step(f"noised.{scale:g}", "noise_interpolated", kwargs, exact=False))
    return tuple(steps)


def _guidance() -> tuple[Step, ...]:
    shape = (2, 9, 13)
    cond = normal("upstream:cond", *shape) + np.float32(0.7)
    passes = {
        name: Data(cond + normal(f"upstream:{name}", *shape, scale=0.3))
        for name in ("uncond_text", "uncond_perturbed", "uncond_modality")
    }
    steps = []
    for name, scales in {
        "default": {"cfg_scale": 3.0, "stg_scale": 1.0, "rescale_scale": 0.7, "modality_scale": 3.0},
        "audio": {"cfg_scale": 7.0, "stg_scale": 1.0, "rescale_scale": 1.0, "modality_scale": 3.0},
        "text": {"cfg_scale": 4.0},
    }.items():
        kwargs = {"scales": scales, "cond": Data(cond), **passes}
        steps.append(Step(f"guided.{name}", "guidance_in_float32", kwargs, exact=False))
    # Two terms that nearly cancel, so that their rounding shows in the sum.
    near = Data(passes["uncond_text"].values + normal("upstream:near", *shape, scale=0.01))
    kwargs = {"scales": {"cfg_scale": 41.0, "modality_scale": -38.0}, "cond": Data(cond), **passes}
    steps.append(Step("guided.cancelling", "guidance_in_float32", kwargs | {"uncond_modality": near}, exact=False))
    return tuple(steps)


def _frozen() -> tuple[Step, ...]:
    """What a network is told of a stream that is given and stays, beside one that is denoised."""
    kwargs = {
        "sigmas": Data(np.array((1.0, 0.7, 0.2), np.float32), "none"),
        "video": _state("frozen:video"),
        "audio": _state("frozen:audio", 18, 5, 1, kept=True),
        "v_context": Data(normal("frozen:v", _B, 7, _C)),
        "a_context": Data(normal("frozen:a", _B, 7, 5)),
        "marks": Data(uniform("frozen:marks", _B, _T, 1).round(), "none"),
    }
    return (Step("frozen", "frozen_stream", kwargs, exact=False),)


_VERSIONS = ("2.0", "2.0.1", "2.3.0", "2.3.7-rc1", "2.4.0", "2.5.0", "2.5-rc", "2.10.0", "3.0")
_RECIPES = (
    *("distilled", "ti2vid_one_stage", "ti2vid_two_stages", "ti2vid_two_stages_hq", "keyframe_interpolation"),
    *("a2vid_two_stage", "ic_lora", "retake"),
)


def _choices() -> tuple[Step, ...]:
    """What each version has as defaults, and what each pipeline makes of a version and a behaviour."""
    steps = []
    for version in _VERSIONS:
        for asked in (None, "1.0.0", "upstream"):
            kwargs = {"version": version, "behaviour": asked}
            steps.append(Step(f"version.{version}.{asked or 'default'}", "of_version", kwargs))
    for recipe in _RECIPES:
        for version, asked in (("2.3.0", None), ("2.3.0", "upstream"), ("2.5.0", None), ("2.5.0", "1.0.0")):
            chosen: dict[str, Any] = {"recipe": recipe, "version": version, "behaviour": asked, "seed": 271}
            steps.append(Step(f"wired.{recipe}.{version}.{asked or 'default'}", "wired", chosen))
    return tuple(steps)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    return {
        "ancestral": Case(steps=_ancestral()),
        "loops": Case(steps=_loops()),
        "positions": Case(steps=_positions()),
        "keyframes": Case(steps=_keyframes()),
        "noise": Case(steps=_noise()),
        "guidance": Case(steps=_guidance()),
        "frozen": Case(steps=_frozen()),
        "choices": Case(steps=_choices(), half=False),
    }


UPSTREAM = Stage(name="upstream", component=None, reference="formulas", cases=cases, classes=CLASSES, configs=("any",))
