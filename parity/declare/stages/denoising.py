"""The steps around the transformer: noise, conditioning, masks, and whole denoising loops with injected predictions.

The loops ask a function that adds up all that it is told and a recorded target, so that every step depends on the one
before and nothing on a network; the pipelines show them with one. The calls that were made are outputs as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import DISTILLED_SIGMAS, normal, uniform
from ..model import Case, Counterparts, Data, Obj, Stage, Step

_ITEMS = (
    "VideoConditionByLatentIndex",
    "VideoConditionByKeyframeIndex",
    "VideoConditionByReferenceLatent",
    "ConditioningItemAttentionStrengthWrapper",
)
_LOOPS = ("euler_denoising_loop", "res2s_audio_video_denoising_loop")
CLASSES = {
    **{
        name: Counterparts(f"ltx_core.conditioning:{name}", f"ltx2_mlx.diffusion.conditioning:{name}")
        for name in _ITEMS
    },
    "TemporalRegionMask": Counterparts(
        "ltx_pipelines.retake:TemporalRegionMask", "ltx2_mlx.diffusion.conditioning:TemporalRegionMask"
    ),
    "downsampled": Counterparts(
        "ltx_pipelines.ic_lora:ICLoraPipeline._downsample_mask_to_latent",
        "ltx2_mlx.pipelines.ic_lora:downsample_mask_to_latent",
    ),
    "LatentState": Counterparts("ltx_core.types:LatentState", "ltx2_mlx.types:LatentState"),
    "VideoLatentShape": Counterparts("ltx_core.types:VideoLatentShape", "ltx2_mlx.types:VideoLatentShape"),
    "AudioLatentShape": Counterparts("ltx_core.types:AudioLatentShape", "ltx2_mlx.types:AudioLatentShape"),
    "VideoLatentTools": Counterparts(
        "ltx_core.tools:VideoLatentTools", "ltx2_mlx.diffusion.latent_state:VideoLatentTools"
    ),
    "AudioLatentTools": Counterparts(
        "ltx_core.tools:AudioLatentTools", "ltx2_mlx.diffusion.latent_state:AudioLatentTools"
    ),
    "VideoLatentPatchifier": Counterparts(
        "ltx_core.components.patchifiers:VideoLatentPatchifier", "ltx2_mlx.diffusion.patchifiers:VideoLatentPatchifier"
    ),
    "AudioPatchifier": Counterparts(
        "ltx_core.components.patchifiers:AudioPatchifier", "ltx2_mlx.diffusion.patchifiers:AudioPatchifier"
    ),
    "post_process_latent": Counterparts(
        "ltx_pipelines.utils.helpers:post_process_latent", "ltx2_mlx.diffusion.samplers:post_process_latent"
    ),
    "timesteps_from_mask": Counterparts(
        "ltx_pipelines.utils.helpers:timesteps_from_mask", "ltx2_mlx.diffusion.samplers:timesteps_from_mask"
    ),
    "get_res2s_coefficients": Counterparts(
        "ltx_pipelines.utils.res2s:get_res2s_coefficients", "ltx2_mlx.diffusion.samplers:get_res2s_coefficients"
    ),
    "noised": Counterparts("parity.sides.torch.loops:noised", "parity.sides.mlx:noised"),
    "res2s_step": Counterparts("parity.sides.torch.loops:res2s_step", "parity.sides.mlx:res2s_step"),
    **{
        name: Counterparts(f"parity.sides.torch.loops:{name}", f"parity.sides.mlx:{name}")
        for name in (*_LOOPS, "guided", "simple")
    },
    **{
        name: Counterparts(f"ltx_core.components.guiders:{name}", f"ltx2_mlx.diffusion.guiders:{name}")
        for name in (
            *("MultiModalGuiderParams", "MultiModalGuiderFactory.from_dict", "MultiModalGuiderFactory.constant"),
            "create_multimodal_guider_factory",
        )
    },
}

# Unequal sizes; the video's latent has 3 frames of 2x4.
_B, _C, _F, _H, _W = 2, 6, 3, 2, 4
_T = _F * _H * _W


def _video_tools(fps: float = 24.0) -> Obj:
    names = ("batch", "channels", "frames", "height", "width")
    shape = Obj("VideoLatentShape", dict(zip(names, (_B, _C, _F, _H, _W), strict=True)))
    patchifier = Obj("VideoLatentPatchifier", {"patch_size": 1})
    return Obj("VideoLatentTools", {"patchifier": patchifier, "target_shape": shape, "fps": fps})


def _audio_tools() -> Obj:
    shape = Obj("AudioLatentShape", dict(zip(("batch", "channels", "frames", "mel_bins"), (_B, 3, 18, 2), strict=True)))
    return Obj("AudioLatentTools", {"patchifier": Obj("AudioPatchifier", {"patch_size": 1}), "target_shape": shape})


def _state(name: str, tokens: int = _T, channels: int = _C, axes: int = 3, attention: bool = False) -> Obj:
    """A state in which every token has another mask, position and clean value."""
    mask = uniform(f"{name}:mask", _B, tokens, 1)
    for row in range(_B):
        mask[row, row::3], mask[row, row + 1 :: 3] = 0.0, 1.0  # kept, denoised, and in between
    fields = {
        "latent": Data(normal(f"{name}:latent", _B, tokens, channels)),
        "denoise_mask": Data(mask, "none"),
        "positions": Data(uniform(f"{name}:positions", _B, axes, tokens, 2)),
        "clean_latent": Data(normal(f"{name}:clean", _B, tokens, channels)),
    }
    if attention:
        fields["attention_mask"] = Data(uniform(f"{name}:attention", _B, tokens, tokens))
    return Obj("LatentState", fields)


def _latent(name: str, frames: int, height: int = _H, width: int = _W) -> Data:
    return Data(normal(name, _B, _C, frames, height, width))


def _items() -> tuple[Step, ...]:
    """Each kind of conditioning: equal positions, masks and tokens."""
    image, clip = _latent("image", 1), _latent("clip", 2)
    reference = _latent("reference", 3, 1, 2)
    items = {
        "replace.0": Obj("VideoConditionByLatentIndex", {"latent": image, "strength": 0.8, "latent_idx": 0}),
        "replace.1": Obj("VideoConditionByLatentIndex", {"latent": clip, "strength": 1.0, "latent_idx": 1}),
        "keyframe.0": Obj("VideoConditionByKeyframeIndex", {"keyframes": image, "frame_idx": 0, "strength": 0.8}),
        "keyframe.8": Obj("VideoConditionByKeyframeIndex", {"keyframes": image, "frame_idx": 8, "strength": 0.7}),
        "keyframe.13": Obj("VideoConditionByKeyframeIndex", {"keyframes": clip, "frame_idx": 13, "strength": 1.0}),
        "reference.1": Obj("VideoConditionByReferenceLatent", {"latent": clip, "strength": 0.9}),
        "reference.2": Obj("VideoConditionByReferenceLatent", {"latent": reference, "downscale_factor": 2}),
    }
    # Strengths at their ends and near them.
    for strength in (0.0, 0.05, 0.15, 1.0):
        fields = {"latent": image, "strength": strength, "latent_idx": 2}
        items[f"replace.by.{strength:g}"] = Obj("VideoConditionByLatentIndex", fields)
        fields = {"keyframes": clip, "strength": strength, "frame_idx": 5}
        items[f"keyframe.at.{strength:g}"] = Obj("VideoConditionByKeyframeIndex", fields)
        fields = {"latent": clip, "strength": strength, "downscale_factor": 3}
        items[f"reference.by.{strength:g}"] = Obj("VideoConditionByReferenceLatent", fields)
    strengths = {
        "scalar": 0.6,
        "none": 0.0,
        "little": 0.05,
        "full": 1.0,
        "each": Data(uniform("strengths", 16)),
        "row": Data(uniform("s", 1, 16)),
        "batch": Data(uniform("batch", _B, 16)),
    }
    for name, mask in strengths.items():
        fields = {"conditioning": items["keyframe.13"], "attention_mask": mask}
        items[f"strength.{name}"] = Obj("ConditioningItemAttentionStrengthWrapper", fields)
    steps = []
    for name, item in items.items():
        for masked in (False, True):
            for fps in (24.0, 29.97):
                kwargs = {"latent_state": _state(name, attention=masked), "latent_tools": _video_tools(fps)}
                steps.append(Step(f"{name}.{'masked' if masked else 'open'}.{fps:g}", item, kwargs, "apply_to"))
    # A second one behind a first: the two do not see each other.
    grown = {"latent_state": _state("grown", tokens=_T + 8, attention=True), "latent_tools": _video_tools()}
    steps += [Step(f"second.{name}", items[name], grown, "apply_to") for name in ("keyframe.8", "strength.scalar")]
    # The last one begins where tokens of both streams end.
    for start, end, fps in ((0.2, 0.5, 23.976), (0.0, 0.04, 23.976), (0.0, 0.0, 23.976), (0.25, 9.0, 36.0)):
        region = Obj("TemporalRegionMask", {"start_time": start, "end_time": end, "fps": fps})
        video = {"latent_state": _state("region"), "latent_tools": _video_tools(50.0)}
        audio = {"latent_state": _state("audio", 18, 6, 1), "latent_tools": _audio_tools()}
        steps.append(Step(f"region.video.{start:g}-{end:g}", region, video, "apply_to"))
        steps.append(Step(f"region.audio.{start:g}-{end:g}", region, audio, "apply_to"))
    return tuple(steps)


def _masks() -> tuple[Step, ...]:
    steps = [
        Step(
            f"post_process.{name}",
            "post_process_latent",
            {key: _state(name).fields[key] for key in ("denoise_mask",)}
            | {"denoised": Data(normal(name, _B, _T, _C)), "clean": _state(name).fields["clean_latent"]},
            exact=False,
        )
        for name in ("first", "second")
    ]
    for sigma in (*DISTILLED_SIGMAS, 0.1, 0.0):
        mask = _state(f"timesteps:{sigma}").fields["denoise_mask"]
        steps.append(Step(f"timesteps.{sigma:g}", "timesteps_from_mask", {"denoise_mask": mask, "sigma": sigma}))
    mask = Data(uniform("pixels", 1, 1, 17, 4, 6), "none")
    shape = Obj("VideoLatentShape", {"batch": 1, "channels": _C, "frames": 3, "height": 2, "width": 3})
    steps.append(
        Step(
            "downsampled",
            "downsampled",
            {"mask": mask},
            on_reference={"target_latent_shape": shape},
            on_ours={"size": (3, 2, 3)},
            exact=False,
        )
    )
    return tuple(steps)


def _noise() -> tuple[Step, ...]:
    steps = []
    for scale in (1.0, 0.909375, 0.13, 0.0):
        kwargs = {"noise": Data(normal(f"noise:{scale}", _B, _T, _C)), "state": _state(f"noised:{scale}")}
        steps.append(Step(f"gaussian.{scale:g}", "noised", kwargs | {"scale": scale}, exact=False))
    return tuple(steps)


def _res2s() -> tuple[Step, ...]:
    """Coefficients to the last bit; steps with float32 sigmas (a whole step) and float64 ones (half a step)."""
    steps = [Step(f"coefficients.{h:g}", "get_res2s_coefficients", {"h": h}) for h in (1e-3, 0.2, 0.49, 0.6, 3.0)]
    for h in steps:
        h.on_reference["phi_cache"] = {}
    keys = {"sample": "res2s:x", "denoised": "res2s:x0", "noise": "res2s:noise"}
    latents = {name: Data(normal(key, _B, _T, _C).astype(np.float64), "none") for name, key in keys.items()}
    for dtype in (np.float32, np.float64):
        for i, pair in enumerate(((1.0, 0.9), (0.7, 0.42), (0.42, 0.0011), (0.3, 0.0))):
            sigmas = Data(np.array(pair, dtype=dtype), "none")
            steps.append(Step(f"step.{dtype.__name__}.{i}", "res2s_step", latents | {"sigmas": sigmas}, exact=False))
    return tuple(steps)


def _loops() -> tuple[Step, ...]:
    steps = []
    # Short steps on both sides of each bound that the second-order sampler has.
    short = (1.0, 0.8, 0.6, 0.4, 0.2, 0.15, 0.028, 0.025, 0.0)
    schedules = {"distilled": (*DISTILLED_SIGMAS, 0.0), "short": short}
    for name in _LOOPS:
        for schedule, sigmas in schedules.items():
            kwargs = {
                "sigmas": Data(np.array(sigmas, np.float32), "none"),
                "video": _state(f"{name}:video", attention=schedule == "short"),
                "audio": _state(f"{name}:audio", 18, 5, 1),
                "targets": (Data(normal("loop:video", _B, _T, _C)), Data(normal("loop:audio", _B, 18, 5))),
                "noise": [
                    Data(normal(f"{name}:{schedule}:{i}", _B, *((_T, _C) if i % 2 == 0 else (18, 5))), "none")
                    for i in range(4 * len(sigmas) if name.startswith("res2s") else 0)
                ],
            }
            steps.append(Step(f"{name}.{schedule}", name, kwargs, exact=False))
    return tuple(steps)


def _context(name: str, channels: int, tokens: int = 7) -> Data:
    return Data(normal(f"context:{name}", _B, tokens, channels))


def _even(*levels: float, uneven: bool = False) -> Obj:
    """A state of the audio whose samples have one mask value each; ``uneven``: but for the last sample."""
    state = _state("even", 18, 5, 1)
    mask = np.repeat(np.array(levels, np.float32)[:, None, None], 18, axis=1)
    if uneven:
        mask[-1, 1::2] = 0.2
    return Obj("LatentState", state.fields | {"denoise_mask": Data(mask, "none")})


def _guidance() -> tuple[Step, ...]:
    """Which passes a step makes, with what, and what becomes of them, of a network that adds up what it is told."""
    full = {"cfg_scale": 3.0, "stg_scale": 1.0, "stg_blocks": [1], "rescale_scale": 0.7, "modality_scale": 3.0}
    text = {"cfg_scale": 4.0}
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "full": (full, full | {"cfg_scale": 7.0, "stg_blocks": [0, 2]}),
        "text": (text, {"cfg_scale": 1.0}),
        "perturbed": ({"stg_scale": 0.5, "stg_blocks": None}, {}),
        "modality": ({}, {"modality_scale": 2.0}),
        "none": ({}, {}),
        "skipped": (full | {"skip_step": 1}, full | {"skip_step": 2}),
        # Scales that mean something else than "none" at 0 and below, and lists of no block.
        "zero": ({"cfg_scale": 0.0, "modality_scale": 0.0}, {"cfg_scale": 0.0, "rescale_scale": 1.0}),
        "negative": ({"cfg_scale": -1.5, "stg_scale": -0.5, "stg_blocks": [2]}, {"modality_scale": -2.0}),
        "no block": ({"stg_scale": 1.0, "stg_blocks": []}, {"stg_scale": 2.0, "stg_blocks": []}),
        "rescaled": ({"rescale_scale": 0.5}, {"cfg_scale": 1.0 + 1e-4, "rescale_scale": 0.0}),
    }
    shared = {
        "sigmas": Data(np.array((1.0, 0.9, 0.7, 0.5, 0.2, 0.0), np.float32), "none"),
        "video": _state("guided:video"),
        "audio": _state("guided:audio", 18, 5, 1),
        "v_context": _context("video", _C),
        "a_context": _context("audio", 5, 9),
    }
    negative = (_context("negative video", _C, 4), _context("negative audio", 5, 3))
    steps = [
        Step("simple", "simple", shared, exact=False),
        Step("simple.masked", "simple", shared | {"video": _state("masked", attention=True)}, exact=False),
        Step("simple.even", "simple", shared | {"audio": _even(0.4, 0.4)}, exact=False),
        Step("simple.half even", "simple", shared | {"audio": _even(0.4, 0.7, uneven=True)}, exact=False),
        Step("simple.even rows", "simple", shared | {"audio": _even(1.0, 0.25)}, exact=False),
    ]
    for name, params in kinds.items():
        contexts = (negative[0], None) if name == "text" else negative
        constant = [
            Obj("MultiModalGuiderFactory.constant", {"params": Obj("MultiModalGuiderParams", p), "negative_context": c})
            for p, c in zip(params, contexts, strict=True)
        ]
        steps.append(Step(f"guided.{name}", "guided", shared | {"factories": tuple(constant)}, exact=False))
    bins = {1.0: Obj("MultiModalGuiderParams", full), 0.6: Obj("MultiModalGuiderParams", text)}
    # As a pipeline takes them: one that lacks the negative context gets it, one that has another keeps or changes it.
    given = ((None, negative[0]), (_context("other audio", 5, 3), None), (_context("other audio", 5, 3), negative[1]))
    made = tuple(
        Obj(
            "create_multimodal_guider_factory",
            {
                "params": Obj("MultiModalGuiderFactory.from_dict", {"sigma_to_params": bins, "negative_context": own}),
                "negative_context": put,
            },
        )
        for own, put in given
    )
    factories = made[:2]
    steps.append(Step("guided.put", "guided", shared | {"factories": (made[0], made[2])}, exact=False))
    steps.append(Step("guided.bins", "guided", shared | {"factories": factories}, exact=False))
    return tuple(steps)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    return {
        "conditioning": Case(steps=_items()),
        "masks": Case(steps=_masks(), half=False),
        "noise": Case(steps=_noise()),
        "res2s": Case(steps=_res2s(), half=False),
        "loops": Case(steps=_loops()),
        "guidance": Case(steps=_guidance()),
    }


DENOISING = Stage(name="denoising", component=None, cases=cases, classes=CLASSES, configs=("any",))
