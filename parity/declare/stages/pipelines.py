"""The pipelines, whole: what each is given, and what it is compared by on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import seed
from ..model import Arguments, Counterparts, Data, Files, Obj, Pipeline, Watch

PROMPTS = ("A red fox walks through fresh snow; the camera follows, wind hums.", "Rain on a tin roof, far thunder.")
NEGATIVES = ("blurry, low quality, static", "a crowd, text")
FRAMES, RATES, SEEDS, SIZES = (17, 9), (25.0, 29.97), (11, 2**31 + 5), ((128, 192), (192, 128))

_CORE, _OURS = "ltx_core", "ltx2_mlx"


def enhanced(prompt: str, image_path: Any = None, seed: int = 0, **other: Any) -> str:
    """In place of Gemma's answer, which torch's own random numbers choose: a text that depends on the same things."""
    return f"{prompt} Like {Path(image_path).name}." if image_path else f"{prompt} {seed}"


WATCHES = (
    Watch(
        "enhance",
        Counterparts("ltx_pipelines.utils.helpers:generate_enhanced_prompt", f"{_OURS}.pipelines.stages:enhanced"),
        one_sided=dict.fromkeys(
            ("image_long_side", "gemma_root", "max_tokens", "temperature", "system_prompt"), "how Gemma is run"
        ),
        instead=enhanced,
    ),
    Watch(
        "text",
        Counterparts(
            f"{_CORE}.text_encoders.gemma.embeddings_processor:EmbeddingsProcessor.process_hidden_states",
            f"{_OURS}.text.embeddings:EmbeddingsProcessor.process_hidden_states",
        ),
        {"attention_mask": "mask"},
        {"video": "video_encoding", "audio": "audio_encoding"},
    ),
    Watch(
        "video_encoder",
        Counterparts(
            f"{_CORE}.model.video_vae.video_vae:VideoEncoder.forward", f"{_OURS}.video_vae:VideoEncoder.__call__"
        ),
        {"sample": "in"},
        {"out": ""},
    ),
    Watch(
        "audio_encoder",
        Counterparts(
            f"{_CORE}.model.audio_vae.audio_vae:AudioEncoder.forward", f"{_OURS}.audio_vae:AudioEncoder.__call__"
        ),
        {"spectrogram": "mel"},
        {"out": ""},
    ),
    Watch(
        "noiser",
        Counterparts(
            f"{_CORE}.components.noisers:GaussianNoiser.__call__", f"{_OURS}.diffusion.noisers:GaussianNoiser.__call__"
        ),
        {
            "latent_state.latent": "latent",
            "latent_state.clean_latent": "clean",
            "latent_state.denoise_mask": "mask",
            "latent_state.positions": "positions",
            "latent_state.attention_mask": "attention",
        },
        {"out": "latent"},
    ),
    Watch(
        "x0",
        Counterparts(f"{_CORE}.model.transformer.model:X0Model.forward", f"{_OURS}.transformer:X0Model.__call__"),
        outputs={"video": "0", "audio": "1"},
    ),
    Watch(
        "step",
        Counterparts(
            f"{_CORE}.components.diffusion_steps:EulerDiffusionStep.step",
            f"{_OURS}.diffusion.diffusion_steps:EulerDiffusionStep.step",
        ),
        {"denoised_sample": "denoised"},
        {"out": ""},
    ),
    Watch(
        "sde_step",
        Counterparts(
            f"{_CORE}.components.diffusion_steps:Res2sDiffusionStep.step",
            f"{_OURS}.diffusion.diffusion_steps:Res2sDiffusionStep.step",
        ),
        {"denoised_sample": "denoised", "noise": "noise"},
        {"out": ""},
    ),
    Watch(
        "video_latent",
        Counterparts(
            f"{_CORE}.tools:VideoLatentTools.unpatchify", f"{_OURS}.diffusion.latent_state:VideoLatentTools.unpatchify"
        ),
        {"latent_state.latent": "in"},
        {"out": "latent"},
        {"state": "latent_state"},
    ),
    Watch(
        "audio_latent",
        Counterparts(
            f"{_CORE}.tools:AudioLatentTools.unpatchify", f"{_OURS}.diffusion.latent_state:AudioLatentTools.unpatchify"
        ),
        {"latent_state.latent": "in"},
        {"out": "latent"},
        {"state": "latent_state"},
    ),
    Watch(
        "upsampler",
        Counterparts(
            f"{_CORE}.model.upsampler.model:LatentUpsampler.forward", f"{_OURS}.upsampler:LatentUpsampler.__call__"
        ),
        {"latent": "in"},
        {"out": ""},
    ),
    Watch(
        "video_decoder",
        Counterparts(
            f"{_CORE}.model.video_vae.video_vae:VideoDecoder.forward", f"{_OURS}.video_vae:VideoDecoder.__call__"
        ),
        {"sample": "in"},
        {"out": ""},
    ),
    Watch(
        "audio_decoder",
        Counterparts(
            f"{_CORE}.model.audio_vae.audio_vae:AudioDecoder.forward", f"{_OURS}.audio_vae:AudioDecoder.__call__"
        ),
        {"sample": "in"},
        {"mel": ""},
    ),
)
CLASSES = {
    "Lora": Counterparts("parity.sides.torch.pipelines:lora", f"{_OURS}.loading.lora:LoraPathStrength"),
    "Image": Counterparts("ltx_pipelines.utils.args:ImageConditioningInput", f"{_OURS}.types:ImageConditioningInput"),
    "Guidance": Counterparts(
        f"{_CORE}.components.guiders:MultiModalGuiderParams", f"{_OURS}.diffusion.guiders:MultiModalGuiderParams"
    ),
    "Tiling": Counterparts(f"{_CORE}.model.video_vae:TilingConfig", f"{_OURS}.tiling:TilingConfig"),
    "Space": Counterparts(f"{_CORE}.model.video_vae:SpatialTilingConfig", f"{_OURS}.tiling:SpatialTilingConfig"),
    "Time": Counterparts(f"{_CORE}.model.video_vae:TemporalTilingConfig", f"{_OURS}.tiling:TemporalTilingConfig"),
}
# Two tiles or more along time and both sides of 128 × 192 pixels, and along one side of the other size.
TILES = tuple(
    Obj(
        "Tiling",
        {
            "spatial_config": Obj("Space", {"tile_size_in_pixels": size, "tile_overlap_in_pixels": 32}),
            "temporal_config": Obj("Time", {"tile_size_in_frames": 16, "tile_overlap_in_frames": 8}),
        },
    )
    for size in (96, 128)
)


def lora(path: Any, strength: float) -> Obj:
    return Obj("Lora", {"path": str(path), "strength": strength})


def guidance(cfg: float, **other: Any) -> Obj:
    """Every kind of guidance at once: four calls of the transformer a step."""
    fields = {"stg_scale": 1.0, "rescale_scale": 0.7, "modality_scale": 3.0, "stg_blocks": [1], "skip_step": 0}
    return Obj("Guidance", {"cfg_scale": cfg, **fields, **other})


def image(f: Files, index: int, frame: int, strength: float, crf: int = 33) -> Obj:
    return Obj("Image", {"path": str(f.images[index]), "frame_idx": frame, "strength": strength, "crf": crf})


def both_ends(f: Files) -> list[Obj]:
    """The first frame, kept, as H.264 of 33; the last one, nearly kept and as it is in the file."""
    return [image(f, 0, 0, 1.0), image(f, 1, 16, 0.8, 0)]


def barely(f: Files) -> list[Obj]:
    """One image that hardly counts."""
    return [image(f, 1, 0, 0.1, 20)]


def three(f: Files) -> list[Obj]:
    """One in the middle, one without any strength, one that is there twice."""
    return [image(f, 0, 5, 0.15, 28), image(f, 1, 8, 0.0, 10), image(f, 1, 0, 0.9, 10)]


def _paths(f: Files, *names: str) -> dict[str, str]:
    known = {
        "checkpoint_path": f.checkpoint,
        "distilled_checkpoint_path": f.checkpoint,
        "gemma_root": f.gemma,
        "spatial_upsampler_path": f.upsampler,
    }
    return {name: str(known[name]) for name in ("gemma_root", *names)}


def _loras(f: Files) -> list[Obj]:
    """One; two, of which one takes away and one has no strength."""
    return ([lora(f.lora, 0.7)], [lora(f.lora, -0.4), lora(f.ic_lora, 0.0)])[f.variant]


def _distilled_files(f: Files) -> dict[str, Any]:
    paths = _paths(f, "distilled_checkpoint_path", "spatial_upsampler_path")
    return {**paths, "loras": _loras(f)}


def _one_stage_files(f: Files) -> dict[str, Any]:
    return {**_paths(f, "checkpoint_path"), "loras": ([lora(f.lora, 0.7)], [lora(f.ic_lora, -0.4)])[f.variant]}


def _two_stage_files(f: Files) -> dict[str, Any]:
    distilled = (lora(f.distilled_lora, 0.9), lora(f.ic_lora, 1.3))[f.variant]
    both = {"distilled_lora": [distilled], "loras": _loras(f)}
    return {**_paths(f, "checkpoint_path", "spatial_upsampler_path"), **both}


def _hq_files(f: Files) -> dict[str, Any]:
    first, second = ((0.2, 0.6), (0.7, 0.0))[f.variant]
    strengths = {"distilled_lora_strength_stage_1": first, "distilled_lora_strength_stage_2": second}
    return {**_two_stage_files(f), **strengths}


def _ic_lora_files(f: Files) -> dict[str, Any]:
    """The in-context LoRA wants references of half the size, the other LoRA does not."""
    paths = _paths(f, "distilled_checkpoint_path", "spatial_upsampler_path")
    return {**paths, "loras": ([lora(f.ic_lora, 0.9)], [lora(f.lora, 0.5)])[f.variant]}


def _prompted(f: Files) -> dict[str, Any]:
    return {"prompt": PROMPTS[f.variant], "seed": SEEDS[f.variant] + seed(), "enhance_prompt": bool(f.variant)}


def _base(f: Files, **other: Any) -> dict[str, Any]:
    (height, width), frames, rate = SIZES[f.variant], FRAMES[f.variant], RATES[f.variant]
    size = {"height": height, "width": width, "num_frames": frames, "frame_rate": rate}
    return {**_prompted(f), **size, **other}


def _guided(f: Files, steps: tuple[int, int], **params: tuple[Obj, Obj]) -> dict[str, Any]:
    """Guidance and all that goes with it. params: of each stream, the two variants."""
    chosen = {f"{stream}_guider_params": pair[f.variant] for stream, pair in params.items()}
    return {"negative_prompt": NEGATIVES[f.variant], "num_inference_steps": steps[f.variant], **chosen}


# Where no second stage follows: guidance multiplies the rounding of bfloat16, and the reference would come within 1 dB
# of the gate against itself.
_GENTLE = {"stg_scale": 0.5, "modality_scale": 1.5}
_SECOND_ORDER = {"stg_scale": 0.0, "stg_blocks": []}
_OTHER = {"stg_scale": 0.7, "modality_scale": 1.3, "rescale_scale": 0.4}
# No guidance of its own: the other stream's passes are made for both.
_NEUTRAL = {"stg_scale": 0.0, "modality_scale": 1.0, "rescale_scale": 0.0, "stg_blocks": [0]}


_EVERYWHERE = {
    "device": "the CPU is the only one here",
    "quantization": "ours has it in its settings; the stage transformer_fp8 compares it",
    "settings": "ours only: how to run, not what to make",
    "gemma_root": "there is one folder, and without it no prompt is encoded",
}


def _pipeline(
    name: str,
    module: str,
    cls: str,
    init: Arguments,
    call: Arguments,
    without: str = "",
    on_ours: dict[str, Any] | None = None,
    settled: dict[str, str] | None = None,
    half: str = "tiny-2.0",
    tokens: int = Pipeline.tokens,
) -> Pipeline:
    watches = tuple(watch for watch in WATCHES if watch.name != without)
    reasons = _EVERYWHERE | (settled or {})
    return Pipeline(
        *(f"pipelines.{name}", module, cls, init, call, watches, CLASSES, on_ours or {}, reasons),
        half=half,
        tokens=tokens,
    )


def _tiled(f: Files) -> Obj | None:
    return (TILES[0], None)[f.variant]


def _tiled_the_other(f: Files) -> Obj | None:
    return (None, TILES[1])[f.variant]


def _ic_lora_call(f: Files) -> dict[str, Any]:
    """A reference shorter than the video; two of them, one longer, with a mask, and no second stage."""
    small, large = (str(f.clips[1]), 0.9), (str(f.clips[0]), 0.1)
    mask = (np.arange(9 * 96 * 64, dtype=np.float32) // 7 % 257 / 256).reshape(1, 1, 9, 96, 64)  # means are exact
    chosen = (
        {"video_conditioning": [small], "conditioning_attention_strength": 0.6, "images": both_ends(f), "width": 256},
        {
            "video_conditioning": [large, (str(f.clips[1]), 1.0)],
            "conditioning_attention_strength": 0.8,
            "conditioning_attention_mask": Data(mask, "none"),
            "skip_stage_2": True,
            "images": [],
        },
    )[f.variant]
    return _base(f, tiling_config=_tiled_the_other(f), **chosen)


def _a2vid_call(f: Files) -> dict[str, Any]:
    """Audio that is longer than the video."""
    start, longest = ((0.03, 0.7), (0.1, 0.35))[f.variant]
    audio = {"audio_path": str(f.audios[f.variant]), "audio_start_time": start, "audio_max_duration": longest}
    params = (guidance(3.0), guidance(0.0, **_NEUTRAL | {"rescale_scale": 1.0, "skip_step": 1}))
    shown = (both_ends(f), [])[f.variant]
    return _base(f, **_guided(f, (2, 3), video=params), **audio, images=shown, tiling_config=_tiled_the_other(f))


def _retake(f: Files, **other: Any) -> dict[str, Any]:
    start, end = ((0.05, 0.3), (0.0, 0.1))[f.variant]
    span = {"video_path": str(f.clips[f.variant]), "start_time": start, "end_time": end}
    return {**_prompted(f), **span, "tiling_config": (None, TILES[0])[f.variant], **other}


PIPELINES = (
    _pipeline(
        "distilled",
        "distilled",
        "DistilledPipeline",
        _distilled_files,
        lambda f: _base(f, images=(both_ends, barely)[f.variant](f), tiling_config=_tiled(f)),
        tokens=1024,  # as released
    ),
    _pipeline(
        "one_stage",
        "ti2vid_one_stage",
        "TI2VidOneStagePipeline",
        _one_stage_files,
        lambda f: _base(
            f,
            images=(both_ends(f), [])[f.variant],
            **_guided(
                f,
                (2, 3),
                video=(guidance(2.0, **_GENTLE), guidance(1.0, **_NEUTRAL | {"skip_step": 2})),
                audio=(guidance(3.0, **_GENTLE), guidance(1.0, **_NEUTRAL | {"modality_scale": 2.0, "skip_step": 1})),
            ),
        ),
        settled={"tiling_config": "ours only: the reference decodes in one piece"},
        half="tiny-2.3",
    ),
    _pipeline(
        "two_stages",
        "ti2vid_two_stages",
        "TI2VidTwoStagesPipeline",
        _two_stage_files,
        lambda f: _base(
            f,
            images=(both_ends, three)[f.variant](f),
            **_guided(
                f,
                (3, 2),
                video=(guidance(3.0), guidance(0.0, **_NEUTRAL | {"skip_step": 1})),
                audio=(
                    guidance(5.0, **_GENTLE | {"stg_scale": 0.8, "modality_scale": 2.0}, skip_step=1),
                    guidance(4.0, **_GENTLE, stg_blocks=[0], rescale_scale=0.0),
                ),
            ),
            tiling_config=_tiled(f),
        ),
        half="tiny-2.3",
    ),
    _pipeline(
        "two_stages_hq",
        "ti2vid_two_stages_hq",
        "TI2VidTwoStagesHQPipeline",
        _hq_files,
        lambda f: _base(
            f,
            images=(both_ends, barely)[f.variant](f),
            **_guided(
                f,
                (2, 3),
                video=(guidance(3.0, **_SECOND_ORDER, rescale_scale=0.45), guidance(2.0, **_GENTLE, skip_step=1)),
                audio=(guidance(7.0, **_SECOND_ORDER, rescale_scale=1.0), guidance(1.0, **_GENTLE, skip_step=2)),
            ),
            tiling_config=_tiled_the_other(f),
        ),
        on_ours={"noise_seed": -1},
        settled={
            "noise_seed": "ours only: the reference's is always −1, and so is ours here",
            "distilled_lora.strength": "each stage has one of its own",
        },
    ),
    _pipeline(
        "keyframe_interpolation",
        "keyframe_interpolation",
        "KeyframeInterpolationPipeline",
        _two_stage_files,
        lambda f: _base(
            f,
            images=(both_ends, three)[f.variant](f),
            **_guided(
                f,
                (2, 3),
                video=(guidance(3.0), guidance(2.0, **_GENTLE, stg_blocks=[0, 1], rescale_scale=0.3, skip_step=1)),
                audio=(guidance(5.0, **_GENTLE), guidance(1.0, **_NEUTRAL | {"skip_step": 2})),
            ),
            tiling_config=_tiled_the_other(f),
        ),
    ),
    _pipeline("ic_lora", "ic_lora", "ICLoraPipeline", _ic_lora_files, _ic_lora_call, half="tiny-2.3"),
    _pipeline(
        "a2vid_two_stage",
        "a2vid_two_stage",
        "A2VidPipelineTwoStage",
        _two_stage_files,
        _a2vid_call,
        without="audio_latent",  # which is given: the reference throws away what it has of it at the end
    ),
    _pipeline(
        "retake",
        "retake",
        "RetakePipeline",
        _one_stage_files,
        lambda f: _retake(
            f,
            **_guided(
                f,
                (2, 3),
                video=(guidance(2.0, **_GENTLE), guidance(1.5, **_OTHER, stg_blocks=[0], skip_step=1)),
                audio=(guidance(3.0, **_GENTLE), guidance(2.0, **_OTHER, stg_blocks=[0], skip_step=2)),
            ),
            regenerate_video=f.variant == 0,
            regenerate_audio=f.variant == 1,
        ),
        half="tiny-2.3",
    ),
    _pipeline(
        "retake_distilled",
        "retake",
        "RetakePipeline",
        lambda f: _one_stage_files(f) | ({"loras": []} if f.variant else {}),
        lambda f: _retake(
            f, distilled=True, start_time=(0.3, 0.15)[f.variant], end_time=(9.0, 0.2)[f.variant], regenerate_audio=True
        ),
    ),
)
