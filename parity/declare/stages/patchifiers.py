"""Tokens and positions: layout and integer work, equal to the reference's."""

from __future__ import annotations

from typing import Any

from ..inputs import normal
from ..model import Case, Counterparts, Data, DType, Obj, Stage, Step

_REF, _OURS = "ltx_core.components.patchifiers", "ltx2_mlx.diffusion.patchifiers"
_NAMES = {
    (_REF, _OURS): ("VideoLatentPatchifier", "AudioPatchifier", "get_pixel_coords"),
    ("ltx_core.types", "ltx2_mlx.types"): (
        "VideoLatentShape",
        "AudioLatentShape",
        "VideoPixelShape",
        "SpatioTemporalScaleFactors",
    ),
    ("ltx_core.tools", "ltx2_mlx.diffusion.latent_state"): ("VideoLatentTools", "AudioLatentTools"),
}
CLASSES = {
    name: Counterparts(f"{reference}:{name}", f"{ours}:{name}")
    for (reference, ours), names in _NAMES.items()
    for name in names
}
CLASSES |= {
    f"{cls}.{name}": Counterparts(f"ltx_core.types:{cls}.{name}", f"ltx2_mlx.types:{cls}.{name}")
    for cls, name in (
        ("VideoLatentShape", "from_pixel_shape"),
        ("AudioLatentShape", "from_duration"),
        ("AudioLatentShape", "from_video_pixel_shape"),
    )
}


def _video(*shape: int) -> Obj:
    return Obj("VideoLatentShape", dict(zip(("batch", "channels", "frames", "height", "width"), shape, strict=True)))


def _audio(*shape: int) -> Obj:
    return Obj("AudioLatentShape", dict(zip(("batch", "channels", "frames", "mel_bins"), shape, strict=True)))


def _patchifiers() -> tuple[Step, ...]:
    steps = []
    for patch, shape in ((1, (2, 7, 3, 2, 5)), (2, (2, 3, 3, 4, 6))):
        patchifier = Obj("VideoLatentPatchifier", {"patch_size": patch})
        latent = normal(f"patchify:{patch}", *shape)
        tokens = normal(
            f"unpatchify:{patch}", shape[0], shape[2] * shape[3] * shape[4] // patch**2, shape[1] * patch**2
        )
        steps += [
            Step(f"video.patchify.{patch}", patchifier, {"latents": Data(latent)}, "patchify"),
            Step(
                f"video.unpatchify.{patch}",
                patchifier,
                {"latents": Data(tokens), "output_shape": _video(*shape)},
                "unpatchify",
            ),
            Step(f"video.bounds.{patch}", patchifier, {"output_shape": _video(*shape)}, "get_patch_grid_bounds"),
            Step(f"video.token_count.{patch}", patchifier, {"tgt_shape": _video(*shape)}, "get_token_count"),
        ]
    rates = {"sample_rate": 12000, "hop_length": 125, "audio_latent_downsample_factor": 3}
    for causal, shift, other in ((True, 0, {}), (True, 3, {}), (False, 2, {}), (True, 1, rates), (False, 0, rates)):
        patchifier = Obj("AudioPatchifier", {"patch_size": 1, "is_causal": causal, "shift": shift, **other})
        audio, name = (2, 3, 709, 5), f"{'causal' if causal else 'centred'}.{shift}"  # 28 s
        latent, tokens = normal(f"audio:{name}", *audio), normal(f"audio tokens:{name}", 2, 709, 15)
        steps += [
            Step(f"audio.patchify.{name}", patchifier, {"audio_latents": Data(latent)}, "patchify"),
            Step(
                f"audio.unpatchify.{name}",
                patchifier,
                {"audio_latents": Data(tokens), "output_shape": _audio(*audio)},
                "unpatchify",
            ),
            Step(f"audio.bounds.{name}", patchifier, {"output_shape": _audio(*audio)}, "get_patch_grid_bounds"),
            Step(f"audio.token_count.{name}", patchifier, {"tgt_shape": _audio(*audio)}, "get_token_count"),
        ]
    return tuple(steps)


def _states() -> tuple[Step, ...]:
    """Initial states as the pipelines make them: tokens, masks and positions, at several frame rates and dtypes."""
    steps = []

    def video(name: str, size: tuple[int, ...], dtype: DType, **settings: Any) -> Step:
        patchifier = Obj("VideoLatentPatchifier", {"patch_size": 1})
        target = Obj("VideoLatentTools", {"patchifier": patchifier, "target_shape": _video(*size), **settings})
        kwargs = {"dtype": dtype, "initial_latent": Data(normal(name, *size))}
        return Step(name, target, kwargs, "create_initial_state", on_reference={"device": "cpu"})

    for fps in (24.0, 25.0, 29.97, 50.0):
        for causal in (True, False):
            for dtype in (DType.FLOAT32, DType.BFLOAT16):
                name = f"video.positions.{fps:g}.{'causal' if causal else 'plain'}.{dtype.value}"
                steps.append(video(name, (2, 5, 16, 2, 3), dtype, fps=fps, causal_fix=causal))
    # 23 s at 25 frames a second; 10,000 cells, of which the last lies at pixel 12,800; other scales along each axis.
    steps.append(video("video.long", (1, 3, 73, 3, 2), DType.FLOAT32, fps=25.0))
    steps.append(video("video.wide", (1, 1, 1, 25, 400), DType.FLOAT32, fps=30.0))
    scale = Obj("SpatioTemporalScaleFactors", {"time": 4, "width": 16, "height": 24})
    steps.append(video("video.scaled", (2, 3, 5, 4, 3), DType.FLOAT32, fps=23.976, scale_factors=scale))
    fields = {"patchifier": Obj("AudioPatchifier", {"patch_size": 1}), "target_shape": _audio(2, 3, 709, 5)}
    for dtype in (DType.FLOAT32, DType.BFLOAT16):
        target, name = Obj("AudioLatentTools", fields), f"audio.positions.{dtype.value}"
        kwargs = {"dtype": dtype, "initial_latent": Data(normal(name, 2, 3, 709, 5))}
        steps.append(Step(name, target, kwargs, "create_initial_state", on_reference={"device": "cpu"}))
    for factors in ((8, 32, 32), (4, 16, 24)):
        scale = Obj("SpatioTemporalScaleFactors", dict(zip(("time", "width", "height"), factors, strict=True)))
        coords = Data((normal("coords", 2, 3, 11, 2) * 40).astype("int64"), "none")
        arguments = {"latent_coords": coords, "scale_factors": scale, "causal_fix": True}
        steps.append(Step(f"get_pixel_coords.{factors[1]}", "get_pixel_coords", arguments))
    return tuple(steps)


def _shapes() -> tuple[Step, ...]:
    """Token counts over sizes and durations; durations that end on half a latent frame tell round from ceil."""
    steps = []
    for frames, height, width in ((1, 64, 96), (9, 512, 768), (121, 1024, 1536), (17, 100, 70)):
        shape = Obj("VideoPixelShape", {"batch": 1, "frames": frames, "height": height, "width": width, "fps": 24.0})
        steps.append(Step(f"latent_shape.{frames}", "VideoLatentShape.from_pixel_shape", {"shape": shape}))
    factors = Obj("SpatioTemporalScaleFactors", {"time": 4, "width": 16, "height": 24})
    other: dict[str, Any] = {
        "shape": Obj("VideoPixelShape", {"batch": 3, "frames": 33, "height": 240, "width": 96, "fps": 50.0})
    }
    other |= {"latent_channels": 7, "scale_factors": factors}
    steps.append(Step("latent_shape.scaled", "VideoLatentShape.from_pixel_shape", other))
    steps.append(Step("upscaled", _video(2, 7, 5, 4, 3), {"scale_factors": factors}, "upscale"))
    for frames, fps in ((121, 24.0), (97, 25.0), (33, 30.0), (9, 29.97), (57, 24.0)):
        shape = Obj("VideoPixelShape", {"batch": 1, "frames": frames, "height": 64, "width": 64, "fps": fps})
        steps.append(Step(f"audio_shape.{frames}.{fps:g}", "AudioLatentShape.from_video_pixel_shape", {"shape": shape}))
    shape = Obj("VideoPixelShape", {"batch": 2, "frames": 1201, "height": 64, "width": 96, "fps": 23.976})
    own = {"shape": shape, "channels": 3, "mel_bins": 5}
    steps.append(Step("audio_shape.own", "AudioLatentShape.from_video_pixel_shape", own))
    own = {"batch": 3, "duration": 7.37, "channels": 3, "mel_bins": 5, "sample_rate": 12000, "hop_length": 125}
    own |= {"audio_latent_downsample_factor": 3}
    steps.append(Step("audio_duration.own", "AudioLatentShape.from_duration", own))
    for tenths in range(1, 60, 7):
        kwargs = {"batch": 1, "duration": tenths / 50}
        steps.append(Step(f"audio_duration.{tenths}", "AudioLatentShape.from_duration", kwargs))
    return tuple(steps)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    return {
        "patchifiers": Case(steps=_patchifiers(), half=False),
        "states": Case(steps=_states(), half=False),
        "shapes": Case(steps=_shapes(), half=False),
    }


PATCHIFIERS = Stage(name="patchifiers", component=None, cases=cases, classes=CLASSES, configs=("any",))
